"""The SQL of deciding: what is open, and steps of many jobs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cairn_common.db import Connection, Database, Row
from cairn_scheduler import facts, store
from cairn_scheduler.facts import Event
from cairn_scheduler.model import Job, Resources, State
from cairn_scheduler.snapshot import Entry

_ENTRIES = """
    SELECT uid, team, creator, state, create_time, priority, project, priority_class, flavors, infra,
        num_nodes, cpu_milli, gpus, accelerator, memory_mib, max_runtime, grace, retry_time, overtaken,
        admissions, reason, pool, flavor, admit_time, checkpoint_time, preempted_for, preempt_time,
        start_time IS NOT NULL AS ran
    FROM jobs
"""


async def entries(db: Database) -> list[Entry]:
    """Every job that has not ended and is not held."""
    rows = await db.fetch(_ENTRIES + "WHERE end_time IS NULL AND state <> 'HELD'")
    return [_entry(row) for row in rows]


async def held(db: Database, uid: str) -> list[Entry]:
    """A job that is held, as if it waited in the queue; nothing where it is not."""
    rows = await db.fetch(_ENTRIES + "WHERE uid = $1 AND state = 'HELD'", uid)
    return [replace(_entry(row), held=row["reason"] or "Held") for row in rows]


async def save_many(conn: Connection, steps: Sequence[tuple[Job, Job, Event]]) -> set[str]:
    """Writes steps of many jobs that change no attempt, with their facts; returns the uids of those that
    were still as they were read. The others are left alone.
    """
    if not steps:
        return set()
    rows = await conn.fetch(
        """
        UPDATE jobs j SET state = n.state, revision = n.revision, reason = n.reason,
            admissions = n.admissions, pool = n.pool, update_time = n.update_time,
            retry_time = n.retry_time, flavor = n.flavor, admit_time = n.admit_time,
            preempted_for = n.preempted_for, preempt_time = n.preempt_time, hold = n.hold
        FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::integer[], $7::text[],
            $8::timestamptz[], $9::timestamptz[], $10::text[], $11::timestamptz[], $12::text[],
            $13::timestamptz[], $14::text[])
            AS n (uid, old, state, revision, reason, admissions, pool, update_time, retry_time, flavor,
                admit_time, preempted_for, preempt_time, hold)
        WHERE j.uid = n.uid AND j.revision = n.old
        RETURNING j.uid
        """,
        [new.uid for _, new, _ in steps],
        [old.revision for old, _, _ in steps],
        [new.state.value for _, new, _ in steps],
        [new.revision for _, new, _ in steps],
        [new.reason for _, new, _ in steps],
        [new.admissions for _, new, _ in steps],
        [new.pool for _, new, _ in steps],
        [new.update_time for _, new, _ in steps],
        [new.retry_time for _, new, _ in steps],
        [new.flavor for _, new, _ in steps],
        [new.admit_time for _, new, _ in steps],
        [new.preempted_for for _, new, _ in steps],
        [new.preempt_time for _, new, _ in steps],
        [new.hold or "" for _, new, _ in steps],
    )
    done = {row["uid"] for row in rows}
    await facts.tell_many(
        conn, [(new, event) for _, new, event in steps if new.uid in done], actor=facts.SELF
    )
    return done


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
