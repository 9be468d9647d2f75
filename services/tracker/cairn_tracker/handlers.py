"""What the tracker hears from its neighbours, and how it catches up with what it did not hear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

import structlog
from google.protobuf.message import DecodeError
from grpc import aio

from cairn.job.v1 import events_pb2 as job_events_pb2
from cairn.scheduler.v1 import events_pb2, job_pb2, scheduler_pb2, scheduler_pb2_grpc
from cairn_common import subjects
from cairn_common.bus import Message
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import DomainError, Unavailable, from_rpc_error
from cairn_common.ids import is_uid
from cairn_tracker import wire
from cairn_tracker.batch import Event, RunKey
from cairn_tracker.ingest import Ingest, announce
from cairn_tracker.model import DRAIN_GRACE
from cairn_tracker.origins import with_checkpoint
from cairn_tracker.store import blobs, keeping, runs

log = structlog.get_logger(__name__)

_RECONCILE_SECONDS: Final = 30.0
_CALL_SECONDS: Final = 10.0
_PAGE: Final = 500
_CURSOR: Final = "scheduler.jobs"
# A job's update_time is set before it commits, so one that changed earlier can appear later.
_OVERLAP: Final = timedelta(seconds=60)
_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


class JobEvents:
    """The handler of the scheduler's events: each carries its whole job, so only the latest counts."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Brings runs up to their jobs. Raises ValueError for what is no event of a job."""
        latest: dict[str, job_pb2.Job] = {}
        for message in messages:
            job = _job(message)
            known = latest.get(job.name)
            if known is None or known.revision < job.revision:
                latest[job.name] = job
        for job in latest.values():
            await follow(self._db, job, self._clock.now())


class Steps:
    """The handler of what places say on the way to machines: lines of the run's log."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    async def __call__(self, messages: Sequence[Message]) -> None:
        """Adds a line for each, once. Raises ValueError for what is no such event."""
        await self._ingest.add([_line(message) for message in messages])


def _line(message: Message) -> Event:
    """As an event of the run: the attempt is its writer, the step's number its place there."""
    try:
        event = events_pb2.SchedulerEvent.FromString(message.data)
    except DecodeError as error:
        raise ValueError(f"not a SchedulerEvent: {error}") from None
    step, team = event.attempt_stepped, subjects.parse(message.subject).team
    if not is_uid(step.attempt_uid) or not is_uid(step.job_uid) or step.number < 1:
        raise ValueError("attempt_stepped names no job, attempt or number")
    told = job_events_pb2.JobEvent(
        team=team, run_uid=step.job_uid, attempt_uid=step.attempt_uid, attempt=step.attempt,
        writer=step.attempt_uid, segment=1, start_offset=step.number, end_offset=step.number + 1,
    )  # fmt: skip
    # Without a number of its own: those belong to what the runner writes.
    told.lines_logged.lines.add(
        time=event.time.ToNanoseconds() / 1e9, stream=job_events_pb2.Line.STREAM_LAUNCH, text=step.text
    )
    return Event(RunKey(team, step.job_uid), message.time.timestamp(), told)


async def follow(db: Database, job: job_pb2.Job, now: datetime) -> bool:
    """Brings a run up to its job; whether that changed anything."""
    fact = wire.job_fact(job)
    async with db.transaction() as conn:
        # What is held in it is not collected in the same moment.
        await keeping.enter(conn, fact.team)
        fact = await with_checkpoint(conn, fact, now)
        # Also of a job that is known: the record of what it keeps may be younger than the job.
        await blobs.hold(conn, fact.team, fact.archives, holder=fact.uid)
        created = await runs.apply_job(conn, fact, now)
        if created is None:
            return False
        await announce(conn, RunKey(fact.team, fact.uid), created=created, now=now)
    return True


async def reconcile(
    *, db: Database, scheduler: aio.Channel | None, clock: Clock, seen: Callable[[datetime], None]
) -> NoReturn:
    """At once and then every 30 s: reads the jobs that changed, so that no event is needed for a run to be
    right in the end, and completes runs whose last word never came. `seen` is told up to when all jobs
    are known."""
    jobs = None if scheduler is None else scheduler_pb2_grpc.SchedulerServiceStub(scheduler)
    while True:
        try:
            began = clock.now()
            if jobs is not None:
                await catch_up(db, jobs, clock)
            seen(began)
            await complete_overdue(db, clock.now())
        except aio.AioRpcError as error:
            log.info("reconcile.waiting", error=from_rpc_error(error).message)
        except Unavailable as error:
            log.info("reconcile.waiting", error=error.message)
        except (DomainError, ValueError) as error:
            # The next round asks again; ending here would end the whole service.
            log.error("reconcile.failed", exc_info=error)
        await asyncio.sleep(_RECONCILE_SECONDS)


async def catch_up(db: Database, jobs: scheduler_pb2_grpc.SchedulerServiceAsyncStub, clock: Clock) -> None:
    """Follows every job that changed since the last time."""
    since = (await runs.cursor(db, _CURSOR) or _LONG_AGO) - _OVERLAP
    request = scheduler_pb2.ListJobsRequest(parent="teams/-", page_size=_PAGE)
    request.updated_after.FromDatetime(since)
    while True:
        page = await jobs.ListJobs(request, timeout=_CALL_SECONDS)
        for job in page.jobs:
            if await follow(db, job, clock.now()):
                log.info("reconcile.followed", run=job.uid, revision=job.revision)
        times = [time for job in page.jobs if (time := wire.moment(job, "update_time")) is not None]
        if times:
            await runs.move_cursor(db, _CURSOR, max(times))
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


async def complete_overdue(db: Database, now: datetime) -> None:
    """Completes runs that ended a while ago, whose last attempt never said its last word."""
    for key in await runs.incomplete(db, now - DRAIN_GRACE, limit=_PAGE):
        async with db.transaction() as conn:
            await runs.lock_runs(conn, [key])
            run = await runs.get_run(conn, key.team, key.uid, most_metrics=runs.MOST_SUMMARIES_IN_LISTS)
            if run is None or run.complete:
                continue
            await runs.complete(conn, key, now)
            await announce(conn, key, created=False, now=now)


def _job(message: Message) -> job_pb2.Job:
    try:
        event = events_pb2.SchedulerEvent.FromString(message.data)
    except DecodeError as error:
        raise ValueError(f"not a SchedulerEvent: {error}") from None
    arm = event.WhichOneof("event")
    if arm is None:
        raise ValueError("an event of a kind that is not known here")
    job: job_pb2.Job = getattr(event, arm).job
    return job
