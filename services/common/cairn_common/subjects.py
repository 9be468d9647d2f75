"""Subjects of the bus: ``cairn.v1.<publisher>.<resource>.<event>.<team>.<uid>``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

_PREFIX = "cairn.v1"
_TOKEN = re.compile(r"[a-z0-9-]{1,63}")

#: Stream of each publisher, and the subjects that it holds. What jobs log is apart: see `team_stream`.
STREAMS: Final = MappingProxyType(
    {
        "SCHEDULER": ("cairn.v1.scheduler.>",),
        "QUOTA": ("cairn.v1.quota.>",),
        "TRACKER": ("cairn.v1.tracker.>",),
        "ATTEMPT": ("cairn.v1.job.attempt.>",),
    }
)
#: What jobs log, of all teams. Each team has a stream of its own for it, so that one fills its own alone.
LOGGED: Final = "cairn.v1.job.run.>"
#: The one stream for all teams of earlier releases: what lies in it is still taken in.
RETIRED: Final = "JOB"
_OF_A_TEAM = "JOB-"
#: Streams of which each subject keeps its last messages only, and how many: two of each rank of an attempt.
LAST: Final = MappingProxyType({"ATTEMPT": 2_000})
# The tracker's durable consumer of what jobs log, by which others see how far it is behind.
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


def team_stream(team: str) -> str:
    """The stream of what a team's jobs log."""
    return _OF_A_TEAM + team


def team_subjects(team: str) -> tuple[str, ...]:
    """What that stream holds. Raises ValueError for what is no team's id."""
    if _TOKEN.fullmatch(team) is None:
        raise ValueError(f"{team[:80]!r} cannot be a part of a subject: 1 to 63 of a-z, 0-9 and -")
    return (f"cairn.v1.job.run.*.{team}.*",)


def team_of(stream: str) -> str:
    """Whose jobs log to a stream; empty where that is no team's."""
    return stream.removeprefix(_OF_A_TEAM) if stream.startswith(_OF_A_TEAM) else ""


def is_kept(stream: str) -> bool:
    """Whether nothing of a stream is thrown away: whoever publishes has no other copy once it was taken."""
    return stream == RETIRED or stream.startswith(_OF_A_TEAM)


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
