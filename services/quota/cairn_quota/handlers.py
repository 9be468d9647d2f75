"""What quota does when it hears of a job: meter its attempts, end what it no longer holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cairn.scheduler.v1 import events_pb2
from cairn_common import subjects
from cairn_common.bus import Message
from cairn_common.clock import Clock
from cairn_quota import wire
from cairn_quota.model import JobView
from cairn_quota.store import Store

ACTOR = "services/quota"


@dataclass(frozen=True, slots=True)
class Metering:
    """Hears the scheduler's events; any order, any number of times, the same result."""

    store: Store
    clock: Clock

    async def __call__(self, messages: Sequence[Message]) -> None:
        """One transaction for the batch. Raises ValueError or DecodeError for what is no event."""
        newest: dict[str, JobView] = {}
        for message in messages:
            job = read(message)
            if job is not None and (job.uid not in newest or job.revision > newest[job.uid].revision):
                newest[job.uid] = job
        if newest:
            await self.store.settle(list(newest.values()), actor=ACTOR, now=self.clock.now())


def read(message: Message) -> JobView | None:
    """The job in a scheduler's event; None for a kind of event that this release does not know.

    Raises ValueError where the subject and the job in it do not agree.
    """
    event = events_pb2.SchedulerEvent.FromString(message.data)
    arm = event.WhichOneof("event")
    if arm is None:
        return None
    job = wire.job_view(getattr(event, arm).job)
    subject = subjects.parse(message.subject)
    if (subject.team, subject.uid) != (job.team, job.uid):
        raise ValueError(
            f"the subject {message.subject} tells of another job than teams/{job.team}/jobs/{job.uid}"
        )
    return job
