"""Subjects of the bus: ``cairn.v1.<publisher>.<resource>.<event>.<team>.<uid>``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

_PREFIX = "cairn.v1"
_TOKEN = re.compile(r"[a-z0-9-]{1,63}")

#: Stream of each publisher (a job has two), and the subjects that it holds. Those before are narrowed before
#: those behind are made: no two may hold the same.
STREAMS: Final = MappingProxyType(
    {
        "SCHEDULER": ("cairn.v1.scheduler.>",),
        "QUOTA": ("cairn.v1.quota.>",),
        "TRACKER": ("cairn.v1.tracker.>",),
        "JOB": ("cairn.v1.job.run.>",),
        "ATTEMPT": ("cairn.v1.job.attempt.>",),
    }
)
#: Streams of which nothing is thrown away: whoever publishes has no other copy once the bus has taken it.
KEPT: Final = frozenset({"JOB"})
#: Streams of which each subject keeps its last messages only, and how many: two of each rank of an attempt.
LAST: Final = MappingProxyType({"ATTEMPT": 2_000})
# The tracker's durable consumer of JOB, by which others see how far it is behind.
INGEST: Final = "tracker-ingest"


@dataclass(frozen=True, slots=True)
class Subject:
    """A subject, taken apart. `team` is ``-`` for facts about what has no team."""

    publisher: str
    resource: str
    event: str
    team: str
    uid: str

    def __str__(self) -> str:
        return f"{_PREFIX}.{self.publisher}.{self.resource}.{self.event}.{self.team}.{self.uid}"


def subject(publisher: str, resource: str, event: str, team: str, uid: str) -> str:
    """A subject to publish on. Raises ValueError where a part is not 1 to 63 of ``[a-z0-9-]``.

    An event with underscores (the name of a oneof's arm) is written with ``-``.
    """
    made = Subject(publisher, resource, event.replace("_", "-"), team, uid)
    _check(made)
    return str(made)


# A stream brings the same few subjects again and again.
@lru_cache(4096)
def parse(text: str) -> Subject:
    """A received subject, taken apart. Raises ValueError for what is not one of ours."""
    parts = text.split(".")
    if len(parts) != 7 or parts[:2] != ["cairn", "v1"]:
        raise ValueError(f"not a subject of Cairn: {text[:200]!r}")
    made = Subject(*parts[2:])
    _check(made)
    return made


def _check(made: Subject) -> None:
    for part in (made.publisher, made.resource, made.event, made.team, made.uid):
        if _TOKEN.fullmatch(part) is None:
            raise ValueError(f"{part[:80]!r} cannot be a part of a subject: 1 to 63 of a-z, 0-9 and -")
