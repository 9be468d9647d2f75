"""Two schedulers: one decides, the other takes over, and who was only paused can write nothing any more."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path

import pytest

from cairn_common.db import Database, pool
from cairn_common.errors import Unavailable
from cairn_common.migrate import migrate
from cairn_scheduler import lease
from cairn_scheduler.lease import Fenced
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Process


@pytest.fixture
async def url(database_url: Callable[[str], str]) -> str:
    made = database_url("scheduler")
    await migrate(made, "scheduler", files("cairn_scheduler") / "migrations")
    return made


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    async with pool(url, schema="scheduler", size=3) as made:
        yield made


async def test_one_decides_and_the_next_takes_over_when_it_lets_go(db: Database) -> None:
    async with lease.held(db, lease.new_holder()) as first:
        waiting = asyncio.create_task(lease.held(db, lease.new_holder()).__aenter__())
        async with first.transaction() as conn:
            assert await conn.fetchval("SELECT epoch FROM lease") == first.epoch
        assert not waiting.done()
    async with asyncio.timeout(20):
        second = await waiting
    assert second.epoch == first.epoch + 1
    with pytest.raises(Fenced):
        async with first.transaction() as conn:
            await conn.execute("CREATE TABLE never (n int)")
    with pytest.raises(Fenced):
        await first.beat()
    assert await db.fetchval("SELECT to_regclass('never')") is None
    await second.give_up()


async def test_what_the_old_one_has_under_way_is_cut_off_and_not_waited_for(url: str, db: Database) -> None:
    old = lease.new_holder()
    async with pool(url, schema="scheduler", size=2, name=old) as own:
        first = await lease.held(own, old).__aenter__()
        begun = asyncio.Event()

        async def slow() -> None:
            async with first.transaction() as conn:
                await conn.execute("CREATE TABLE half (n int)")
                begun.set()
                await conn.execute("SELECT pg_sleep(60)")

        writing = asyncio.create_task(slow())
        await begun.wait()
        # No sign of life: as one that is paused.
        await db.execute("UPDATE lease_beat SET beat_time = '-infinity'")
        async with asyncio.timeout(20):
            second = await lease.held(db, lease.new_holder()).__aenter__()
        assert second.epoch == first.epoch + 1
        with pytest.raises(Unavailable):
            await writing
    assert await db.fetchval("SELECT to_regclass('half')") is None
    await second.give_up()


async def test_the_other_takes_over_and_a_paused_one_writes_nothing_more(
    url: str, db: Database, nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> None:
    async with quota.running(
        postgres_url=database_url("quota"), nats_url=nats_server.url, folder=tmp_path / "quota"
    ) as quotas:
        folder = tmp_path / "data"
        folder.mkdir()
        one, two, three = (
            Process(quotas, postgres_url=url, nats_url=nats_server.url, folder=folder) for _ in range(3)
        )
        try:
            before = await db.fetchval("SELECT epoch FROM lease")
            one.start()
            first = await deciding(db, beyond=before)
            two.start()
            await connected(db, 2)
            one.kill()
            second = await deciding(db, beyond=first)
            assert second == first + 1
            three.start()
            await connected(db, 2)
            two.signal(signal.SIGSTOP)
            third = await deciding(db, beyond=second)
            await succeeds(db)
            two.signal(signal.SIGCONT)
            # Awake, it hears that it does not decide, and waits for its turn with connections of its own.
            await connected(db, 2)
            await succeeds(db)
            assert await db.fetchval("SELECT epoch FROM lease") == third
            assert await db.fetchval("SELECT max(number) FROM attempts") == 1
            three.kill()
            await deciding(db, beyond=third)
            await succeeds(db)
        finally:
            for process in (one, two, three):
                process.kill()


async def deciding(db: Database, *, beyond: int) -> int:
    """The epoch of the one that decides, once it is a later one and gives signs of life."""
    async with asyncio.timeout(60):
        while True:
            row = await db.fetchrow(
                "SELECT epoch, beat_time > now() - interval '1 s' AS lives FROM lease_beat"
            )
            assert row is not None
            if row["epoch"] > beyond and row["lives"]:
                return int(row["epoch"])
            await asyncio.sleep(0.02)


async def connected(db: Database, count: int) -> None:
    """So many schedulers have connections."""
    async with asyncio.timeout(60):
        while (
            await db.fetchval(
                "SELECT count(DISTINCT application_name) FROM pg_stat_activity"
                " WHERE application_name LIKE 'cairn-scheduler-%'"
            )
            < count
        ):
            await asyncio.sleep(0.05)


async def succeeds(db: Database) -> None:
    """A job that is queued now runs and ends well."""
    uid = await scheduler.queue_job(db, "exit 0")
    async with asyncio.timeout(60):
        while await db.fetchval("SELECT state FROM jobs WHERE uid = $1", uid) != "SUCCEEDED":
            await asyncio.sleep(0.05)
