"""How long nobody decides: ``python -m tests.bench.bench_failover [TIMES]`` prints one JSON line.

Two schedulers as processes, on real PostgreSQL. Seconds from the SIGKILL (and from the SIGSTOP) of the one
that decides until the other has written its epoch; the worst of so many times.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import structlog

from cairn_common.db import Database, pool
from cairn_common.migrate import migrate
from tests.harness import quota, servers
from tests.harness.scheduler import Process


async def epoch(db: Database, *, beyond: int) -> int:
    async with asyncio.timeout(120):
        while True:
            now = int(await db.fetchval("SELECT epoch FROM lease_beat"))
            if now > beyond:
                return now
            await asyncio.sleep(0.01)


async def ready(db: Database, count: int) -> None:
    async with asyncio.timeout(120):
        while (
            await db.fetchval(
                "SELECT count(DISTINCT application_name) FROM pg_stat_activity"
                " WHERE application_name LIKE 'cairn-scheduler-%'"
            )
            < count
        ):
            await asyncio.sleep(0.05)


async def takeover(db: Database, pair: list[Process], number: signal.Signals) -> float:
    """Ends or pauses the first of the pair; the second takes over, and the first is started anew."""
    before = int(await db.fetchval("SELECT epoch FROM lease"))
    begin = time.perf_counter()
    pair[0].signal(number)
    await epoch(db, beyond=before)
    taken = time.perf_counter() - begin
    pair[0].kill()
    pair[0].start()
    await ready(db, 2)
    pair.reverse()
    return taken


async def main(times: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as name:
        folder = Path(name)
        postgres = await asyncio.to_thread(servers.start_postgres, folder / "pg")
        nats = await asyncio.to_thread(servers.start_nats, folder / "nats")
        try:
            postgres.create_database("cairn")
            url = {schema: postgres.create_schema("cairn", schema) for schema in ("quota", "scheduler")}
            await migrate(url["scheduler"], "scheduler", files("cairn_scheduler") / "migrations")
            (folder / "data").mkdir()
            async with (
                quota.running(
                    postgres_url=url["quota"], nats_url=nats.url, folder=folder / "quota"
                ) as quotas,
                pool(url["scheduler"], schema="scheduler", size=2) as db,
            ):
                pair = [
                    Process(quotas, postgres_url=url["scheduler"], nats_url=nats.url, folder=folder / "data")
                    for _ in range(2)
                ]
                try:
                    pair[0].start()
                    await epoch(db, beyond=0)
                    pair[1].start()
                    await ready(db, 2)
                    killed = [await takeover(db, pair, signal.SIGKILL) for _ in range(times)]
                    paused = [await takeover(db, pair, signal.SIGSTOP) for _ in range(times)]
                finally:
                    for process in pair:
                        process.kill()
            figures = {
                "killed_s_max": round(max(killed), 2),
                "paused_s_max": round(max(paused), 2),
                "times": times,
                "load": round(os.getloadavg()[0], 1),
            }
            print(json.dumps(figures))
        finally:
            nats.stop()
            postgres.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
