"""The state machine of a job."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from importlib.resources import files

from hypothesis import given
from hypothesis import strategies as st

from cairn_scheduler import model, yielding
from cairn_scheduler.model import STEPS, AttemptState, Cause, Ending, Hold, IllegalStep, Job, Spec, State

START = datetime(2026, 1, 1, tzinfo=UTC)


def new_job() -> Job:
    return Job(
        uid="j", team="t", state=State.PENDING, revision=1, creator="users/u", create_time=START,
        update_time=START, spec=Spec(task="", setup="", run="x"),
    )  # fmt: skip


def ending(cause: Cause | None, now: datetime) -> Ending:
    return Ending(cause, "", 0 if cause is None else 1, 0, None, now)


def steps(now: datetime, number: int) -> dict[str, object]:
    """Everything that may be done to a job."""
    later = now + timedelta(seconds=5)
    return {
        "admit": lambda job: model.admit(job, now, admission=number, pool="local"),
        "launch": lambda job: model.launch(job, now, attempt_uid=f"a{number}"),
        "run": lambda job: model.run(job, now, start_time=now, pids=(1,)),
        "succeed": lambda job: model.finish(job, now, ending(None, now)),
        "fail": lambda job: model.finish(job, now, ending(Cause.USER_ERROR, now)),
        "time out": lambda job: model.finish(job, now, ending(Cause.TIMEOUT, now)),
        "recover": lambda job: model.recover(job, now, ending(Cause.INFRA, now), retry_time=later),
        "requeue": lambda job: model.requeue(job, now, ending(Cause.LOST, now), retry_time=later),
        "cancel": lambda job: model.cancel(job, now),
        "preempt": lambda job: yielding.preempt(job, now, why="for others"),
        "give up": lambda job: yielding.preempted(job, now, ending(Cause.PREEMPTED, now)),
        "hold": lambda job: yielding.hold(job, now, kind=Hold.USER),
        "hold hard": lambda job: yielding.hold(job, now, kind=Hold.ADMIN, why="a move"),
        "release": lambda job: yielding.release(job, now),
        "save": lambda job: yielding.checkpointed(job, now, time=now),
    }


NAMES = sorted(steps(START, 1))


@given(st.lists(st.sampled_from(NAMES), max_size=30))
def test_every_history_keeps_to_the_table_and_its_invariants(history: list[str]) -> None:
    job = new_job()
    for number, name in enumerate(history, start=1):
        now = START + timedelta(seconds=number)
        try:
            new = steps(now, number)[name](job)  # type: ignore[operator]
        except IllegalStep:
            continue
        assert new is job or new.revision == job.revision + 1
        assert new.state is job.state or new.state in STEPS[job.state]
        job = new
        active = [attempt for attempt in job.attempts if attempt.state.active]
        assert len(active) == (job.state in (State.LAUNCHING, State.RUNNING, State.PREEMPTING))
        assert (job.end_time is not None) == job.state.final
        assert (job.retry_time is not None) <= (job.state in (State.RECOVERING, State.PENDING))
        assert bool(job.pool) or not job.state.placed
        assert [attempt.number for attempt in job.attempts] == list(range(1, len(job.attempts) + 1))
        assert bool(job.reason) <= (job.state in (State.PENDING, State.HELD, State.PREEMPTING))
        assert (job.state is State.HELD) <= (job.hold is not None)
        assert (job.hold is not None) <= (job.state in (State.HELD, State.PREEMPTING))


def test_a_cancelled_job_whose_attempt_fails_is_cancelled() -> None:
    job = model.launch(model.admit(new_job(), START, admission=1, pool="local"), START, attempt_uid="a")
    asked = model.cancel(job, START)
    assert asked.state is State.LAUNCHING
    done = model.finish(asked, START, ending(Cause.CANCELLED, START))
    assert done.state is State.CANCELLED
    assert done.attempts[0].state is AttemptState.CANCELLED


def test_the_database_has_the_same_table_of_steps() -> None:
    texts = [
        file.read_text() for file in sorted((files("cairn_scheduler") / "migrations").iterdir(), key=str)
    ]
    sql = next(text for text in reversed(texts) if "FUNCTION jobs_step()" in text)
    body = sql.partition("FUNCTION jobs_step")[2].partition("$$;")[0]
    told = set(re.findall(r"\('([A-Z_]+)', '([A-Z_]+)'\)", body))
    assert told == {(old.value, new.value) for old, many in STEPS.items() for new in many}
    sql = next(text for text in reversed(texts) if "FUNCTION attempts_step()" in text)
    body = sql.partition("FUNCTION attempts_step")[2].partition("$$;")[0]
    told = set(re.findall(r"\('([A-Z_]+)', '([A-Z_]+)'\)", body))
    assert told == {(old.value, new.value) for old, many in model.ATTEMPT_STEPS.items() for new in many}


def placed() -> Job:
    return model.admit(new_job(), START, admission=1, pool="local")


def running() -> Job:
    return model.run(model.launch(placed(), START, attempt_uid="a"), START, start_time=START, pids=(1,))


def test_a_preempted_job_waits_as_one_that_ran_before_and_its_attempt_counts_as_no_failure() -> None:
    job = yielding.preempt(running(), START, why="for job x")
    assert (job.state, job.reason) == (State.PREEMPTING, "Preempting: for job x")
    assert yielding.preempt(job, START, why="again") is job
    back = yielding.preempted(job, START, ending(Cause.PREEMPTED, START))
    assert (back.state, back.retry_time, back.pool, back.attempts[0].yielded) == (
        State.PENDING, START, "", True
    )  # fmt: skip


def test_what_does_not_run_yet_gives_its_place_up_at_once() -> None:
    job = yielding.preempt(placed(), START, why="for job x")
    assert (job.state, job.pool, job.retry_time) == (State.PENDING, "", None)


def test_a_running_job_that_is_held_is_held_once_its_attempt_has_ended() -> None:
    told = yielding.hold(running(), START, kind=Hold.USER, why="a move")
    assert told.reason == "Preempting: to be held by its team (a move)"
    assert (
        yielding.preempted(told, START, ending(Cause.PREEMPTED, START)).reason == "Held: by its team (a move)"
    )
    job = yielding.hold(running(), START, kind=Hold.USER)
    assert (job.state, job.hold) == (State.PREEMPTING, Hold.USER)
    held = yielding.preempted(job, START, ending(Cause.PREEMPTED, START))
    assert (held.state, held.reason) == (State.HELD, "Held: by its team")
    assert yielding.hold(held, START, kind=Hold.USER) is held
    harder = yielding.hold(held, START, kind=Hold.ADMIN, why="a move")
    assert (harder.hold, harder.reason) == (Hold.ADMIN, "Held: by an admin (a move)")
    back = yielding.release(harder, START)
    assert (back.state, back.hold, back.retry_time) == (State.PENDING, None, START)
    released = yielding.release(job, START)
    assert released.state is State.PREEMPTING
    assert yielding.preempted(released, START, ending(Cause.PREEMPTED, START)).state is State.PENDING
