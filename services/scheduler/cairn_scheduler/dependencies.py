"""What a job waits for: other jobs, or all jobs of a sweep, that are to end before it. Pure.

Only what exists can be named, so nothing waits for itself. `JOB` is to succeed, `JOB:any` to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cairn_scheduler.model import Cause, Dependency, Hold, IllegalStep, Job, State, step

MOST = 100
_SHOWN = 3
_WHENS = {"ok": False, "any": True}


@dataclass(frozen=True, slots=True)
class Wish:
    """As it was written: an id, the beginning of one, or a name."""

    given: str
    any: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job, or the jobs of a sweep, have come. `failed`: one that has ended, and not well."""

    total: int
    open: int
    failed: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Fate:
    """What is to become of a job that waits for others."""

    free: bool = False
    # It never can: why, in words.
    hopeless: str = ""
    # Why it waits, in words.
    reason: str = ""


def wish(text: str) -> Wish:
    """Raises ValueError where it names nothing."""
    given, _, when = text.rpartition(":")
    found = Wish(given.strip(), _WHENS[when]) if when in _WHENS else Wish(text.strip())
    if not found.given:
        raise ValueError("names no job")
    return found


def fate(after: Sequence[Dependency], progress: Mapping[str, Progress]) -> Fate:
    """Free once all have ended as they should; hopeless once one has not."""
    left = []
    for one in after:
        seen = progress.get(one.uid, Progress(0, 0))
        if not one.any and seen.failed:
            return Fate(hopeless=f"{_failed(one, seen)}, and was to succeed before this one starts")
        if seen.open or not seen.total:
            left.append((one, seen))
    if not left:
        return Fate(free=True)
    told = ", ".join(_wanted(one, seen) for one, seen in left[:_SHOWN])
    more = f", and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    return Fate(reason=f"DependencyWait: it starts once {told}{more}")


def waiting(job: Job, reason: str) -> Job:
    """A new job that is kept out of the queue until the others have ended."""
    return replace(job, state=State.HELD, hold=Hold.DEPENDENCY, reason=reason)


def free(job: Job, now: datetime) -> Job:
    """All have ended: into the queue."""
    return step(
        _held(job), State.PENDING, now, hold=None, reason="NotEvaluated: what it waited for has ended"
    )


def give_up(job: Job, now: datetime, *, why: str) -> Job:
    """One ended otherwise than it should: this one never starts."""
    told = f"Not started: {why}."
    return step(
        _held(job),
        State.CANCELLED,
        now,
        end_time=now,
        cause=Cause.CANCELLED,
        message=told,
        reason="",
        hold=None,
    )


def name(one: Dependency) -> str:
    """`job 0195ab12cd34 (train)`."""
    kind = "sweep" if one.sweep else "job"
    return f"{kind} {one.uid[:12]}{f' ({one.title})' if one.title else ''}"


def waits(job: Job) -> bool:
    """Whether it is held for others."""
    return job.hold is Hold.DEPENDENCY and job.state is State.HELD


def _held(job: Job) -> Job:
    if not waits(job):
        raise IllegalStep(f"job {job.uid} is {job.state}; it waits for no other")
    return job


def _failed(one: Dependency, seen: Progress) -> str:
    if one.sweep:
        return f"job {seen.failed[:12]} of {name(one)} ended as {seen.state}"
    return f"{name(one)} ended as {seen.state}"


def _wanted(one: Dependency, seen: Progress) -> str:
    if one.sweep:
        how = "have ended" if one.any else "have succeeded"
        return f"all {seen.total} jobs of {name(one)} {how} ({seen.open} to go)"
    return f"{name(one)} has {'ended' if one.any else 'succeeded'}"
