"""Takes what the places report, and writes it down: what comes while a transaction is under way shares the
next one. A report is tried again until it is written, or was known already: reports come at least once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import structlog

from cairn_common.cancellation import heed_cancellation
from cairn_common.errors import Unavailable
from cairn_scheduler import history, model, timeline, yielding
from cairn_scheduler.causes import Evidence, classify, retry_after, wait_for_room, within
from cairn_scheduler.cluster import Cluster, Ended, Priced, Started, Stepped
from cairn_scheduler.facts import Event
from cairn_scheduler.model import Attempt, AttemptState, Cause, Ending, Hold, Job, State
from cairn_scheduler.outside import Outside
from cairn_scheduler.steps import Step

log = structlog.get_logger(__name__)

Told = Started | Priced | Ended | Stepped
_BATCH = 256


class Hearing:
    """See the module. `wake`: something was written; `tidy`: an attempt may have something to clear away."""

    def __init__(self, outside: Outside, *, wake: Callable[[], None], tidy: Callable[[], None]) -> None:
        self._out = outside
        self._wake = wake
        self._tidy = tidy
        self._heard: list[Told] = []
        self._some = asyncio.Event()

    async def listen(self, cluster: Cluster) -> NoReturn:
        """Takes a cluster's reports for ever."""
        async for report in cluster.reports():
            if isinstance(report, Told):
                self._heard.append(report)
                self._some.set()
            else:
                self._tidy()
                self._wake()
        raise AssertionError("a cluster's reports have no end")

    async def run(self) -> NoReturn:
        """Writes down what was heard, for ever."""
        while True:
            heed_cancellation()
            await self._some.wait()
            self._some.clear()
            while self._heard:
                batch, self._heard = self._heard[:_BATCH], self._heard[_BATCH:]
                await self.insist(batch)
                self._tidy()
                self._wake()

    async def insist(self, reports: Sequence[Told]) -> None:
        """Writes reports down, waiting for the database, and reading again where a step came between."""
        pause = 0.1
        left = list(reports)
        while left:
            heed_cancellation()
            now, later = _apart(left)
            try:
                left = [*await self._write(now), *later]
            except Unavailable as error:
                log.warning("report.waiting", reports=len(left), error=error.message)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    async def _write(self, reports: Sequence[Told]) -> list[Told]:
        """One transaction, for one report of each attempt; returns those to be tried again."""
        jobs = await self._out.recent.of_attempts([report.attempt_uid for report in reports])
        taken: list[Step] = []
        said: list[tuple[Job, Attempt, Stepped]] = []
        for report in reports:
            job = jobs.get(report.attempt_uid)
            attempt = job.active if job is not None else None
            if job is None or attempt is None or attempt.uid != report.attempt_uid:
                # Known already.
                continue
            if isinstance(report, Started):
                if attempt.state is AttemptState.LAUNCHING:
                    taken.append(self._running(job, attempt, report))
            elif isinstance(report, Priced):
                if attempt.price != report.price:
                    priced = model.priced(job, self._out.clock.now(), report.price)
                    taken.append((job, priced, Event.PRICED))
            elif isinstance(report, Ended):
                taken.extend(self._ended(job, attempt, report.evidence))
            else:
                said.append((job, attempt, report))
        if not taken and not said:
            return []
        done = await self._save(taken, said)
        self._note([step for step in taken if step[1].uid in done])
        missed = {new.uid for _, new, _ in taken} - done
        return [report for report in reports if _of(report, jobs) in missed]

    async def _save(self, taken: Sequence[Step], said: Sequence[tuple[Job, Attempt, Stepped]]) -> set[str]:
        if not said:
            return await self._out.recent.save_alone(self._out.lead, taken)
        async with self._out.lead.transaction() as conn:
            done = await self._out.recent.save(conn, taken)
            for job, attempt, one in said:
                step = timeline.Step(attempt.uid, one.number, one.time, one.text)
                await history.add_step(conn, job, attempt, step)
        self._out.recent.note(taken, done)
        return done

    def _note(self, taken: Sequence[Step]) -> None:
        """What was written: logged, and the places that it frees are told with the next plan."""
        for old, new, event in taken:
            if event in (Event.RUNNING, Event.PRICED):
                log.info(f"job.{event}", job=new.uid)
                continue
            if not new.state.placed:
                self._out.quota.let_go(old.team, old.uid, old.admissions)
            last = new.attempts[-1]
            log.info(
                "attempt.ended",
                job=new.uid,
                attempt=last.uid,
                state=new.state,
                cause=last.cause,
                exit_code=last.exit_code,
                signal=last.signal,
            )

    def _running(self, job: Job, attempt: Attempt, report: Started) -> Step:
        now = self._out.clock.now()
        start = min(max(report.start_time, attempt.create_time), now)
        return job, model.run(job, now, start_time=start, pids=report.pids), Event.RUNNING

    def _ended(self, job: Job, attempt: Attempt, evidence: Evidence) -> list[Step]:
        now = self._out.clock.now()
        ending = classify(evidence, asked=_asked(job, attempt, evidence))
        ending = within(ending, begun=attempt.create_time, now=now)
        taken: list[Step] = []
        if attempt.state is AttemptState.LAUNCHING and (
            ending.start_time is not None or ending.cause is None
        ):
            # It was over before its beginning was heard of, which the word of its end need not give: what
            # ended well has run, if only for no time that is known.
            began = model.run(job, now, start_time=ending.start_time or ending.end_time, pids=())
            taken.append((job, began, Event.RUNNING))
            job = began
        return [*taken, (job, *self._after(job, ending))]

    def _after(self, job: Job, ending: Ending) -> tuple[Job, Event]:
        """The job's next version: another attempt by its cause, or the end."""
        now = self._out.clock.now()
        if ending.cause in yielding.YIELDS and job.state is State.PREEMPTING:
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
        return Cause.BUDGET if job.hold is Hold.BUDGET else Cause.PREEMPTED
    if job.spec.max_runtime is None or attempt.start_time is None:
        return None
    # Both by one clock, where the place has its own.
    ran = evidence.end_time - (evidence.start_time or attempt.start_time.timestamp())
    return Cause.TIMEOUT if ran >= job.spec.max_runtime else None


def _given_up(job: Job) -> tuple[Job, Event]:
    return job, Event.HELD if job.state is State.HELD else Event.PREEMPTED


def _apart(reports: Sequence[Told]) -> tuple[list[Told], list[Told]]:
    """The first report of each attempt, and what was told of it after that."""
    now: list[Told] = []
    later: list[Told] = []
    seen: set[str] = set()
    for report in reports:
        (later if report.attempt_uid in seen else now).append(report)
        seen.add(report.attempt_uid)
    return now, later


def _of(report: Told, jobs: Mapping[str, Job]) -> str:
    job = jobs.get(report.attempt_uid)
    return job.uid if job is not None else ""
