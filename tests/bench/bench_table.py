"""The first page of the run table: ``python -m tests.bench.bench_table [RUNS] [KEYS] [WIDE]``, one JSON line.

Milliseconds (p50, p95) of 100 runs as the API answers them, newest first and by a metric, out of 75,000 runs
with 1,500 metrics each. The `WIDE` newest (2,000) have all the metrics and the others ten of them: a hundred
million rows would take an hour to make, and a page reads only those of its own runs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from cairn.tracker.v1 import tracker_pb2
from cairn_common.db import Database, pool
from cairn_common.migrate import migrate
from cairn_tracker import expression, wire
from cairn_tracker.store import searches
from cairn_tracker.store.runs import Filter
from tests.bench.timing import timed
from tests.harness import servers

TIMES = 15
FEW = 10
_RUNS = """
INSERT INTO runs (team, uid, display_name, create_time, update_time, state, experiment, has_job, params)
SELECT 'main', 'r' || n, 'run-' || n, now() - n * interval '1 minute', now(), 4, 'default', false,
    jsonb_build_object('lr', random() / 10, 'depth', n % 50)
FROM generate_series(1, $1::integer) AS n
"""
_SUMMARIES = """
INSERT INTO summaries (team, run_uid, key, last, last_step, count, min, max)
SELECT 'main', 'r' || n, 'layer' || k % 30 || '/metric' || k, random(), 100, 100, 0, 1
FROM generate_series($1::integer, $2::integer) AS n, generate_series(1, $3::integer) AS k
"""


async def page(db: Database, by: str) -> int:
    """Bytes of a page."""
    operand, falling = expression.order(by) if by else (None, False)
    wanted = searches.Search(where=Filter(team="main"), by=operand, falling=falling)
    found = await searches.search(db, wanted, limit=101)
    runs = [wire.run(item.run, whole=False) for item in found[:100]]
    return len(tracker_pb2.ListRunsResponse(runs=runs).SerializeToString())


async def main(runs: int, keys: int, wide: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        os.chmod(folder, 0o755)
        server = await asyncio.to_thread(servers.start_postgres, Path(folder))
        try:
            await asyncio.to_thread(server.create_database, "bench")
            url = await asyncio.to_thread(server.create_schema, "bench", "tracker")
            await migrate(url, "tracker", files("cairn_tracker") / "migrations" / "postgres")
            async with pool(url, schema="tracker", size=2) as db:
                async with db.dedicated() as conn:
                    await conn.execute(_RUNS, runs, timeout=600)
                    for start in range(1, wide + 1, 500):
                        await conn.execute(_SUMMARIES, start, min(start + 499, wide), keys, timeout=600)
                    await conn.execute(_SUMMARIES, wide + 1, runs, FEW, timeout=600)
                    await conn.execute("VACUUM ANALYZE runs", timeout=600)
                    await conn.execute("VACUUM ANALYZE summaries", timeout=600)
                result = {
                    "newest": await timed(lambda: page(db, ""), TIMES),
                    "by metric": await timed(lambda: page(db, "metrics.`layer1/metric1` desc"), TIMES),
                    "bytes": await page(db, ""),
                }
        finally:
            await asyncio.to_thread(server.stop)
    load = round(os.getloadavg()[0], 1)
    json.dump({"runs": runs, "keys": keys, "wide": wide, **result, "load": load}, sys.stdout)
    print()


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(*(given + [75_000, 1_500, 2_000][len(given) :])))
