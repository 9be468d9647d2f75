"""The scheduler killed and started again while jobs run: nothing is lost, nothing runs twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from cairn_common.db import Database, pool
from cairn_common.ids import new_uid
from cairn_scheduler import processes, store
from cairn_scheduler.arrivals import New, insert_jobs
from cairn_scheduler.model import AttemptState, Job, Spec, State
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Process


@pytest.fixture
async def quotas(
    nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[quota.Quota]:
    async with quota.running(
        postgres_url=database_url("quota"), nats_url=nats_server.url, folder=tmp_path / "quota"
    ) as running:
        yield running


@pytest.fixture
async def db(
    quotas: quota.Quota, nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Database]:
    """The scheduler's database, migrated by a scheduler that has gone again."""
    where = {"postgres_url": database_url("scheduler"), "nats_url": nats_server.url}
    async with scheduler.running(quotas, folder=tmp_path / "other", **where):
        pass
    async with pool(where["postgres_url"], schema="scheduler", size=2) as made:
        yield made


@pytest.fixture
def process(
    quotas: quota.Quota, nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> Iterator[Process]:
    made = Process(
        quotas, postgres_url=database_url("scheduler"), nats_url=nats_server.url, folder=tmp_path / "data"
    )
    yield made
    made.kill()


async def queued(db: Database, run: str) -> Job:
    """A job as it is right after its submission."""
    now = await db.fetchval("SELECT now()")
    job = Job(
        uid=new_uid(), team="main", state=State.PENDING, revision=1, creator="users/admin", create_time=now,
        update_time=now, spec=Spec(task=run, setup="", run=run), experiment="default",
    )  # fmt: skip
    async with db.transaction() as conn:
        await insert_jobs(conn, [New(job, actor="users/admin")])
    return job


async def until(db: Database, uid: str, true: Callable[[Job], object], *, timeout: float = 60.0) -> Job:
    """The job in the database, once this is true of it: the process under test has no known port."""
    async with asyncio.timeout(timeout):
        while True:
            job = await store.job(db, team="main", uid=uid)
            assert job is not None
            if true(job):
                return job
            await asyncio.sleep(0.02)


def is_running(job: Job) -> bool:
    return job.active is not None and bool(job.active.pids)


async def test_a_running_attempt_is_found_again_and_ran_once(
    db: Database, process: Process, tmp_path: Path
) -> None:
    job = await queued(
        db, f"echo begun >> {tmp_path}/count; until test -e {tmp_path}/go; do sleep 0.05; done"
    )
    process.start()
    before = await until(db, job.uid, is_running)
    process.kill()
    process.start()
    # Only a scheduler that follows the same runner can tell of this end.
    (tmp_path / "go").touch()
    after = await until(db, job.uid, lambda now: now.state.final)
    assert after.state is State.SUCCEEDED
    assert [attempt.uid for attempt in after.attempts] == [before.attempts[0].uid]
    assert (tmp_path / "count").read_text() == "begun\n"


async def test_an_end_that_nobody_saw_is_told_by_the_next_scheduler(
    db: Database, process: Process, tmp_path: Path
) -> None:
    job = await queued(db, f"until test -e {tmp_path}/go; do sleep 0.05; done; echo last words; exit 4")
    process.start()
    before = await until(db, job.uid, is_running)
    process.kill()
    (tmp_path / "go").touch()
    end = tmp_path / "data" / "attempts" / before.attempts[0].uid / "end.json"
    async with asyncio.timeout(30):
        while not end.exists():
            await asyncio.sleep(0.02)
    process.start()
    after = await until(db, job.uid, lambda now: now.state.final)
    assert (after.state, after.attempts[0].exit_code) == (State.FAILED, 4)
    assert "last words" in after.message


async def test_a_runner_that_died_in_between_is_lost_and_tried_again(
    db: Database, process: Process, tmp_path: Path
) -> None:
    job = await queued(
        db, f"echo begun >> {tmp_path}/count; until test -e {tmp_path}/go; do sleep 0.05; done"
    )
    process.start()
    before = await until(db, job.uid, is_running)
    process.kill()
    runner = processes.runner_of(before.attempts[0].uid)
    assert runner is not None
    os.kill(runner.pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    process.start()
    after = await until(db, job.uid, lambda now: now.state.final)
    assert after.state is State.SUCCEEDED
    assert [attempt.state for attempt in after.attempts] == [AttemptState.FAILED, AttemptState.SUCCEEDED]
    assert (tmp_path / "count").read_text() == "begun\nbegun\n"


async def test_kills_at_any_moment_lose_no_job_and_run_none_twice(
    db: Database, process: Process, tmp_path: Path
) -> None:
    jobs = [await queued(db, f"echo $CAIRN_ATTEMPT >> {tmp_path}/ran-{number}") for number in range(8)]
    for _ in range(6):
        process.start()
        seen = await db.fetchval("SELECT sum(revision) FROM jobs")
        async with asyncio.timeout(30):
            # The next moment at which anything has moved, whatever it is.
            while await db.fetchval("SELECT sum(revision) FROM jobs") == seen and await unfinished(db):
                await asyncio.sleep(0.001)
        process.kill()
    process.start()
    for number, job in enumerate(jobs):
        after = await until(db, job.uid, lambda now: now.state.final)
        assert after.state is State.SUCCEEDED
        assert len(after.attempts) == 1
        assert (tmp_path / f"ran-{number}").read_text() == "1\n"


async def unfinished(db: Database) -> int:
    """How many jobs have not ended."""
    return int(await db.fetchval("SELECT count(*) FROM jobs WHERE end_time IS NULL"))
