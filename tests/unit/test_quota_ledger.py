"""Properties of the ledger: whatever is asked and heard, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cairn_common.ids import new_uid
from cairn_quota import ledger
from cairn_quota.model import (
    Amounts,
    AttemptTimes,
    JobPhase,
    JobView,
    Reservation,
    ReservationState,
)

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
JOB = new_uid()


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def hold(admission: int, *, made: float = 0) -> Reservation:
    return Reservation(
        team="main",
        id=f"{JOB}-{admission}",
        uid=f"r{admission}",
        job_uid=JOB,
        admission=admission,
        amounts=Amounts(jobs=1),
        state=ReservationState.HELD,
        create_time=at(made),
        ask_time=at(made),
        end_time=None,
    )


def job(phase: JobPhase, *, admissions: int, attempts: tuple[AttemptTimes, ...] = ()) -> JobView:
    return JobView(
        team="main",
        uid=JOB,
        revision=1,
        phase=phase,
        admissions=admissions,
        creator="users/admin",
        gpus=2,
        cpu_milli=4000,
        attempts=attempts,
    )


def attempt(uid: str, start: float | None, end: float | None) -> AttemptTimes:
    return AttemptTimes(uid, None if start is None else at(start), None if end is None else at(end))


@given(st.integers(1, 5), st.sampled_from(JobPhase), st.integers(0, 5))
def test_the_next_admissions_hold_outlives_a_queued_job_and_nothing_outlives_the_end(
    admission: int, phase: JobPhase, admissions: int
) -> None:
    over = ledger.is_over(hold(admission), job(phase, admissions=admissions))
    if phase is JobPhase.FINAL:
        assert over
    elif phase is JobPhase.QUEUED:
        assert over == (admission <= admissions)
    else:
        assert over == (admission < admissions)


def test_each_ended_attempt_is_metered_once_in_whole_numbers() -> None:
    view = job(
        JobPhase.FINAL,
        admissions=1,
        attempts=(
            attempt("a", 0, 1.5),
            attempt("never-started", None, 3),
            attempt("runs", 4, None),
            attempt("clock-went-back", 9, 8),
        ),
    )
    entries = ledger.metered(view)
    assert [(one.attempt_uid, one.gpu_millis, one.cpu_micros) for one in entries] == [
        ("a", 3000, 6_000_000),
        ("clock-went-back", 0, 0),
    ]


def test_a_hold_settles_by_the_attempts_that_ran_under_it_alone() -> None:
    first, second, third = hold(1, made=0), hold(2, made=10), hold(3, made=20)
    view = job(JobPhase.FINAL, admissions=3, attempts=(attempt("a", 1, 2), attempt("c", 21, 22)))
    after = ledger.settle(view, reservations=[third, first, second], entries=ledger.metered(view), now=at(30))
    assert {one.id: one.state.name for one in after} == {
        f"{JOB}-1": "SETTLED",
        f"{JOB}-2": "RELEASED",
        f"{JOB}-3": "SETTLED",
    }
    assert ledger.freed([first, second, third], after) == [first, second, third]


def test_settling_twice_changes_nothing_and_frees_nothing_again() -> None:
    view = job(JobPhase.FINAL, admissions=1, attempts=(attempt("a", 1, 2),))
    entries = ledger.metered(view)
    once = ledger.settle(view, reservations=[hold(1)], entries=entries, now=at(3))
    assert ledger.settle(view, reservations=once, entries=entries, now=at(4)) == []


def test_released_before_its_attempt_was_metered_becomes_settled_and_frees_nothing() -> None:
    released = ledger.ended(hold(1), used=False, now=at(3))
    view = job(JobPhase.FINAL, admissions=1, attempts=(attempt("a", 1, 2),))
    after = ledger.settle(view, reservations=[released], entries=ledger.metered(view), now=at(4))
    assert [one.state for one in after] == [ReservationState.SETTLED]
    assert after[0].end_time == at(3)
    assert ledger.freed([released], after) == []


@given(st.floats(0, 59), st.sampled_from(JobPhase), st.integers(0, 3))
def test_a_young_hold_is_never_abandoned(age: float, phase: JobPhase, admissions: int) -> None:
    assert not ledger.is_abandoned(hold(1), job(phase, admissions=admissions), now=at(age))
    assert not ledger.is_abandoned(hold(1), None, now=at(age))


def test_an_old_hold_is_abandoned_unless_its_job_was_admitted_with_it() -> None:
    old = replace(hold(2), ask_time=at(-61))
    assert ledger.is_abandoned(old, None, now=at(0))
    assert ledger.is_abandoned(old, job(JobPhase.QUEUED, admissions=1), now=at(0))
    assert ledger.is_abandoned(old, job(JobPhase.PLACED, admissions=1), now=at(0))
    assert not ledger.is_abandoned(old, job(JobPhase.PLACED, admissions=2), now=at(0))
