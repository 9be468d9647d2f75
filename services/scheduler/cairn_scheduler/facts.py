"""The facts that the scheduler tells: each goes to the outbox in the transaction that makes it true."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from cairn.scheduler.v1 import events_pb2, job_pb2
from cairn_common import outbox
from cairn_common.db import Connection
from cairn_common.ids import new_uid
from cairn_common.subjects import subject
from cairn_scheduler import wire
from cairn_scheduler.model import Job

SELF = "services/scheduler"


class Event(StrEnum):
    """What happened to a job: the subject's event, and the second half of the message's arm."""

    SUBMITTED = "submitted"
    ADMITTED = "admitted"
    LAUNCHING = "launching"
    RUNNING = "running"
    RECOVERING = "recovering"
    REQUEUED = "requeued"
    STOPPING = "stopping"
    HELD = "held"
    PREEMPTING = "preempting"
    PREEMPTED = "preempted"
    CHECKPOINTED = "checkpointed"
    PRICED = "priced"
    FINISHED = "finished"


async def tell_many(conn: Connection, told: Sequence[tuple[Job, Event]], *, actor: str) -> None:
    """As `tell`, for many jobs in one statement; each became so at its `update_time`."""
    await outbox.add_many(conn, [written(job, event, actor=actor) for job, event in told])


def written(
    job: Job, event: Event, *, actor: str, message: job_pb2.Job | None = None
) -> tuple[str, bytes, str]:
    """A fact as the outbox takes it; `message`: the job on the wire, where that was made before."""
    fact = _fact(message or wire.job_message(job), event, actor=actor, now=job.update_time)
    return subject("scheduler", "job", event, job.team, job.uid), fact.SerializeToString(), fact.id


async def tell(conn: Connection, job: Job, event: Event, *, actor: str, now: datetime) -> None:
    """job.<event>, with the whole job as it is now."""
    fact = _fact(wire.job_message(job), event, actor=actor, now=now)
    to = subject("scheduler", "job", event, job.team, job.uid)
    await outbox.add(conn, subject=to, payload=fact.SerializeToString(), id=fact.id)


def _fact(job: job_pb2.Job, event: Event, *, actor: str, now: datetime) -> events_pb2.SchedulerEvent:
    fact = events_pb2.SchedulerEvent(id=new_uid(), time=wire.timestamp(now), actor=actor)
    getattr(fact, f"job_{event}").job.CopyFrom(job)
    return fact
