"""What the scheduler's database refuses, whatever the code does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files

import asyncpg
import pytest

from cairn_common.db import Database, pool
from cairn_common.errors import Aborted
from cairn_common.ids import new_uid
from cairn_common.migrate import migrate
from cairn_scheduler import model, steps, store, yielding
from cairn_scheduler.arrivals import New, insert_jobs
from cairn_scheduler.facts import Event
from cairn_scheduler.lease import Fenced, Lead
from cairn_scheduler.model import STEPS, Cause, Ending, Hold, Job, Spec, State
from cairn_scheduler.store import Request

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def db(database_url: Callable[[str], str]) -> AsyncIterator[Database]:
    url = database_url("scheduler")
    await migrate(url, "scheduler", files("cairn_scheduler") / "migrations")
    async with pool(url, schema="scheduler", size=2) as made:
        yield made


async def queued(db: Database) -> Job:
    job = Job(
        uid=new_uid(), team="t", state=State.PENDING, revision=1, creator="users/u", create_time=NOW,
        update_time=NOW, spec=Spec(task="", setup="", run="x", envs={"A": "é"}, params={"A": "1"}),
        experiment="default",
    )  # fmt: skip
    async with db.transaction() as conn:
        assert await insert_jobs(conn, [New(job, Request(job.uid, b"d"), actor="users/u")]) == {job.uid}
    return job


async def leading(db: Database) -> Lead:
    return Lead(db, await db.fetchval("SELECT epoch FROM lease"))


async def test_a_job_is_read_back_as_it_was_written(db: Database) -> None:
    job = await queued(db)
    for step, event in (
        (lambda now: model.admit(now, NOW, admission=3, pool="local"), Event.ADMITTED),
        (lambda now: model.launch(now, NOW, attempt_uid=new_uid()), Event.LAUNCHING),
        (lambda now: model.run(now, NOW, start_time=NOW, pids=(1, 2)), Event.RUNNING),
        (lambda now: yielding.checkpointed(now, NOW, time=NOW), Event.CHECKPOINTED),
        (lambda now: yielding.hold(now, NOW, kind=Hold.ADMIN), Event.PREEMPTING),
        (lambda now: model.cancel(now, NOW), Event.STOPPING),
    ):
        new = step(job)
        async with db.transaction() as conn:
            await store.save(conn, job, new, event)
        job = new
        assert await store.job(db, team="t", uid=job.uid) == job
    told = await db.fetch("SELECT subject FROM outbox WHERE subject LIKE '%' || $1", job.uid)
    assert [row["subject"].split(".")[4] for row in told] == [
        "submitted", "admitted", "launching", "running", "checkpointed", "preempting", "stopping"
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["within a transaction", "at once", "one after the other"])
async def test_steps_of_many_jobs_are_written_together_each_as_one_revision_and_one_fact(
    db: Database, way: str
) -> None:
    jobs = [await queued(db) for _ in range(4)]
    stale = jobs[3]
    async with db.transaction() as conn:
        await store.save(conn, stale, model.cancel(stale, NOW), Event.FINISHED)
    ending = Ending(cause=Cause.OOM, message="m", exit_code=1, signal=0, start_time=NOW, end_time=NOW)
    taken, last = [], {}
    for job in jobs:
        # All the way in one go; the last of them was cancelled meanwhile.
        admitted = model.admit(job, NOW, admission=1, pool="local")
        circuits = ('a"b, {c}', "é")
        launched = model.launch(admitted, NOW, attempt_uid=new_uid(), circuits=circuits)
        running = model.run(launched, NOW, start_time=NOW, pids=(7, 8))
        ended = model.finish(running, NOW, ending)
        told = (Event.ADMITTED, Event.LAUNCHING, Event.RUNNING, Event.FINISHED)
        line = (job, admitted, launched, running, ended)
        taken += [(line[n], line[n + 1], told[n]) for n in range(4)]
        last[job.uid] = ended
    lead, done = await leading(db), {job.uid for job in jobs}
    tokens = {one.attempts[0].uid: "token" for one in last.values()}
    if way == "within a transaction":
        async with lead.transaction() as conn:
            done = await steps.save_many(conn, taken)
            await steps.set_tokens(conn, {last[uid].attempts[0].uid: "token" for uid in done})
    elif way == "at once":
        done = await steps.save_alone(lead, taken, tokens=tokens)
    else:
        for n in range(4):
            # As callers do: who missed a step has no next one.
            layer = [step for step in taken[n::4] if step[1].uid in done]
            done = await steps.save_alone(lead, layer, tokens=tokens)
    assert done == {job.uid for job in jobs[:3]}
    for job in jobs[:3]:
        assert await store.job(db, team="t", uid=job.uid) == last[job.uid]
        rows = await db.fetch("SELECT subject FROM outbox WHERE subject LIKE '%' || $1 ORDER BY seq", job.uid)
        assert [row["subject"].split(".")[4] for row in rows] == [
            "submitted", "admitted", "launching", "running", "finished"
        ]  # fmt: skip
    now = await store.job(db, team="t", uid=stale.uid)
    assert now is not None
    assert (now.state, now.attempts) == (State.CANCELLED, ())
    found = [one.token_uid for one in await store.open_attempts(db) if one.job_uid in done]
    assert found == ["token"] * 3


async def test_who_no_longer_decides_writes_no_step_and_tells_no_fact(db: Database) -> None:
    job, lead = await queued(db), await leading(db)
    await db.execute("UPDATE lease SET epoch = epoch + 1")
    launched = model.launch(model.admit(job, NOW, admission=1, pool="local"), NOW, attempt_uid=new_uid())
    with pytest.raises(Fenced):
        await steps.save_alone(lead, [(job, replace(launched, revision=2), Event.LAUNCHING)])
    assert await store.job(db, team="t", uid=job.uid) == job
    assert await db.fetchval("SELECT count(*) FROM outbox WHERE subject LIKE '%' || $1", job.uid) == 1


async def test_whoever_comes_second_changes_nothing(db: Database) -> None:
    job = await queued(db)
    async with db.transaction() as conn:
        await store.save(conn, job, model.cancel(job, NOW), Event.FINISHED)
    with pytest.raises(Aborted):
        async with db.transaction() as conn:
            await store.save(conn, job, model.admit(job, NOW, admission=1, pool="local"), Event.ADMITTED)
    now = await store.job(db, team="t", uid=job.uid)
    assert now is not None
    assert (now.state, now.revision) == (State.CANCELLED, 2)


async def test_every_step_that_the_model_does_not_have_is_refused(db: Database) -> None:
    job = await queued(db)
    for old in State:
        for new in State:
            if new is old:
                continue
            with_end = "now()" if new.final else "NULL"
            refused = False
            try:
                async with db.transaction() as conn:
                    await _force(conn, job.uid, old)
                    await conn.execute(
                        f"UPDATE jobs SET state = '{new}', revision = revision + 1, end_time = {with_end}"
                        " WHERE uid = $1",
                        job.uid,
                    )
                    raise _Undo
            except asyncpg.CheckViolationError:
                refused = True
            except _Undo:
                pass
            assert refused == (new not in STEPS[old]), (old, new)


async def test_a_job_has_one_active_attempt_at_most(db: Database) -> None:
    job = await queued(db)
    insert = (
        "INSERT INTO attempts (uid, job_uid, number, state, cluster, create_time)"
        " VALUES ($1, $2, $3, 'LAUNCHING', 'local', now())"
    )
    await db.execute(insert, new_uid(), job.uid, 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        await db.execute(insert, new_uid(), job.uid, 2)


class _Undo(Exception):
    """Rolls a transaction back."""


async def _force(conn: object, uid: str, state: State) -> None:
    """Puts a job into a state past the trigger, as only a test may."""
    end = "now()" if state.final else "NULL"
    execute = conn.execute  # type: ignore[attr-defined]
    await execute("ALTER TABLE jobs DISABLE TRIGGER jobs_step")
    await execute(
        f"UPDATE jobs SET state = '{state}', pool = 'local', admissions = 1, hold = 'USER', end_time = {end},"
        " retry_time = now() WHERE uid = $1",
        uid,
    )
    await execute("ALTER TABLE jobs ENABLE TRIGGER jobs_step")
