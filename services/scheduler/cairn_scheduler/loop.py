"""The scheduler's loop: decides (`planner`), launches (`launching`), tends; `hearing` takes reports.

It wakes on facts (a call, a report, an event of the quota service, a due retry) and every 15 s in any case.
Steps of many jobs share a transaction, each guarded by its job's revision; whoever comes second reads again.
So it may die between any two lines: the next round, or the next process, finds what is left to do in the
database and in the clusters.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import NoReturn

import structlog

from cairn_common.cancellation import heed_cancellation
from cairn_common.errors import Unavailable
from cairn_scheduler import store
from cairn_scheduler.causes import Evidence
from cairn_scheduler.cluster import Cluster, Ended
from cairn_scheduler.hearing import Hearing
from cairn_scheduler.launching import Launching
from cairn_scheduler.model import AttemptState, State
from cairn_scheduler.outside import Outside
from cairn_scheduler.planner import REASON_SECONDS, Planner
from cairn_scheduler.store import ActiveAttempt
from cairn_scheduler.ways import Ways

log = structlog.get_logger(__name__)

RECONCILE_SECONDS = 15.0
# Between two rounds: what comes in a burst is looked at together, and when all are busy, less often.
_LEAST_REST, _MOST_REST = 0.02, 0.05
_LONGEST_REST = 0.5
_OVERTIME = timedelta(seconds=30)


class Loop:
    """See the module. `tidy` is set whenever an attempt may have something to clear away."""

    def __init__(self, outside: Outside) -> None:
        self._out = outside
        self._ways = Ways(outside.db)
        self._planner = Planner(
            db=outside.db,
            ways=self._ways,
            lead=outside.lead,
            quota=outside.quota,
            clusters=outside.clusters,
            clock=outside.clock,
            recent=outside.recent,
        )
        self._wake = asyncio.Event()
        # As many seconds as were spent on thinking are rested: callers are answered over a long queue, too.
        self._rest = 0.0
        self.tidy = asyncio.Event()
        self._hearing = Hearing(outside, wake=self.wake, tidy=self.tidy.set)
        self._launching = Launching(
            outside, self._ways, ended=lambda end: self._hearing.insist([end]), wake=self.wake
        )
        self._look_at_all = 0.0

    def wake(self) -> None:
        """Something has changed: look again now."""
        self._wake.set()

    async def run(self) -> None:
        """Decides and launches for ever, each at its own pace."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._launching.run())
            tasks.create_task(self._rounds())

    async def _rounds(self) -> NoReturn:
        """Rounds for ever. What is away (database, quota service) is waited for."""
        failures = 0
        while True:
            heed_cancellation()
            self._wake.clear()
            try:
                pause = await self.round()
                failures = 0
            except Unavailable as error:
                failures += 1
                pause = min(0.1 * 2**failures, 5.0) * random.uniform(0.5, 1.0)  # noqa: S311
                log.warning("loop.waiting", reason=str(error.reason), error=error.message)
                await asyncio.sleep(pause)
                continue
            await asyncio.sleep(self._rest)
            try:
                async with asyncio.timeout(max(pause - self._rest, 0.0)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def listen(self, clusters: Sequence[Cluster]) -> None:
        """Takes the clusters' reports for ever, each until it is written down."""
        async with asyncio.TaskGroup() as tasks:
            for cluster in clusters:
                tasks.create_task(self._hearing.listen(cluster))
            tasks.create_task(self._hearing.run())

    async def round(self) -> float:
        """One round; returns after how many seconds the next one is due in any case."""
        began = time.monotonic()
        await self._tend()
        outcome = await self._planner.decide()
        took = min(max(time.monotonic() - began, _LEAST_REST), _MOST_REST)
        self._rest = min(max(outcome.thought, took), _LONGEST_REST)
        self._launching.offer(outcome.due)
        most = REASON_SECONDS if outcome.again else RECONCILE_SECONDS
        if outcome.wake_at is None:
            return most
        left = (outcome.wake_at - self._out.clock.now()).total_seconds()
        return min(max(left, 0.0), most)

    async def _tend(self) -> None:
        """Looks after the active attempts: starts those that never began, stops those that shall end."""
        await self._out.lead.check()
        # What runs and shall go on running is looked at less often.
        whole = time.monotonic() >= self._look_at_all
        if whole:
            self._look_at_all = time.monotonic() + RECONCILE_SECONDS
        elif self._planner.idle:
            return
        overdue = self._out.clock.now() - _OVERTIME
        active = await store.active_attempts(self._out.db, whole=whole, overdue=overdue)
        if not active:
            return
        # Those of them that come to their place just now are in one or the other.
        under_way = set(self._launching.under_way)
        known = {name: set(await cluster.list()) for name, cluster in self._out.clusters.items()}
        missing = []
        for one in active:
            cluster = self._out.clusters.get(one.cluster)
            if cluster is None:
                continue
            if one.uid in under_way:
                continue
            if one.uid not in known[one.cluster]:
                missing.append(one)
            elif one.job_state is State.PREEMPTING and one.cancel_time is None:
                await cluster.stop(one.uid, notice="preempted")
            elif one.cancel_time is not None or self._overdue(one):
                await cluster.stop(one.uid)
        if missing:
            await self._missing(missing)

    async def _missing(self, missing: Sequence[ActiveAttempt]) -> None:
        """Attempts that their cluster does not know: never started there, or their traces are gone."""
        begin = [one for one in missing if _never_began(one)]
        jobs = await store.jobs_by_uid(self._out.db, [one.job_uid for one in begin])
        uids = {one.uid for one in begin}
        await self._launching.start(
            [job for job in jobs.values() if job.active is not None and job.active.uid in uids]
        )
        end = self._out.clock.now().timestamp()
        lost = [Ended(one.uid, Evidence(lost=True, end_time=end)) for one in missing if one.uid not in uids]
        await self._hearing.insist(lost)

    def _overdue(self, one: ActiveAttempt) -> bool:
        """The runner itself holds max_runtime; this is for one that does not."""
        if one.max_runtime is None or one.start_time is None:
            return False
        end = one.start_time + timedelta(seconds=one.max_runtime + one.grace) + _OVERTIME
        return self._out.clock.now() > end


def _never_began(one: ActiveAttempt) -> bool:
    return (
        one.state is AttemptState.LAUNCHING and one.job_state is State.LAUNCHING and one.cancel_time is None
    )
