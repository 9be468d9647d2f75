"""A job's life as one list: in its order, with causes and durations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cairn_scheduler.model import Attempt, AttemptState, Cause, Job, Spec, State
from cairn_scheduler.timeline import Entry, Kind, Step, timeline

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def job(state: State, *attempts: Attempt, reason: str = "", end: float | None = None) -> Job:
    return Job(
        uid="j",
        team="main",
        state=state,
        revision=1,
        creator="users/ada",
        create_time=START,
        update_time=START,
        spec=Spec("", "", "x"),
        reason=reason,
        attempts=attempts,
        end_time=None if end is None else at(end),
    )


def test_from_queued_to_finished_with_a_retry_between() -> None:
    attempts = (
        Attempt(
            "a", 1, AttemptState.FAILED, "skypilot", at(20), Cause.INFRA, None, 9,
            "Rank 0 was killed from outside in `run`: SIGKILL. Last lines:\n  step 3\n", at(40), at(60),
        ),
        Attempt("b", 2, AttemptState.SUCCEEDED, "skypilot", at(61), None, 0, 0, "", at(70), at(90), (1, 2)),
    )  # fmt: skip
    history = [
        Entry(at(1), "PENDING", "QuotaFull: team main has 0 GPUs left"),
        Entry(at(10), "PENDING", "PriorityBehind: 2 jobs go first"),
        Entry(at(19), "ADMITTED", "skypilot"),
        Entry(at(60), "RECOVERING", ""),
    ]
    # SkyPilot's clock is ahead: still before the attempt's end.
    steps = [Step("a", 1, at(22), "Slurm allocation 43"), Step("a", 2, at(65), "Setting up the runtime")]
    moments = timeline(job(State.SUCCEEDED, *attempts, end=90), history, steps)
    told = [
        (
            m.kind,
            (m.time - START).total_seconds(),
            m.end_time and (m.end_time - m.time).total_seconds(),
            m.attempt,
        )
        for m in moments
    ]
    assert told == [
        (Kind.SUBMITTED, 0, None, 0),
        (Kind.WAITING, 1, 9, 0),
        (Kind.WAITING, 10, 9, 0),
        (Kind.ADMITTED, 19, 1, 0),
        (Kind.LAUNCHING, 20, 20, 1),
        (Kind.PROVISIONING, 22, None, 1),
        (Kind.RUNNING, 40, 20, 1),
        (Kind.ATTEMPT_ENDED, 60, None, 1),
        (Kind.RECOVERING, 60, 1, 0),
        (Kind.PROVISIONING, 60, None, 1),
        (Kind.LAUNCHING, 61, 9, 2),
        (Kind.RUNNING, 70, 20, 2),
        (Kind.ATTEMPT_ENDED, 90, None, 2),
        (Kind.FINISHED, 90, None, 0),
    ]
    end = moments[7]
    assert (end.cause, end.state, end.last_lines) == (Cause.INFRA, State.FAILED, ("  step 3",))
    assert end.text == "Rank 0 was killed from outside in `run`: SIGKILL."
    assert moments[0].text == "by ada"
    assert moments[11].text == "2 ranks"


def test_what_is_not_over_has_no_end() -> None:
    (submitted, waiting) = timeline(job(State.PENDING, reason="NotEvaluated: a moment"), [], [])
    assert (submitted.kind, waiting.kind, waiting.text) == (
        Kind.SUBMITTED,
        Kind.WAITING,
        "NotEvaluated: a moment",
    )
    assert waiting.end_time is None


def test_a_stop_is_told_with_who_asked_for_it() -> None:
    attempt = Attempt(
        "a", 1, AttemptState.CANCELLED, "local", at(1), Cause.CANCELLED, None, 15,
        "It was stopped on request.", at(2), at(9),
    )  # fmt: skip
    history = [Entry(at(1), "ADMITTED", "local"), Entry(at(8), "STOPPING", "by ada")]
    moments = timeline(job(State.CANCELLED, attempt, end=9), history, [])
    assert [(m.kind, m.text) for m in moments[-3:]] == [
        (Kind.STOPPING, "by ada"),
        (Kind.ATTEMPT_ENDED, "It was stopped on request."),
        (Kind.FINISHED, ""),
    ]
    running = next(m for m in moments if m.kind is Kind.RUNNING)
    assert running.end_time == at(9)
