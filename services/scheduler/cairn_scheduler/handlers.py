"""What the scheduler does when the quota service or the tracker tells something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog

from cairn.tracker.v1 import artifact_pb2
from cairn.tracker.v1 import events_pb2 as tracker_events
from cairn_common.bus import Bus, Message
from cairn_common.cancellation import heed_cancellation
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import Aborted
from cairn_common.subjects import STREAMS
from cairn_scheduler import store, yielding
from cairn_scheduler.facts import Event
from cairn_scheduler.lease import Lead

log = structlog.get_logger(__name__)

COMMITTED = ["cairn.v1.tracker.artifact.committed.>"]
SUBJECTS = [
    "cairn.v1.quota.reservation.ended.>",
    "cairn.v1.quota.team.updated.>",
    "cairn.v1.quota.tree.updated.>",
    "cairn.v1.quota.budget.>",
]


async def ensure_streams(bus: Bus) -> None:
    """Its own, and its neighbours': whoever comes first makes the same."""
    for name in ("SCHEDULER", "QUOTA", "TRACKER"):
        await bus.ensure_stream(name, STREAMS[name])
    # Whoever is cancelled here must not begin what has no end.
    heed_cancellation()


class QuotaFacts:
    """Room was made, or a limit changed: the loop looks again. It may do so twice without harm."""

    def __init__(self, *, wake: Callable[[], None]) -> None:
        self._wake = wake

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Whatever they say: it is read where it counts."""
        self._wake()


class Checkpoints:
    """When each job last saved what it could go on from: if its place is taken, only later work is lost."""

    def __init__(self, *, db: Database, lead: Lead, clock: Clock) -> None:
        self._db = db
        self._lead = lead
        self._clock = clock

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Raises google.protobuf's DecodeError for what is no TrackerEvent."""
        newest: dict[str, datetime] = {}
        for message in messages:
            event = tracker_events.TrackerEvent.FromString(message.data)
            version = event.artifact_committed.version
            if version.kind == artifact_pb2.ARTIFACT_KIND_CHECKPOINT and version.run:
                uid = version.run.rpartition("/")[2]
                time = version.create_time.ToDatetime(tzinfo=UTC)
                newest[uid] = max(time, newest.get(uid, time))
        if newest:
            await self._note(newest)

    async def _note(self, newest: dict[str, datetime]) -> None:
        for uid, job in (await store.jobs_by_uid(self._db, list(newest))).items():
            new = yielding.checkpointed(job, self._clock.now(), time=newest[uid])
            if new is job:
                continue
            try:
                async with self._lead.transaction() as conn:
                    await store.save(conn, job, new, Event.CHECKPOINTED)
            except Aborted:
                # Changed in this very moment: read again.
                await self._note({uid: newest[uid]})
