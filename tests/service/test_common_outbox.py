"""The database's plumbing against a real server: migrations, transactions, outbox and relay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog

from cairn_common import bus as buses
from cairn_common import db as databases
from cairn_common import outbox, subjects, trace
from cairn_common.bus import Bus, Message
from cairn_common.db import Database, pool
from cairn_common.errors import InvalidArgument, Unavailable
from cairn_common.ids import new_uid
from cairn_common.migrate import MigrationError, migrate
from tests.harness import servers

INIT = "CREATE TABLE things (uid text PRIMARY KEY, revision bigint NOT NULL)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "0001_init.sql").write_text(INIT)
    return made


@pytest.fixture
async def db(database_url: Callable[[str], str], folder: Path) -> AsyncIterator[Database]:
    schema = f"s{new_uid()}"
    url = database_url(schema)
    await migrate(url, schema, folder)
    async with pool(url, schema=schema) as made:
        yield made


async def test_migrations_from_two_processes_at_once_apply_once(
    database_url: Callable[[str], str], folder: Path
) -> None:
    url = database_url("twice")
    (folder / "0002_more.sql").write_text(
        "ALTER TABLE things ADD COLUMN more text; INSERT INTO things VALUES ('a', 1, 'x')"
    )
    done = await asyncio.gather(*(migrate(url, "twice", folder) for _ in range(4)))
    assert sorted(done) == [[], [], [], [1, 2]]
    (folder / "0003_last.sql").write_text("DELETE FROM things")
    assert await migrate(url, "twice", folder) == [3]


async def test_a_connection_goes_back_with_nothing_open_and_without_another_word(
    database_url: Callable[[str], str],
) -> None:
    url = database_url("back")
    async with pool(url, schema="back", size=1) as db, pool(url, schema="back", size=1) as other:
        pid = await db.fetchval("SELECT pg_backend_pid() AS mine")
        last = "SELECT query FROM pg_stat_activity WHERE pid = $1"
        assert await other.fetchval(last, pid) == "SELECT pg_backend_pid() AS mine"
        begun = asyncio.Event()

        async def stuck() -> None:
            async with db.transaction() as conn:
                await conn.execute("SET LOCAL work_mem = '1MB'; SELECT pg_advisory_xact_lock(7)")
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(stuck())
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await db.fetchval("SHOW work_mem") == await other.fetchval("SHOW work_mem")
        assert await other.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
        state = "SELECT state FROM pg_stat_activity WHERE pid = $1"
        assert await other.fetchval(state, pid) == "idle"


async def test_a_changed_or_broken_migration_is_refused_and_keeps_nothing(
    database_url: Callable[[str], str], folder: Path
) -> None:
    url = database_url("changed")
    await migrate(url, "changed", folder)
    (folder / "0002_bad.sql").write_text("CREATE TABLE half (n int); SELECT nonsense")
    with pytest.raises(MigrationError, match=r"0002_bad\.sql.*nonsense"):
        await migrate(url, "changed", folder)
    async with pool(url, schema="changed") as db:
        assert await db.fetchval("SELECT to_regclass('half')") is None
    (folder / "0002_bad.sql").write_text("CREATE TABLE whole (n int)")
    assert await migrate(url, "changed", folder) == [2]
    (folder / "0001_init.sql").write_text(INIT + " -- changed")
    with pytest.raises(MigrationError, match=r"0001_init\.sql was changed"):
        await migrate(url, "changed", folder)
    (folder / "0002_again.sql").write_text("SELECT 1")
    with pytest.raises(MigrationError, match="a number of its own"):
        await migrate(url, "changed", folder)


async def test_numbers_may_leave_gaps_that_are_filled_later(
    database_url: Callable[[str], str], folder: Path
) -> None:
    url = database_url("gaps")
    (folder / "0010_far.sql").write_text("CREATE TABLE far (n int)")
    assert await migrate(url, "gaps", folder) == [1, 10]
    (folder / "0005_late.sql").write_text("CREATE TABLE late (n int)")
    assert await migrate(url, "gaps", folder) == [5]
    # An older release, which does not know that file, changes nothing.
    (folder / "0005_late.sql").unlink()
    assert await migrate(url, "gaps", folder) == []


async def test_mistakes_in_sql_are_not_taken_for_a_database_that_is_away(db: Database) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await db.fetch("SELECT 1 FROM nothing")
    with pytest.raises(asyncpg.InterfaceError):
        await db.fetch("SELECT $1::int")
    with pytest.raises(asyncpg.DataError):
        await db.fetch("SELECT $1::int", "one")


async def test_a_text_that_cannot_be_kept_is_the_callers_mistake(db: Database) -> None:
    with pytest.raises(InvalidArgument):
        await db.fetch("SELECT $1::text", "a\0b")


async def test_a_database_that_is_killed_is_unavailable_and_then_there_again(
    tmp_path: Path, folder: Path
) -> None:
    server = await asyncio.to_thread(servers.start_postgres, tmp_path / "pg")
    try:
        server.create_database("cairn")
        url = server.create_schema("cairn", "one")
        await migrate(url, "one", folder)
        async with pool(url, schema="one") as db:

            async def hammer() -> set[type[Exception]]:
                errors: set[type[Exception]] = set()
                while not over.is_set():
                    try:
                        async with db.transaction() as connection:
                            await connection.execute("INSERT INTO things VALUES ($1, 1)", new_uid())
                    except Exception as error:
                        errors.add(type(error))
                        await asyncio.sleep(0.01)
                return errors

            over = asyncio.Event()
            hammers = [asyncio.create_task(hammer()) for _ in range(8)]
            await asyncio.to_thread(server.restart)
            over.set()
            errors = set().union(*await asyncio.gather(*hammers))
            assert errors == {Unavailable}
            assert await databases.retry(lambda: db.fetchval("SELECT 1")) == 1
    finally:
        server.stop()


def _change(uid: str, revision: int) -> tuple[str, bytes]:
    return subjects.subject("tracker", "run", "updated", "main", uid), f"{uid} {revision}".encode()


async def _tell(db: Database, uid: str, *, then: Exception | None = None) -> int:
    """A change and its fact in one transaction, as services do it; returns the revision."""
    async with db.transaction() as connection:
        revision = await connection.fetchval(
            "INSERT INTO things VALUES ($1, 1) ON CONFLICT (uid) DO UPDATE SET revision = things.revision + 1"
            " RETURNING revision",
            uid,
        )
        subject, payload = _change(uid, revision)
        await outbox.add(connection, subject=subject, payload=payload, id=f"{uid}-{revision}")
        if then is not None:
            raise then
        return int(revision)


async def test_a_fact_is_told_with_its_change_or_not_at_all(nats_url: str, db: Database) -> None:
    async with buses.connect(nats_url, name="test") as bus:
        await bus.ensure_stream("TRACKER", subjects.STREAMS["TRACKER"])
        start = await bus.last_sequence("TRACKER") + 1
        relaying = asyncio.create_task(outbox.relay(db, bus))
        try:
            uid = new_uid()
            with pytest.raises(RuntimeError):
                await _tell(db, uid, then=RuntimeError())
            await _tell(db, uid)
            tail = bus.tail(stream="TRACKER", subjects=["cairn.v1.tracker.>"], start_sequence=start)
            async with aclosing(tail), asyncio.timeout(5):
                message = await anext(tail)
            assert message.data == f"{uid} 1".encode()
            assert message.msg_id == f"{uid}-1"
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)


async def test_a_fact_belongs_to_the_trace_in_which_it_came_about(nats_url: str, db: Database) -> None:
    """Also what is told while it is worked on; among facts of other traces the log lines name some."""
    uid, traces = new_uid(), ["4b" * 16, "5c" * 16]
    heard: list[dict[str, Any]] = []

    async def hear(messages: Sequence[Message]) -> None:
        mine = [message for message in messages if message.subject.endswith(uid)]
        if mine:
            found = structlog.contextvars.get_contextvars()
            heard.append({**found, "facts": [fact.trace[3:35] for fact in mine], "goes on": trace.parent()})

    async with buses.connect(nats_url, name="test") as bus:
        await bus.ensure_stream("TRACKER", subjects.STREAMS["TRACKER"])
        for number in traces:
            trace.enter(f"00-{number}-{'0f' * 8}-01")
            await _tell(db, uid)
        hearing = bus.consume(
            stream="TRACKER", durable=f"d{uid}", subjects=["cairn.v1.tracker.>"], handler=hear, db=db
        )
        tasks = [asyncio.create_task(outbox.relay(db, bus)), asyncio.create_task(hearing)]
        try:
            async with asyncio.timeout(10):
                while sum(len(each["facts"]) for each in heard) < 2:
                    await asyncio.sleep(0.01)
            assert [number for each in heard for number in each["facts"]] == traces
            for each in heard:
                if len(each["facts"]) == 1:
                    assert each["trace_id"] == each["facts"][0] == each["goes on"][3:35]
                else:
                    assert (each["trace_ids"], each["goes on"]) == (traces, "")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize("known", [False, True])
async def test_many_facts_are_told_once_each_also_where_the_bus_knows_one_of_them(
    nats_url: str, db: Database, known: bool
) -> None:
    uids = [new_uid() for _ in range(40)]
    for uid in uids:
        await _tell(db, uid)
        await _tell(db, uid)
    async with buses.connect(nats_url, name="test") as bus:
        await bus.ensure_stream("TRACKER", subjects.STREAMS["TRACKER"])
        facts = [(*_change(uid, revision), f"{uid}-{revision}") for uid in uids for revision in (1, 2)]
        before = await bus.last_sequence("TRACKER")
        if known:
            subject, payload, msg_id = facts[50]
            await bus.publish(subject, payload, msg_id)
        together = await bus.publish_together(facts[:2]) if not known else False
        assert together == (not known)
        relaying = asyncio.create_task(outbox.relay(db, bus))
        try:
            tail = bus.tail(stream="TRACKER", subjects=["cairn.v1.tracker.>"], start_sequence=before + 1)
            found: dict[str, list[int]] = {uid: [] for uid in uids}
            async with aclosing(tail), asyncio.timeout(10):
                while sum(map(len, found.values())) < len(facts):
                    uid, revision = (await anext(tail)).data.decode().split()
                    found.get(uid, []).append(int(revision))
            assert all(sorted(revisions) == [1, 2] for revisions in found.values())
            while await db.fetchval("SELECT count(*) FROM outbox"):
                await asyncio.sleep(0.02)
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)


async def test_what_cannot_be_told_is_refused_when_it_is_written(db: Database) -> None:
    async with db.transaction() as connection:
        for subject, size in (("cairn.v1.tracker.run.updated.main.*", 1), ("other.subject", 1)):
            with pytest.raises(ValueError, match="subject"):
                await outbox.add(connection, subject=subject, payload=b"x" * size)
        with pytest.raises(ValueError, match="bytes"):
            await outbox.add(connection, subject=_change(new_uid(), 1)[0], payload=b"x" * 1_000_000)


async def test_no_fact_is_lost_over_kill_9_of_bus_database_and_relay(tmp_path: Path, folder: Path) -> None:
    """Kills each of them while facts are written; doubles are allowed, with the same id and in order."""
    nats, postgres = await asyncio.gather(
        asyncio.to_thread(servers.start_nats, tmp_path / "nats"),
        asyncio.to_thread(servers.start_postgres, tmp_path / "pg"),
    )
    try:
        postgres.create_database("cairn")
        url = postgres.create_schema("cairn", "one")
        await migrate(url, "one", folder)
        async with pool(url, schema="one") as db, buses.connect(nats.url, name="test") as bus:
            await bus.ensure_stream("TRACKER", subjects.STREAMS["TRACKER"])
            told: dict[str, int] = {}

            async def write(uid: str) -> None:
                for _ in range(60):
                    told[uid] = await databases.retry(lambda: _tell(db, uid), deadline=30)
                    await asyncio.sleep(0.01)

            relays = [asyncio.create_task(outbox.relay(db, bus)) for _ in range(2)]
            writers = [asyncio.create_task(write(new_uid())) for _ in range(6)]
            await asyncio.to_thread(nats.restart)
            await asyncio.to_thread(postgres.restart)
            relays[0].cancel()
            await asyncio.to_thread(nats.restart)
            await asyncio.gather(*writers)
            messages = await _all(bus, {f"{uid}-{last}" for uid, last in told.items()})
            relays[1].cancel()
            await asyncio.gather(*relays, return_exceptions=True)
    finally:
        nats.stop()
        postgres.stop()
    for uid, last in told.items():
        mine = [message for message in messages if message.subject.endswith(uid)]
        # Each revision that committed, the ones whose commit was not heard of included.
        assert list(dict.fromkeys(message.data for message in mine)) == [
            f"{uid} {revision}".encode() for revision in range(1, last + 1)
        ]
        for message in mine:
            assert message.msg_id == message.data.decode().replace(" ", "-")


async def _all(bus: Bus, last_ids: set[str]) -> list[Message]:
    found: list[Message] = []
    tail = bus.tail(stream="TRACKER", subjects=["cairn.v1.tracker.>"], start_sequence=1)
    async with aclosing(tail), asyncio.timeout(60):
        async for message in tail:
            found.append(message)
            last_ids.discard(message.msg_id)
            if not last_ids:
                return found
    raise AssertionError


async def test_a_fact_published_before_a_crash_and_not_yet_deleted_is_told_again_under_its_id(
    tmp_path: Path, db: Database
) -> None:
    """The relay dies between the bus's answer and the delete; the bus is killed, too."""
    nats = await asyncio.to_thread(servers.start_nats, tmp_path / "nats")
    try:
        async with buses.connect(nats.url, name="first") as bus:
            await bus.ensure_stream("TRACKER", subjects.STREAMS["TRACKER"])
            uid = new_uid()
            await _tell(db, uid)
            row = await db.fetchrow("SELECT id, subject, payload FROM outbox")
            assert row is not None
            first = await bus.publish(row["subject"], row["payload"], msg_id=row["id"])
        await asyncio.to_thread(nats.restart)
        async with buses.connect(nats.url, name="second") as bus:
            relaying = asyncio.create_task(outbox.relay(db, bus))
            await _tell(db, uid)
            messages = await _all(bus, {f"{uid}-2"})
            async with asyncio.timeout(10):
                while await db.fetch("SELECT 1 FROM outbox"):
                    await asyncio.sleep(0.01)
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
        assert {message.msg_id for message in messages if message.data == row["payload"]} == {row["id"]}
        assert messages[0].sequence == first
    finally:
        nats.stop()


async def test_a_handler_that_writes_the_inbox_applies_a_fact_once_however_often_it_comes(
    db: Database,
) -> None:
    async def apply(fact: str) -> None:
        async with db.transaction() as connection:
            tag = await connection.execute(
                "INSERT INTO inbox (consumer, id) VALUES ('c', $1) ON CONFLICT DO NOTHING", fact
            )
            if tag == "INSERT 0 1":
                await connection.execute(
                    "INSERT INTO things VALUES ('total', 1)"
                    " ON CONFLICT (uid) DO UPDATE SET revision = things.revision + 1"
                )

    facts = [new_uid() for _ in range(5)]
    await asyncio.gather(*(apply(fact) for fact in facts * 3))
    assert await db.fetchval("SELECT revision FROM things WHERE uid = 'total'") == 5
