"""Judges a run by what happened at the place where jobs ran, and by what is written down: is all of it right?

Three sources that know nothing of each other are compared: the place's own journal, the scheduler's tables,
and quota's.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn_common.db import Database
from tests.bench.cluster.timed import whole_lines


@dataclass(slots=True)
class Ran:
    """One attempt, as the place has it."""

    uid: str
    job: str
    team: str
    gpus: int
    start: float
    end: float
    stopped: bool = False


def attempts(journal: Path) -> list[Ran]:
    """All that ever ran."""
    found: dict[str, Ran] = {}
    for line in whole_lines(journal):
        one = json.loads(line)
        if one["word"] == "launch":
            if one["uid"] in found:
                raise AssertionError(f"the attempt {one['uid']} was launched twice")
            found[one["uid"]] = Ran(
                one["uid"], one["job"], one["team"], one["gpus"], one["start"], one["end"]
            )
        elif one["word"] == "end":
            found[one["uid"]].end, found[one["uid"]].stopped = one["end"], one["stopped"]
    return list(found.values())


def doubled(ran: Sequence[Ran]) -> int:
    """Jobs of which two attempts ran at once, or two ran to their end."""
    of_job: dict[str, list[Ran]] = defaultdict(list)
    for one in ran:
        of_job[one.job].append(one)
    bad = 0
    for mine in of_job.values():
        mine.sort(key=lambda one: one.start)
        overlap = any(first.end > second.start for first, second in itertools.pairwise(mine))
        bad += overlap or sum(not one.stopped for one in mine) > 1
    return bad


def most_used(ran: Sequence[Ran], *, group: Mapping[str, str]) -> dict[str, int]:
    """The most GPUs that each group of teams ever used at once."""
    steps: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for one in ran:
        steps[group[one.team]] += [(one.start, one.gpus), (one.end, -one.gpus)]
    most = {}
    for name, changes in steps.items():
        used = peak = 0
        # At the same moment what ends goes first.
        for _, change in sorted(changes):
            used += change
            peak = max(peak, used)
        most[name] = peak
    return most


def seconds_used(ran: Sequence[Ran]) -> float:
    """GPU-seconds, those of work that was lost included."""
    return sum(one.gpus * (one.end - one.start) for one in ran)


async def succeeded(scheduler: Database, *, besides: Sequence[str] = ()) -> int:
    """How many jobs of all but these teams have."""
    query = "SELECT count(*) FROM jobs WHERE state = 'SUCCEEDED' AND NOT team = ANY($1::text[])"
    return int(await scheduler.fetchval(query, list(besides)))


async def settled(quota: Database) -> dict[str, int]:
    """What quota still holds, and GPU-milliseconds by its ledger and by its usage."""
    held = await quota.fetchval("SELECT count(*) FROM reservations WHERE state = 1")
    teams = await quota.fetchval("SELECT coalesce(sum(held_gpus), 0)::bigint FROM limits")
    ledger = await quota.fetchval(
        "SELECT coalesce(sum(CASE kind WHEN 3 THEN amount ELSE -amount END), 0)::bigint FROM ledger_entries"
        " WHERE budget = '' AND unit = 1 AND kind IN (3, 5)"
    )
    usage = await quota.fetchval("SELECT coalesce(sum(gpu_millis), 0)::bigint FROM usage_entries")
    return {"held": held, "held_gpus": teams, "ledger_gpu_ms": ledger, "usage_gpu_ms": usage}


def lost(ran: Sequence[Ran]) -> float:
    """GPU-seconds of attempts that were stopped."""
    return sum(one.gpus * (one.end - one.start) for one in ran if one.stopped)
