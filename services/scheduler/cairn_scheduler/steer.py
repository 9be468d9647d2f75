"""What people do to jobs that there are: cancel, hold, release, preempt. Each is one step of the job."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import structlog

from cairn_common.db import Database
from cairn_common.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Reason
from cairn_scheduler import history, store
from cairn_scheduler.facts import Event
from cairn_scheduler.model import Hold, IllegalStep, Job, State

log = structlog.get_logger(__name__)

_CONFLICTS = 10
_LONGEST_REASON = 500

# What a state that people bring about is told as; a version in the same state is told as STOPPING.
_EVENTS = {
    State.CANCELLED: Event.FINISHED,
    State.HELD: Event.HELD,
    State.PENDING: Event.REQUEUED,
    State.PREEMPTING: Event.PREEMPTING,
}


async def change(
    db: Database, *, team: str, uid: str, step: Callable[[Job], Job], actor: str
) -> tuple[Job, bool]:
    """Takes one step of a job and tells of it; also whether there was one to take.

    Raises NotFound (JOB_NOT_FOUND), FailedPrecondition (JOB_ENDED, STATE_INVALID) for an illegal one, and
    Aborted where others change the job all the time.
    """
    for tried in itertools.count():
        job = await found(db, team=team, uid=uid)
        try:
            new = step(job)
        except IllegalStep as error:
            reason = Reason.JOB_ENDED if job.state.final else Reason.STATE_INVALID
            raise FailedPrecondition(str(error), reason=reason, job=uid, state=job.state) from None
        if new is job:
            return job, False
        try:
            async with db.transaction() as conn:
                await store.save(conn, job, new, _event(job, new), actor=actor)
                if new.cancel_time != job.cancel_time and new.cancel_time is not None:
                    by = f"by {actor.rpartition('/')[2]}"
                    await history.note(conn, uid, state="STOPPING", text=by, now=new.cancel_time)
        except Aborted:
            if tried == _CONFLICTS:
                raise
            continue
        log.info("job.steered", job=uid, team=team, before=job.state, state=new.state, actor=actor)
        return new, True
    raise AssertionError("unreachable")


async def found(db: Database, *, team: str, uid: str) -> Job:
    """A job of a team. Raises NotFound (JOB_NOT_FOUND)."""
    job = await store.job(db, team=team, uid=uid)
    if job is None:
        raise NotFound(f"there is no job {uid} in team {team}", reason=Reason.JOB_NOT_FOUND, job=uid)
    return job


def releasable(job: Job, *, by_admin: bool) -> None:
    """Whether people may release a job. Raises IllegalStep."""
    if job.hold in (Hold.BUDGET, Hold.DEPENDENCY):
        raise IllegalStep(f"job {job.uid} is held by a {job.hold.lower()}: it goes on when that allows it")
    if job.hold is Hold.ADMIN and not by_admin:
        raise IllegalStep(f"job {job.uid} is held by an admin; an admin can release it")


def reason_of(text: str) -> str:
    """A reason that a caller gives. Raises InvalidArgument."""
    if len(text) > _LONGEST_REASON or any(ord(character) < 32 for character in text):
        raise InvalidArgument(
            f"reason: at most {_LONGEST_REASON} characters, and no control characters",
            reason=Reason.FIELD_INVALID,
            field="reason",
        )
    return text


def _event(old: Job, new: Job) -> Event:
    if new.cancel_time != old.cancel_time and new.state is not State.CANCELLED:
        return Event.STOPPING
    if new.state is State.PENDING and old.hold is None:
        return Event.PREEMPTED
    return _EVENTS[new.state]
