"""The facts that the scheduler tells: each goes to the outbox in the transaction that makes it true."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from cairn.scheduler.v1 import events_pb2
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
    FINISHED = "finished"


async def tell(conn: Connection, job: Job, event: Event, *, actor: str, now: datetime) -> None:
    """job.<event>, with the whole job as it is now."""
    fact = events_pb2.SchedulerEvent(id=new_uid(), time=wire.timestamp(now), actor=actor)
    getattr(fact, f"job_{event}").job.CopyFrom(wire.job_message(job))
    to = subject("scheduler", "job", event, job.team, job.uid)
    await outbox.add(conn, subject=to, payload=fact.SerializeToString(), id=fact.id)
