"""Live views of a team's jobs: what there is now, then the bus's facts as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from google.protobuf.message import DecodeError

from cairn.scheduler.v1 import events_pb2, scheduler_pb2
from cairn_common.bus import Bus, Message
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, Reason, Unavailable
from cairn_scheduler import store, wire
from cairn_scheduler.store import Filter

STREAM = "SCHEDULER"
_PAGE = 200


class Watch:
    """Set `bus` when there is one; without it nothing can be watched."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.bus: Bus | None = None

    async def jobs(
        self, *, team: str, uid: str, cursor: str
    ) -> AsyncIterator[scheduler_pb2.WatchJobsResponse]:
        """All changes since the cursor, or what there is now and then all changes; `uid` empty: every job.

        A cursor of facts that the bus no longer holds gives what there is now, again. Raises
        InvalidArgument (CURSOR_INVALID) and Unavailable.
        """
        bus = self.bus
        if bus is None:
            raise Unavailable("the bus does not answer", reason=Reason.BUS_UNAVAILABLE)
        # Taken first: what changes while the jobs are read comes again, and a later revision wins.
        last = await bus.last_sequence(STREAM)
        start = _sequence(cursor)
        if start is None or start > last:
            async for reply in self._now(team, uid, cursor=str(last)):
                yield reply
            start = last
        subject = f"cairn.v1.scheduler.job.*.{team}.{uid or '*'}"
        async with aclosing(
            bus.tail(stream=STREAM, subjects=[subject], start_sequence=start + 1)
        ) as messages:
            async for message in messages:
                change = _reply(message)
                if change is not None:
                    yield change

    async def _now(
        self, team: str, uid: str, *, cursor: str
    ) -> AsyncIterator[scheduler_pb2.WatchJobsResponse]:
        if uid:
            one = await store.job(self._db, team=team, uid=uid)
            if one is not None:
                yield scheduler_pb2.WatchJobsResponse(job=wire.job_message(one), cursor=cursor)
            return
        after = None
        while True:
            jobs = await store.list_jobs(self._db, Filter(team=team, after=after), limit=_PAGE)
            for job in jobs:
                yield scheduler_pb2.WatchJobsResponse(job=wire.job_message(job), cursor=cursor)
            if len(jobs) < _PAGE:
                return
            after = (jobs[-1].create_time, jobs[-1].uid)


def _sequence(cursor: str) -> int | None:
    if not cursor:
        return None
    if len(cursor) > 19 or not (cursor.isascii() and cursor.isdigit()):
        raise InvalidArgument(
            "cursor is not one that this call gave", reason=Reason.CURSOR_INVALID, field="cursor"
        )
    return int(cursor)


def _reply(message: Message) -> scheduler_pb2.WatchJobsResponse | None:
    """The change that a fact tells; None for what is no fact about a job."""
    fact = events_pb2.SchedulerEvent()
    try:
        fact.ParseFromString(message.data)
    except DecodeError:
        return None
    arm = fact.WhichOneof("event")
    if arm is None:
        return None
    return scheduler_pb2.WatchJobsResponse(
        job=getattr(fact, arm).job, cursor=str(message.sequence), event=arm.removeprefix("job_")
    )
