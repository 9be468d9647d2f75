"""Searches over many runs: ``python -m tests.bench.bench_search`` prints one JSON line.

Of each search the milliseconds (p50, p95) of its first page of 100 runs by gRPC, with the bar of 100 ms: in
100,000 runs with ten metrics each unless told. `next` is the second page of the one before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import asyncpg

from cairn.tracker.v1 import tracker_pb2
from tests.bench.reading import answering, kept
from tests.bench.timing import timed
from tests.harness.tracker import TEAM, Client

BAR = 100
TIMES = 40
SEARCHES = {
    "newest": ("", ""),
    "config and metric": ("config.lr < 0.01 and metrics.key1 > 0.9", ""),
    "rare": ("metrics.key1 > 0.9999", ""),
    "none": ("metrics.key1 > 2 and config.lr < 0.01", ""),
    "tag, state and pattern": ('"night" in tags and state == "failed" and name =~ "7$"', ""),
    "text of config": ("config.opt == 'adam' and config.depth == 7", ""),
    "not": ("not (config.opt == 'adam' or metrics.key2 < 0.5)", ""),
    "by metric": ("", "metrics.key1 desc"),
    "by config": ("", "config.lr"),
    "by metric, of those": ("config.lr < 0.01 and metrics.key2 > 0.5", "max(metrics.key1) desc"),
}
RUNS = """
INSERT INTO runs (team, uid, display_name, create_time, update_time, state, experiment, has_job, params, tags)
SELECT $2, lpad(n::text, 26, '0'), 'run-' || n, now() - n * interval '1 minute', now(), 4 + n % 3, 'default',
    false,
    jsonb_build_object('lr', random() / 10, 'opt', (ARRAY['adam', 'sgd'])[1 + n % 2], 'depth', n % 50),
    CASE WHEN n % 10 = 0 THEN ARRAY['night'] ELSE '{}' END
FROM generate_series(1, $1::integer) AS n
"""
_SUMMARIES = """
INSERT INTO summaries (team, run_uid, key, last, last_step, count, min, max)
SELECT $3, lpad(n::text, 26, '0'), 'key' || k, random(), 100, 100, random() / 2, 1 + random()
FROM generate_series(1, $1::integer) AS n, generate_series(1, $2::integer) AS k
"""


async def fill(connection: asyncpg.Connection, runs: int, keys: int) -> None:
    await connection.execute(RUNS, runs, TEAM)
    await connection.execute(_SUMMARIES, runs, keys, TEAM)


async def page(client: Client, text: str, by: str, token: str = "") -> tracker_pb2.ListRunsResponse:
    return await client.runs.ListRuns(
        tracker_pb2.ListRunsRequest(
            parent=f"teams/{TEAM}", filter=text, order_by=by, page_size=100, page_token=token
        )
    )


async def main(runs: int, keys: int, data: Path | None) -> None:
    with kept(data) as folder:
        filled = answering(folder, points=folder / "tracker", fill=lambda db: fill(db, runs, keys))
        async with filled as client:
            result: dict[str, object] = {}
            for name, (text, by) in SEARCHES.items():
                first = await page(client, text, by)
                told = await timed(lambda text=text, by=by: page(client, text, by), TIMES, bar=BAR)
                result[name] = {**told, "runs": len(first.runs)}
                if first.next_page_token:
                    token = first.next_page_token
                    result[f"{name}, next"] = await timed(
                        lambda text=text, by=by, token=token: page(client, text, by, token), TIMES, bar=BAR
                    )
    load = round(os.getloadavg()[0], 1)
    json.dump({"runs": runs, "keys": keys, "searches": result, "load": load}, sys.stdout)
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=10, help="metrics of each run")
    parser.add_argument("--data", type=Path, help="a folder for the runs, filled unless it was")
    given = parser.parse_args()
    asyncio.run(main(given.runs, given.keys, given.data))
