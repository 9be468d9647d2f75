"""The scheduler's loop: decides (`planner`), launches, tends; and takes reports from clusters.

It wakes on facts (a call, a report, an event of the quota service, a due retry) and every 15 s in any case.
Each step is one transaction guarded by the job's revision; whoever comes second reads again. So it may die
between any two lines: the next round, or the next process, finds what is left to do in the database and in
the clusters.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import structlog

from cairn_common.cancellation import heed_cancellation
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import Aborted, DomainError, Unavailable
from cairn_common.ids import new_uid
from cairn_scheduler import dependency_store, history, model, store, vault, yielding
from cairn_scheduler.causes import Evidence, classify, retry_after, wait_for_room, within
from cairn_scheduler.cluster import Cluster, Ended, LaunchFailed, Order, Report, Started, Stepped
from cairn_scheduler.facts import Event
from cairn_scheduler.lease import Lead
from cairn_scheduler.model import Attempt, AttemptState, Cause, Ending, Job, State, pool_of
from cairn_scheduler.planner import REASON_SECONDS, Planner
from cairn_scheduler.quota import Quota
from cairn_scheduler.timeline import Step
from cairn_scheduler.vault import Sealed, Vault
from cairn_scheduler.ways import Ways

log = structlog.get_logger(__name__)

RECONCILE_SECONDS = 15.0
# A round that launches more than this comes back at once: what else happens must not wait for it.
_LAUNCHES_A_ROUND = 16
_LONGEST_REST = 0.5
_OVERTIME = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Outside:
    """What the loop works with."""

    db: Database
    # Every write of the loop goes through it.
    lead: Lead
    quota: Quota
    clusters: Mapping[str, Cluster]
    clock: Clock
    vault: Vault


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
        )
        self._wake = asyncio.Event()
        # As many seconds as a decision took are rested: callers are answered over a long queue, too.
        self._rest = 0.0
        self.tidy = asyncio.Event()

    def wake(self) -> None:
        """Something has changed: look again now."""
        self._wake.set()

    async def run(self) -> NoReturn:
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

    async def listen(self, cluster: Cluster) -> NoReturn:
        """Takes a cluster's reports for ever, each until it is written down."""
        async for report in cluster.reports():
            if isinstance(report, Started | Ended | Stepped):
                await self._insist(report)
            if isinstance(report, Stepped):
                continue
            self.tidy.set()
            self.wake()
        raise AssertionError("a cluster's reports have no end")

    async def round(self) -> float:
        """One round; returns after how many seconds the next one is due in any case."""
        await self._tend()
        while await dependency_store.settle(self._out.db, self._out.lead, now=self._out.clock.now()):
            heed_cancellation()
        began = time.monotonic()
        outcome = await self._planner.decide()
        self._rest = min(time.monotonic() - began, _LONGEST_REST)
        due = outcome.due[:_LAUNCHES_A_ROUND]
        jobs = await store.jobs_by_uid(self._out.db, due) if due else {}
        for uid in due:
            if uid in jobs and jobs[uid].state in (State.ADMITTED, State.RECOVERING):
                await self._launch(jobs[uid])
        if len(outcome.due) > len(due):
            return 0.0
        most = REASON_SECONDS if outcome.again else RECONCILE_SECONDS
        if outcome.wake_at is None:
            return most
        left = (outcome.wake_at - self._out.clock.now()).total_seconds()
        return min(max(left, 0.0), most)

    async def _tend(self) -> None:
        """Looks after the active attempts: starts those that never began, stops those that shall end."""
        await self._out.lead.check()
        running = await store.jobs_running(self._out.db)
        known = {name: set(await cluster.list()) for name, cluster in self._out.clusters.items()}
        for job in running:
            attempt = job.active
            if attempt is None or attempt.cluster not in self._out.clusters:
                continue
            cluster = self._out.clusters[attempt.cluster]
            if attempt.uid not in known[attempt.cluster]:
                await self._missing(job, attempt, cluster)
            elif job.state is State.PREEMPTING and job.cancel_time is None:
                await cluster.stop(attempt.uid, notice="preempted")
            elif job.cancel_time is not None or self._overdue(job, attempt):
                await cluster.stop(attempt.uid)

    async def _missing(self, job: Job, attempt: Attempt, cluster: Cluster) -> None:
        """The cluster does not know an attempt: it was never started there, or its traces are gone."""
        if attempt.state is AttemptState.LAUNCHING and job.state is State.LAUNCHING and not job.cancel_time:
            await self._start(job, attempt, cluster)
            return
        end = self._out.clock.now().timestamp()
        await self._insist(Ended(attempt.uid, Evidence(lost=True, end_time=end)))

    def _overdue(self, job: Job, attempt: Attempt) -> bool:
        """The runner itself holds max_runtime; this is for one that does not."""
        if job.spec.max_runtime is None or attempt.start_time is None:
            return False
        end = attempt.start_time + timedelta(seconds=job.spec.max_runtime + job.spec.grace) + _OVERTIME
        return self._out.clock.now() > end

    async def _launch(self, job: Job) -> None:
        """Writes the intent to start another attempt, then starts it."""
        now = self._out.clock.now()
        ways = self._ways.of(job, now=now) if job.pool == pool_of("any") else ()
        new = model.launch(job, now, attempt_uid=new_uid(), circuits=ways)
        try:
            async with self._out.lead.transaction() as conn:
                await store.save(conn, job, new, Event.LAUNCHING)
        except Aborted:
            self.wake()
            return
        attempt = new.active
        assert attempt is not None
        log.info("job.launching", job=job.uid, attempt=attempt.uid, number=attempt.number)
        await self._start(new, attempt, self._out.clusters[attempt.cluster])

    async def _start(self, job: Job, attempt: Attempt, cluster: Cluster) -> None:
        """Gives an attempt its token and starts it; done twice it starts once."""
        try:
            token = await self._out.quota.mint(
                team=job.team, run_uid=job.uid, attempt_uid=attempt.uid, request_id=attempt.uid
            )
        except Unavailable:
            raise
        except DomainError as error:
            # Not ours to cure; the attempt stays LAUNCHING and is looked at again with the next round.
            log.error(
                "attempt.token_refused", attempt=attempt.uid, reason=str(error.reason), error=error.message
            )
            return
        async with self._out.lead.transaction() as conn:
            await store.set_token(conn, attempt.uid, token.uid)
        try:
            secrets = await self._secrets(job)
        except Sealed as error:
            end = self._out.clock.now().timestamp()
            await self._insist(Ended(attempt.uid, Evidence(message=str(error), refused=True, end_time=end)))
            return
        order = Order(
            team=job.team,
            run_uid=job.uid,
            attempt_uid=attempt.uid,
            attempt=attempt.number,
            display_name=job.display_name,
            spec=job.spec,
            code=job.code,
            token=token.secret,
            creator=job.creator,
            circuits=attempt.circuits,
            secrets=secrets,
        )
        try:
            await self._out.lead.check()
            await cluster.launch(order)
        except LaunchFailed as error:
            log.warning("attempt.launch_failed", attempt=attempt.uid, error=str(error))
            end = self._out.clock.now().timestamp()
            await self._insist(Ended(attempt.uid, Evidence(message=str(error), end_time=end)))

    async def _secrets(self, job: Job) -> dict[str, str]:
        """Raises Sealed where they are not to be had."""
        if not job.spec.secrets:
            return {}
        sealed = await vault.kept(self._out.db, job.uid)
        if sealed is None:
            raise Sealed("Its secrets are not kept any more. Submit it again.")
        return self._out.vault.open(job.uid, sealed)

    async def _insist(self, report: Started | Ended | Stepped) -> None:
        """Writes a report down, waiting for the database, and reading again where a step came between."""
        pause = 0.1
        while True:
            heed_cancellation()
            try:
                await self._apply(report)
                return
            except Aborted:
                continue
            except Unavailable as error:
                log.warning("report.waiting", attempt=report.attempt_uid, error=error.message)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    async def _apply(self, report: Report) -> None:
        job = await store.job_of_attempt(self._out.db, report.attempt_uid)
        attempt = job.active if job is not None else None
        if job is None or attempt is None or attempt.uid != report.attempt_uid:
            # Known already: reports come at least once.
            return
        if isinstance(report, Started):
            if attempt.state is AttemptState.LAUNCHING:
                await self._running(job, report)
        elif isinstance(report, Stepped):
            step = Step(attempt.uid, report.number, report.time, report.text)
            async with self._out.lead.transaction() as conn:
                await history.add_step(conn, job, attempt, step)
        elif isinstance(report, Ended):
            await self._ended(job, attempt, report.evidence)

    async def _running(self, job: Job, report: Started) -> None:
        now, attempt = self._out.clock.now(), job.active
        assert attempt is not None
        start = min(max(report.start_time, attempt.create_time), now)
        new = model.run(job, now, start_time=start, pids=report.pids)
        async with self._out.lead.transaction() as conn:
            await store.save(conn, job, new, Event.RUNNING)
        log.info("job.running", job=job.uid, attempt=report.attempt_uid)

    async def _ended(self, job: Job, attempt: Attempt, evidence: Evidence) -> None:
        now = self._out.clock.now()
        ending = classify(evidence, asked=_asked(job, attempt, evidence))
        ending = within(ending, begun=attempt.create_time, now=now)
        async with self._out.lead.transaction() as conn:
            if attempt.state is AttemptState.LAUNCHING and ending.start_time is not None:
                # It was over before its beginning was heard of.
                began = model.run(job, now, start_time=ending.start_time, pids=())
                job = await store.save(conn, job, began, Event.RUNNING)
            new, event = self._after(job, ending)
            await store.save(conn, job, new, event)
        log.info(
            "attempt.ended",
            job=job.uid,
            attempt=attempt.uid,
            state=new.state,
            cause=ending.cause,
            exit_code=ending.exit_code,
            signal=ending.signal,
        )

    def _after(self, job: Job, ending: Ending) -> tuple[Job, Event]:
        """The job's next version: another attempt by its cause, or the end."""
        now = self._out.clock.now()
        if ending.cause is Cause.PREEMPTED and job.state is State.PREEMPTING:
            return _given_up(yielding.preempted(job, now, ending))
        rejections = sum(attempt.no_capacity for attempt in job.attempts)
        if ending.no_capacity:
            wait = wait_for_room(rejections + 1)
        else:
            tried = [a for a in job.attempts if not a.state.active and not a.no_capacity and not a.yielded]
            wait = retry_after(ending, spec=job.spec, attempts=tried)
        if job.cancel_time is not None or wait is None:
            return model.finish(job, now, ending), Event.FINISHED
        if job.state is State.PREEMPTING:
            # It failed before it was told: its place is taken all the same.
            return _given_up(yielding.preempted(job, now, ending))
        if ending.no_capacity and job.active is not None and job.active.circuits:
            # Its circuits say when it is tried again; others may take its place meanwhile.
            return model.requeue(job, now, ending, retry_time=now), Event.REQUEUED
        if wait <= model.LONGEST_HOLD:
            return model.recover(job, now, ending, retry_time=now + wait), Event.RECOVERING
        return model.requeue(job, now, ending, retry_time=now + wait), Event.REQUEUED


def _asked(job: Job, attempt: Attempt, evidence: Evidence) -> Cause | None:
    """Why the scheduler had told an attempt to stop, if it had: it follows from what is written down."""
    if job.cancel_time is not None:
        return Cause.CANCELLED
    if job.state is State.PREEMPTING and (evidence.stopped or evidence.lost):
        return Cause.PREEMPTED
    if job.spec.max_runtime is None or attempt.start_time is None:
        return None
    # Both by one clock, where the place has its own.
    ran = evidence.end_time - (evidence.start_time or attempt.start_time.timestamp())
    return Cause.TIMEOUT if ran >= job.spec.max_runtime else None


def _given_up(job: Job) -> tuple[Job, Event]:
    return job, Event.HELD if job.state is State.HELD else Event.PREEMPTED
