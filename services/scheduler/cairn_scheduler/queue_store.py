"""The SQL of deciding: what is open, and what is remarked on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cairn_common.db import Connection, Database, Row
from cairn_scheduler import store
from cairn_scheduler.model import Resources, State
from cairn_scheduler.snapshot import Entry

_ENTRIES = """
    SELECT uid, team, creator, state, create_time, priority, project, priority_class, flavors, infra,
        num_nodes, cpu_milli, gpus, accelerator, memory_mib, max_runtime, grace, retry_time, overtaken,
        admissions, reason, pool, flavor, admit_time, checkpoint_time, preempted_for, preempt_time,
        start_time IS NOT NULL AS ran, hold
    FROM jobs
"""


async def entries(db: Database) -> list[Entry]:
    """Every job that has not ended and is not held, but by a budget."""
    rows = await db.fetch(_ENTRIES + "WHERE end_time IS NULL AND (state <> 'HELD' OR hold = 'BUDGET')")
    return [_entry(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Changed:
    """Jobs that are others than they were, and those that have gone from the queue and from their places."""

    entries: Sequence[Entry]
    gone: Sequence[str]
    # Whether any job is held for others, and whether any was tried at a place with circuits, of late.
    dependent: bool
    tried: bool


class Reader:
    """Reads the jobs that have not ended, and after that only those that were written since."""

    def __init__(self, db: Database) -> None:
        self._db = db
        # The transaction that last wrote each.
        self._marks: dict[str, int] = {}

    async def read(self, *, tried_after: datetime) -> Changed:
        """What has changed since the last time."""
        row = await self._db.fetchrow(
            "SELECT coalesce(array_agg(uid), '{}') AS uids,"
            " coalesce(array_agg(xmin::text::bigint), '{}') AS marks,"
            " EXISTS (SELECT FROM jobs WHERE state = 'HELD' AND hold = 'DEPENDENCY') AS dependent,"
            " EXISTS (SELECT FROM attempts WHERE circuits <> '{}' AND create_time > $1) AS tried"
            " FROM jobs WHERE end_time IS NULL AND (state <> 'HELD' OR hold = 'BUDGET')",
            tried_after,
        )
        assert row is not None
        there = dict(zip(row["uids"], row["marks"], strict=True))
        known = self._marks
        fresh = [uid for uid, mark in there.items() if known.get(uid) != mark]
        rows = await self._db.fetch(
            _ENTRIES.replace("SELECT uid", "SELECT xmin::text::bigint AS mark, uid", 1)
            + "WHERE uid = ANY($1::text[]) AND end_time IS NULL AND (state <> 'HELD' OR hold = 'BUDGET')",
            fresh,
        ) if fresh else []  # fmt: skip
        entries = [_entry(one) for one in rows]
        # Some may have gone in between.
        gone = known.keys() - there.keys() | (set(fresh) - {entry.uid for entry in entries})
        for uid in gone:
            known.pop(uid, None)
        known.update((one["uid"], one["mark"]) for one in rows)
        return Changed(entries, sorted(gone), dependent=row["dependent"], tried=row["tried"])


async def held(db: Database, uid: str) -> list[Entry]:
    """A job that is held, as if it waited in the queue; nothing where it is not."""
    rows = await db.fetch(_ENTRIES + "WHERE uid = $1 AND state = 'HELD'", uid)
    # By a budget: that is what the engine itself would say.
    return [
        replace(
            _entry(row), state=State.PENDING, held="" if row["hold"] == "BUDGET" else row["reason"] or "Held"
        )
        for row in rows
    ]


async def remember(conn: Connection, *, reasons: Mapping[str, str], overtaken: Mapping[str, int]) -> None:
    """Notes why jobs wait, and how often they were passed: remarks, which make no new revision."""
    if reasons:
        await store.explain(conn, reasons)
    if overtaken:
        await store.count_overtaken(conn, overtaken)


def _entry(row: Row) -> Entry:
    return Entry(
        uid=row["uid"],
        team=row["team"],
        creator=row["creator"],
        state=State(row["state"]),
        create_time=row["create_time"],
        priority=row["priority"],
        project=row["project"],
        priority_class=row["priority_class"],
        flavors=tuple(row["flavors"]),
        infra=row["infra"],
        num_nodes=row["num_nodes"],
        resources=Resources(row["cpu_milli"], row["gpus"], row["accelerator"], row["memory_mib"]),
        max_runtime=row["max_runtime"],
        grace=row["grace"],
        retry_time=row["retry_time"],
        overtaken=row["overtaken"],
        admissions=row["admissions"],
        ran=row["ran"],
        reason=row["reason"],
        pool=row["pool"],
        flavor=row["flavor"],
        admit_time=row["admit_time"],
        checkpoint_time=row["checkpoint_time"],
        preempted_for=row["preempted_for"],
        preempt_time=row["preempt_time"],
    )
