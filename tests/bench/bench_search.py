"""Searches over many runs: ``python -m tests.bench.bench_search [RUNS] [KEYS]`` prints one JSON line.

Of each search the milliseconds (p50, p95) of its first page of 100 runs, on real PostgreSQL: 100,000 runs
with 10 metrics each unless told.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from cairn_common.db import Database, pool
from cairn_common.migrate import migrate
from cairn_tracker import expression
from cairn_tracker.store import searches
from cairn_tracker.store.runs import Filter
from tests.harness import servers

SEARCHES = {
    "newest": ("", ""),
    "config and metric": ("config.lr < 0.01 and metrics.key1 > 0.9", ""),
    "rare": ("metrics.key1 > 0.9999", ""),
    "none": ("metrics.key1 > 2 and config.lr < 0.01", ""),
    "tag, state and pattern": ('"night" in tags and state == "failed" and name =~ "7$"', ""),
    "not": ("not (config.opt == 'adam' or metrics.key2 < 0.5)", ""),
    "by metric": ("", "metrics.key1 desc"),
    "by config": ("", "config.lr"),
    "by metric, of those": ("config.lr < 0.01 and metrics.key2 > 0.5", "max(metrics.key1) desc"),
}
TIMES = 20

_RUNS = """
INSERT INTO runs (team, uid, display_name, create_time, update_time, state, experiment, has_job, params, tags)
SELECT 'main', 'r' || n, 'run-' || n, now() - n * interval '1 minute', now(), 4 + n % 3, 'default', false,
    jsonb_build_object('lr', random() / 10, 'opt', (ARRAY['adam', 'sgd'])[1 + n % 2], 'depth', n % 50),
    CASE WHEN n % 10 = 0 THEN ARRAY['night'] ELSE '{}' END
FROM generate_series(1, $1::integer) AS n
"""
_SUMMARIES = """
INSERT INTO summaries (team, run_uid, key, last, last_step, count, min, max)
SELECT 'main', 'r' || n, 'key' || k, random(), 100, 100, 0, 1
FROM generate_series(1, $1::integer) AS n, generate_series(1, $2::integer) AS k
"""


async def measure(db: Database, text: str, by: str) -> dict[str, float]:
    tree = expression.parse(text) if text else None
    operand, falling = expression.order(by) if by else (None, False)
    wanted = searches.Search(where=Filter(team="main"), tree=tree, by=operand, falling=falling)
    taken = []
    found = 0
    for _ in range(TIMES):
        begin = time.perf_counter()
        found = len(await searches.search(db, wanted, limit=101))
        taken.append((time.perf_counter() - begin) * 1000)
    taken.sort()
    return {
        "p50_ms": round(taken[TIMES // 2], 1),
        "p95_ms": round(taken[TIMES * 95 // 100], 1),
        "runs": found,
    }


async def main(runs: int, keys: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        os.chmod(folder, 0o755)
        server = await asyncio.to_thread(servers.start_postgres, Path(folder))
        try:
            await asyncio.to_thread(server.create_database, "bench")
            url = await asyncio.to_thread(server.create_schema, "bench", "tracker")
            await migrate(url, "tracker", files("cairn_tracker") / "migrations" / "postgres")
            async with pool(url, schema="tracker", size=2) as db:
                async with db.dedicated() as conn:
                    await conn.execute(_RUNS, runs)
                    await conn.execute(_SUMMARIES, runs, keys)
                    await conn.execute("VACUUM ANALYZE runs")
                    await conn.execute("VACUUM ANALYZE summaries")
                result = {name: await measure(db, *search) for name, search in SEARCHES.items()}
        finally:
            await asyncio.to_thread(server.stop)
    load = round(os.getloadavg()[0], 1)
    json.dump({"runs": runs, "keys": keys, "searches": result, "load": load}, sys.stdout)
    print()


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(*(given + [100_000, 10][len(given) :])))
