"""Jobs that give their place up, and jobs that are kept out of the queue: pure steps, as in `model`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from cairn_scheduler.model import Cause, Ending, Hold, IllegalStep, Job, State, ended, remark, step

_TO_BE = "to be held by "
_HOLDERS = {
    Hold.USER: "its team",
    Hold.ADMIN: "an admin",
    Hold.DEPENDENCY: "a job that it waits for",
    Hold.BUDGET: "a budget that is spent",
}

# Why an attempt ends that gives its place up: no failure of its own.
YIELDS = (Cause.PREEMPTED, Cause.BUDGET)
# What people say counts for more than what goes by itself.
_STRENGTH = (Hold.DEPENDENCY, Hold.BUDGET, Hold.USER, Hold.ADMIN)


def preempt(job: Job, now: datetime, *, why: str, by: str = "") -> Job:
    """Its place is taken: at once where nothing runs, else once its attempt has ended within its grace.

    `why` is told to people; `by` is the job that gets it. Raises IllegalStep where it holds no place, or is
    being stopped.
    """
    if job.state is State.PREEMPTING:
        return job
    if not job.state.placed:
        raise IllegalStep(f"job {job.uid} is {job.state}; it holds no place that could be taken")
    if job.cancel_time is not None:
        raise IllegalStep(f"job {job.uid} is being stopped already")
    if job.active is not None:
        return step(
            job, State.PREEMPTING, now, reason=f"Preempting: {why}", preempted_for=by, preempt_time=now
        )
    return _back(job, now, reason=f"Preempted: {why}")


def preempted(job: Job, now: datetime, ending: Ending) -> Job:
    """The attempt of a job in PREEMPTING has ended: HELD if that was asked for, else first of its class."""
    attempts = ended(job, replace(ending, yielded=ending.cause in YIELDS))
    if job.hold is not None:
        return step(
            job, State.HELD, now, attempts=attempts, cause=ending.cause, message=ending.message,
            pool="", preempted_for="", preempt_time=None,
            reason=_held(job),
        )  # fmt: skip
    return step(
        job, State.PENDING, now, attempts=attempts, cause=ending.cause, message=ending.message,
            pool="", preempted_for="", preempt_time=None,
        retry_time=now, reason=job.reason.replace("Preempting:", "Preempted:", 1),
    )  # fmt: skip


def _held(job: Job) -> str:
    """Why it is held, with the words that were given when it was asked for."""
    asked = job.reason.removeprefix(f"Preempting: {_TO_BE}")
    holder = "" if job.hold is None else _HOLDERS[job.hold]
    return f"Held: by {asked if asked.startswith(holder) else holder}"


def hold(job: Job, now: datetime, *, kind: Hold, why: str = "") -> Job:
    """Keeps it out of the queue; one that runs is preempted first. A stronger hold replaces a weaker one.

    Raises IllegalStep in a final state, or where it is being stopped.
    """
    if job.state.final or job.cancel_time is not None:
        raise IllegalStep(f"job {job.uid} {_over(job)}; it cannot be held")
    if job.hold is not None and _STRENGTH.index(job.hold) >= _STRENGTH.index(kind):
        return job
    told = f" ({why})" if why else ""
    reason = f"Held: by {_HOLDERS[kind]}{told}"
    if job.state is State.HELD:
        return remark(job, now, hold=kind, reason=reason)
    if job.state is State.PREEMPTING:
        return remark(job, now, hold=kind)
    if job.active is not None:
        return replace(preempt(job, now, why=f"{_TO_BE}{_HOLDERS[kind]}{told}"), hold=kind)
    return step(job, State.HELD, now, hold=kind, reason=reason, pool="", retry_time=None)


def release(job: Job, now: datetime) -> Job:
    """Back to the queue; one that was to run after others is looked at anew. Raises IllegalStep where nobody
    holds it."""
    if job.hold is None:
        raise IllegalStep(f"job {job.uid} is {job.state}; nobody holds it")
    if job.state is State.PREEMPTING:
        return remark(job, now, hold=None)
    if job.after and job.hold is not Hold.DEPENDENCY and not job.admissions:
        return remark(job, now, hold=Hold.DEPENDENCY, reason="DependencyWait: it was released just now")
    return _back(job, now, reason="NotEvaluated: it was released just now", hold=None)


def checkpointed(job: Job, now: datetime, *, time: datetime) -> Job:
    """A checkpoint of its active attempt was committed at `time`; an older one changes nothing."""
    if job.active is None or (job.checkpoint_time is not None and job.checkpoint_time >= time):
        return job
    return remark(job, now, checkpoint_time=time)


def _back(job: Job, now: datetime, **changes: object) -> Job:
    """To the queue without an ending; one that ran before is first of its class."""
    return step(job, State.PENDING, now, pool="", retry_time=now if job.attempts else None, **changes)


def _over(job: Job) -> str:
    return f"has ended as {job.state}" if job.state.final else "is being stopped"
