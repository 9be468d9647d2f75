"""Sees to it that nothing stays held for nothing, even where the bus lost an event.

Asks the scheduler each 30 s for the jobs that changed since the last time, of those that were ever admitted,
and for those of holds that nobody admitted a job with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Never

import structlog
from grpc import aio

from cairn.scheduler.v1 import job_pb2, scheduler_pb2, scheduler_pb2_grpc
from cairn_common.clock import Clock
from cairn_common.errors import DomainError, NotFound, ResourceExhausted, Unavailable, from_rpc_error
from cairn_quota import ledger, wire
from cairn_quota.handlers import ACTOR
from cairn_quota.model import JobView, Reservation
from cairn_quota.store import Store

EVERY = 30.0
LATE = timedelta(seconds=30)
"""Read again each time, before the newest change that was seen: one may commit later than its time says."""
OVERLAP = timedelta(minutes=2)
"""Where nothing changes, before now: the scheduler's clock is another one than ours."""
BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
PAGE = 100
HOLDS = 500
CALL_TIMEOUT = 10.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Compares quota's holds with the scheduler's jobs."""

    store: Store
    scheduler: scheduler_pb2_grpc.SchedulerServiceAsyncStub
    clock: Clock

    async def run(self) -> Never:
        """A round each 30 s. A neighbour that is away is asked again in the next round."""
        while True:
            try:
                await self.round()
            except Unavailable as error:
                log.info("reconcile.skipped", reason=str(error.reason))
            except DomainError as error:
                log.warning("reconcile.refused", reason=str(error.reason), error=error.message)
            await asyncio.sleep(EVERY)

    async def round(self) -> None:
        """Everything once. Raises Unavailable where the scheduler or the database is away."""
        await self._catch_up()
        await self._end_abandoned()

    async def _catch_up(self) -> None:
        begin = self.clock.now()
        since = await self.store.caught_up() or BEGINNING
        newest = since.timestamp()
        request = scheduler_pb2.ListJobsRequest(
            parent="teams/-", updated_after=wire.timestamp(since), admitted=True
        )
        async for page in self._pages(request):
            newest = max([newest, *(job.update_time.seconds for job in page)])
            missed = await self.store.missed(list(_views(page).values()))
            if missed:
                await self.store.settle(missed, actor=ACTOR, now=self.clock.now())
        seen = datetime.fromtimestamp(min(newest, begin.timestamp()), UTC)
        await self.store.set_caught_up(max(seen - LATE, begin - OVERLAP))

    async def _end_abandoned(self) -> None:
        before: str | None = None
        placed: dict[str, JobView] | None = None
        while holds := await self.store.reservations(None, held_only=True, before=before, size=HOLDS):
            before = holds[-1].uid
            now = self.clock.now()
            # A job that is not there says nothing against a young hold: nobody is asked about those.
            old = [hold for hold in holds if ledger.is_abandoned(hold, None, now=now)]
            if old and placed is None:
                placed = await self._placed()
            for hold in old:
                if ledger.is_abandoned(hold, (placed or {}).get(hold.job_uid), now=now):
                    await self._check(hold)

    async def _placed(self) -> dict[str, JobView]:
        request = scheduler_pb2.ListJobsRequest(parent="teams/-", states=wire.PLACED)
        placed: dict[str, JobView] = {}
        async for page in self._pages(request):
            placed |= _views(page)
        return placed

    async def _check(self, hold: Reservation) -> None:
        try:
            job = await self.scheduler.GetJob(
                scheduler_pb2.GetJobRequest(name=f"teams/{hold.team}/jobs/{hold.job_uid}"),
                timeout=CALL_TIMEOUT,
            )
        except aio.AioRpcError as error:
            problem = from_rpc_error(error)
            if not isinstance(problem, NotFound):
                raise problem from None
            view = None
        else:
            view = _views([job]).get(hold.job_uid)
            if view is None:
                return
        now = self.clock.now()
        if ledger.is_abandoned(hold, view, now=now) and await self.store.abandon(hold, actor=ACTOR, now=now):
            log.warning("reservation.abandoned", team=hold.team, reservation=hold.id)

    async def _pages(self, request: scheduler_pb2.ListJobsRequest) -> AsyncIterator[list[job_pb2.Job]]:
        size = PAGE
        while True:
            request.page_size = size
            try:
                answer = await self.scheduler.ListJobs(request, timeout=CALL_TIMEOUT)
            except aio.AioRpcError as error:
                problem = from_rpc_error(error)
                # Jobs carry their task files and diffs: a page may be too large for one message.
                if isinstance(problem, ResourceExhausted) and size > 1:
                    size = max(1, size // 4)
                    continue
                raise problem from None
            yield list(answer.jobs)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token


def _views(page: Sequence[job_pb2.Job]) -> dict[str, JobView]:
    """By uid; a job that makes no sense must not keep the others from being looked at."""
    views = {}
    for job in page:
        try:
            views[job.uid] = wire.job_view(job)
        except ValueError as error:
            log.error("reconcile.job_malformed", job=job.name, error=str(error))
    return views
