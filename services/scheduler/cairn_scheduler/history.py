"""What the database remembers of jobs beside their rows: SQL, beside the functions that run it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from cairn.scheduler.v1 import events_pb2
from cairn_common import outbox
from cairn_common.db import Connection, Database
from cairn_common.ids import new_uid
from cairn_common.subjects import subject
from cairn_scheduler import facts, wire
from cairn_scheduler.model import Attempt, Job
from cairn_scheduler.timeline import Entry, Step


async def entries(db: Database, job_uid: str) -> list[Entry]:
    """The states that a job was in, oldest first."""
    row = await db.fetchrow("SELECT history FROM jobs WHERE uid = $1", job_uid)
    found = [] if row is None else json.loads(row["history"])
    return [Entry(datetime.fromtimestamp(e["time"], UTC), e["state"], e["text"]) for e in found]


async def steps(db: Database, job_uid: str) -> list[Step]:
    """What the places said of a job's attempts."""
    rows = await db.fetch(
        """
        SELECT s.attempt_uid, s.number, s.time, s.text FROM attempt_steps s
        JOIN attempts a ON a.uid = s.attempt_uid WHERE a.job_uid = $1 ORDER BY s.attempt_uid, s.number
        """,
        job_uid,
    )
    return [Step(row["attempt_uid"], row["number"], row["time"], row["text"]) for row in rows]


async def note(conn: Connection, job_uid: str, *, state: str, text: str, now: datetime) -> None:
    """Remembers what no column of the job says."""
    entry = json.dumps([{"time": now.timestamp(), "state": state, "text": text[:300]}])
    await conn.execute("UPDATE jobs SET history = history || $2::jsonb WHERE uid = $1", job_uid, entry)


async def add_step(conn: Connection, job: Job, attempt: Attempt, step: Step) -> None:
    """Keeps a step, once, with the fact that becomes a line of the run's log."""
    tag = await conn.execute(
        "INSERT INTO attempt_steps (attempt_uid, number, time, text) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT DO NOTHING",
        step.attempt_uid, step.number, step.time, step.text,
    )  # fmt: skip
    if tag == "INSERT 0 0":
        return
    fact = events_pb2.SchedulerEvent(id=new_uid(), time=wire.timestamp(step.time), actor=facts.SELF)
    fact.attempt_stepped.job_uid = job.uid
    fact.attempt_stepped.attempt_uid = attempt.uid
    fact.attempt_stepped.attempt = attempt.number
    fact.attempt_stepped.number = step.number
    fact.attempt_stepped.text = step.text
    to = subject("scheduler", "attempt", "stepped", job.team, job.uid)
    await outbox.add(conn, subject=to, payload=fact.SerializeToString(), id=fact.id)
