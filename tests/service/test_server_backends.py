"""Each embedded server starts, answers its probe, and keeps its data over kill -9."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import nats as nats_py
import pytest
from minio import Minio

from cairn_server.backends import nats
from tests.harness import servers


async def test_nats_keeps_acknowledged_messages_over_kill_9(tmp_path: Path) -> None:
    server = await asyncio.to_thread(servers.start_nats, tmp_path)
    try:
        async with await nats_py.connect(server.url) as connection:
            await connection.jetstream().add_stream(name="T", subjects=["t.>"])
            ack = await connection.jetstream().publish("t.one", b"kept")
        await asyncio.to_thread(server.restart)
        async with await nats_py.connect(server.url) as connection:
            message = await connection.jetstream().get_msg("T", ack.seq)
        assert message.data == b"kept"
    finally:
        server.stop()


async def test_nats_with_accounts_lets_a_service_publish_only_its_own_facts(tmp_path: Path) -> None:
    keys = nats.NatsKeys(nats.new_seeds())
    server = await asyncio.to_thread(lambda: servers.start_nats(tmp_path, keys=keys))
    refused: asyncio.Queue[Exception] = asyncio.Queue()

    async def on_error(error: Exception) -> None:
        refused.put_nowait(error)

    try:
        seed = keys.seeds["scheduler"]
        async with await nats_py.connect(server.url, nkeys_seed_str=seed, error_cb=on_error) as connection:
            stream = connection.jetstream(timeout=5)
            await stream.add_stream(name="SCHEDULER", subjects=["cairn.v1.scheduler.>"])
            assert (await stream.publish("cairn.v1.scheduler.job.submitted.main.x", b"")).seq == 1
            await connection.publish("cairn.v1.quota.team.changed.main.x", b"")
            await connection.flush()
            error = await asyncio.wait_for(refused.get(), timeout=5)
            assert "permissions violation" in str(error).lower()
        stranger = nats_py.NATS()
        with pytest.raises(Exception, match=r"(?i)authorization"):
            await stranger.connect(server.url, allow_reconnect=False, error_cb=on_error)
        await stranger.close()
    finally:
        server.stop()


async def test_postgres_keeps_commits_over_kill_9(data_folder: Path) -> None:
    server = await asyncio.to_thread(servers.start_postgres, data_folder)
    try:
        server.execute("CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
        # Computes for ever: it does not notice that its server was killed, and holds its memory.
        busy = await asyncpg.connect(server.admin_url())
        forever = asyncio.create_task(busy.execute("DO $$ BEGIN LOOP END LOOP; END $$"))
        watcher = await asyncpg.connect(server.admin_url())
        query = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO%'"
        while not await watcher.fetchval(query):
            await asyncio.sleep(0.02)
        await asyncio.to_thread(server.restart)
        with pytest.raises(asyncpg.PostgresConnectionError):
            await forever
        watcher.terminate()
        connection = await asyncpg.connect(server.admin_url())
        assert await connection.fetchval("SELECT n FROM t") == 7
        await connection.close()
    finally:
        server.stop()


async def test_postgres_gives_each_service_its_own_schema(postgres: servers.Postgres, database: str) -> None:
    first = await asyncpg.connect(postgres.create_schema(database, "first"))
    second = await asyncpg.connect(postgres.create_schema(database, "second"))
    await first.execute("CREATE TABLE own (n int)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await second.execute("SELECT n FROM first.own")
    await first.close()
    await second.close()


def test_s3_keeps_objects_over_kill_9(tmp_path: Path) -> None:
    server = servers.start_s3(tmp_path)
    try:
        client = Minio(
            server.endpoint.removeprefix("http://"),
            access_key=server.access_key,
            secret_key=server.secret_key,
            secure=False,
            region="us-east-1",
        )
        source = tmp_path / "source"
        source.write_bytes(b"kept")
        client.fput_object(server.bucket, "t/main/blobs/aa/aa", str(source))
        server.restart()
        client.fget_object(server.bucket, "t/main/blobs/aa/aa", str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == b"kept"
    finally:
        server.stop()
