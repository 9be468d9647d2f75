"""Services to be asked: the tracker in a process of its own over real servers, and what a bench put there."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from pathlib import Path

import asyncpg
import clickhouse_connect
from clickhouse_connect.driver.client import Client

from cairn_common.migrate import migrate
from cairn_tracker.clickhouse import clickhouse
from tests.harness import servers
from tests.harness.tracker import Client as Asking
from tests.harness.tracker import start_tracker

_MIGRATIONS = files("cairn_tracker") / "migrations"


async def put_points(folder: Path, fill: Callable[[Client], None]) -> None:
    """Fills the embedded engine's tables in a folder, unless that was done there before.

    `fill` has a client without the limits that the tracker's have.
    """
    done, path = folder / "filled", folder / "points"
    folder.mkdir(exist_ok=True)
    if done.exists():
        return
    async with clickhouse(f"chdb://{path}", readers=1) as store:
        await store.migrate(_MIGRATIONS / "clickhouse")
    client = clickhouse_connect.get_client(interface="chdb", path=str(path))
    try:
        await asyncio.to_thread(fill, client)
        # What is merged meanwhile would be measured, too.
        while client.query("SELECT count() FROM system.merges").result_rows[0][0]:
            await asyncio.sleep(0.5)
    finally:
        client.close()
    done.touch()


@contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    """A folder that is there already or is made, or without one another that goes afterwards."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as made:
        yield Path(made)


@asynccontextmanager
async def answering(
    folder: Path, *, points: Path, fill: Callable[[asyncpg.Connection], Awaitable[None]] | None = None
) -> AsyncIterator[Asking]:
    """A tracker over the tables in `points`, and PostgreSQL as `fill` leaves it in this folder, or left it.

    Gives who asks it by gRPC.
    """
    os.chmod(folder, 0o755)
    done = folder / "postgres" / "filled"
    postgres = await asyncio.to_thread(servers.start_postgres, folder / "postgres")
    running: list[servers.Server] = [postgres]
    try:
        if not done.exists():
            await asyncio.to_thread(postgres.create_database, "bench")
        url = await asyncio.to_thread(postgres.create_schema, "bench", "tracker")
        await migrate(url, "tracker", _MIGRATIONS / "postgres")
        if fill is not None and not done.exists():
            await _filled(url, fill)
        done.touch()
        bus = await asyncio.to_thread(servers.start_nats, folder / "nats")
        running.append(bus)
        s3 = await asyncio.to_thread(servers.start_s3, folder / "s3")
        running.append(s3)
        tracker = await asyncio.to_thread(
            lambda: start_tracker(points, nats_url=bus.url, postgres_url=url, s3=s3)
        )
        running.append(tracker)
        async with Asking(tracker) as client:
            yield client
    finally:
        for server in reversed(running):
            await asyncio.to_thread(server.stop)


async def _filled(url: str, fill: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
    connection = await asyncpg.connect(url, server_settings={"search_path": "tracker"})
    try:
        await fill(connection)
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
