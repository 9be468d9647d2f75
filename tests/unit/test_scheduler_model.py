"""The state machine of a job."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from importlib.resources import files

from hypothesis import given
from hypothesis import strategies as st

from cairn_scheduler import model
from cairn_scheduler.model import STEPS, AttemptState, Cause, Ending, IllegalStep, Job, Spec, State

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
        assert len(active) == (job.state in (State.LAUNCHING, State.RUNNING))
        assert (job.end_time is not None) == job.state.final
        assert (job.retry_time is not None) <= (job.state in (State.RECOVERING, State.PENDING))
        assert bool(job.pool) or not job.state.placed
        assert [attempt.number for attempt in job.attempts] == list(range(1, len(job.attempts) + 1))
        assert bool(job.reason) <= (job.state is State.PENDING)


def test_a_cancelled_job_whose_attempt_fails_is_cancelled() -> None:
    job = model.launch(model.admit(new_job(), START, admission=1, pool="local"), START, attempt_uid="a")
    asked = model.cancel(job, START)
    assert asked.state is State.LAUNCHING
    done = model.finish(asked, START, ending(Cause.CANCELLED, START))
    assert done.state is State.CANCELLED
    assert done.attempts[0].state is AttemptState.CANCELLED


def test_the_database_has_the_same_table_of_steps() -> None:
    sql = (files("cairn_scheduler") / "migrations" / "0001_init.sql").read_text()
    body = sql.partition("FUNCTION jobs_step")[2].partition("$$;")[0]
    told = set(re.findall(r"\('([A-Z_]+)', '([A-Z_]+)'\)", body))
    assert told == {(old.value, new.value) for old, many in STEPS.items() for new in many}
    body = sql.partition("FUNCTION attempts_step")[2].partition("$$;")[0]
    told = set(re.findall(r"\('([A-Z_]+)', '([A-Z_]+)'\)", body))
    assert told == {(old.value, new.value) for old, many in model.ATTEMPT_STEPS.items() for new in many}
