"""What jobs tell of what is held and was used, pure: what did an attempt use, which holds end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cairn_quota.model import (
    JobPhase,
    JobView,
    Reservation,
    ReservationState,
    UsageEntry,
)

ADMISSION_TIME = timedelta(seconds=60)
"""How long after it was last asked for a hold may wait for its job to be admitted."""


def metered(job: JobView) -> list[UsageEntry]:
    """One entry for each attempt of the job that has started and ended; a clock that went back counts 0."""
    entries = []
    for attempt in job.attempts:
        if attempt.start_time is None or attempt.end_time is None:
            continue
        end = max(attempt.start_time, attempt.end_time)
        millis = (end - attempt.start_time) // timedelta(milliseconds=1)
        entries.append(
            UsageEntry(
                attempt_uid=attempt.uid,
                team=job.team,
                job_uid=job.uid,
                creator=job.creator,
                start_time=attempt.start_time,
                end_time=end,
                gpu_millis=job.gpus * millis,
                cpu_micros=job.cpu_milli * millis,
            )
        )
    return entries


def is_over(reservation: Reservation, job: JobView) -> bool:
    """Whether this version of the job shows that the reservation's admission has passed.

    A queued job may have its next admission's reservation already (asked for, not yet admitted): that one
    is left alone.
    """
    if job.phase is JobPhase.FINAL:
        return True
    if job.phase is JobPhase.QUEUED:
        return reservation.admission <= job.admissions
    return reservation.admission < job.admissions


def is_abandoned(reservation: Reservation, job: JobView | None, *, now: datetime) -> bool:
    """Whether nobody will come back for this hold: its job is gone (None), or never was admitted with it."""
    if reservation.state is not ReservationState.HELD or now - reservation.ask_time < ADMISSION_TIME:
        return False
    if job is None:
        return True
    return not (job.phase is JobPhase.PLACED and reservation.admission == job.admissions)


def settle(
    job: JobView, *, reservations: Sequence[Reservation], entries: Sequence[UsageEntry], now: datetime
) -> list[Reservation]:
    """The job's reservations that change, in their new state.

    A hold whose admission has passed ends: SETTLED where an attempt of it was metered, RELEASED otherwise.
    One that was released before its attempt was metered becomes SETTLED after the fact.
    """
    used = _used(reservations, entries)
    changed = []
    for reservation in reservations:
        if reservation.state is ReservationState.HELD and is_over(reservation, job):
            changed.append(ended(reservation, used=reservation.uid in used, now=now))
        elif reservation.state is ReservationState.RELEASED and reservation.uid in used:
            changed.append(replace(reservation, state=ReservationState.SETTLED))
    return changed


def ended(reservation: Reservation, *, used: bool, now: datetime) -> Reservation:
    """The reservation after its end."""
    state = ReservationState.SETTLED if used else ReservationState.RELEASED
    return replace(reservation, state=state, end_time=now)


def is_used(
    reservation: Reservation, *, siblings: Sequence[Reservation], entries: Sequence[UsageEntry]
) -> bool:
    """Whether an attempt that ran under this reservation was metered; `siblings` are all of the job's."""
    return reservation.uid in _used(siblings, entries)


def _used(reservations: Sequence[Reservation], entries: Sequence[UsageEntry]) -> set[str]:
    """The uids of the reservations that a metered attempt ran under.

    An attempt knows no admission number: it belongs to the last reservation made before it started.
    Where none was (the clocks of two machines differ), to the first.
    """
    owners = (owner_of(entry.start_time, reservations) for entry in entries)
    return {owner.uid for owner in owners if owner is not None}


def owner_of(start: datetime, reservations: Sequence[Reservation]) -> Reservation | None:
    """The reservation, of all of a job's, that an attempt which began at `start` ran under."""
    ordered = sorted(reservations, key=lambda one: one.admission)
    before = [one for one in ordered if one.create_time <= start]
    return next(iter(before[-1:] or ordered[:1]), None)


def freed(before: Sequence[Reservation], after: Sequence[Reservation]) -> list[Reservation]:
    """The holds that the changes end, as they were before."""
    still = {one.uid for one in after if one.state is ReservationState.HELD}
    changed = {one.uid for one in after} - still
    return [one for one in before if one.state is ReservationState.HELD and one.uid in changed]
