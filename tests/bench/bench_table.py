"""The first page of the run table: ``python -m tests.bench.bench_table``, one JSON line.

Milliseconds (p50, p95) of `ListRuns` by gRPC, 100 runs, newest first and by a metric, with the bar of 300 ms,
out of 75,000 runs with 1,500 metrics each. The newest ``--wide`` (2,000) have all the metrics and the others
ten of them: a hundred million rows would take an hour to make and 25 GB, and a page reads only those of its
own runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import asyncpg

from tests.bench.bench_search import RUNS, page
from tests.bench.reading import answering, kept
from tests.bench.timing import timed
from tests.harness.tracker import TEAM

BAR = 300
TIMES = 40
FEW = 10
_SUMMARIES = """
INSERT INTO summaries (team, run_uid, key, last, last_step, count, min, max)
SELECT $4, lpad(n::text, 26, '0'), 'layer' || k % 30 || '/metric' || k, random(), 100, 100, 0, 1
FROM generate_series($1::integer, $2::integer) AS n, generate_series(1, $3::integer) AS k
"""


async def fill(connection: asyncpg.Connection, runs: int, keys: int, wide: int) -> None:
    await connection.execute(RUNS, runs, TEAM)
    for start in range(1, wide + 1, 500):
        await connection.execute(_SUMMARIES, start, min(start + 499, wide), keys, TEAM)
    await connection.execute(_SUMMARIES, wide + 1, runs, min(FEW, keys), TEAM)


async def main(runs: int, keys: int, wide: int, data: Path | None) -> None:
    with kept(data) as folder:
        filled = answering(folder, points=folder / "tracker", fill=lambda db: fill(db, runs, keys, wide))
        async with filled as client:
            metric = "metrics.`layer1/metric1`"
            result = {
                "newest": await timed(lambda: page(client, "", ""), TIMES, bar=BAR),
                "by metric": await timed(lambda: page(client, "", f"{metric} desc"), TIMES, bar=BAR),
                "filtered": await timed(lambda: page(client, f"{metric} > 0.5", metric), TIMES, bar=BAR),
                "bytes": (await page(client, "", "")).ByteSize(),
            }
    load = round(os.getloadavg()[0], 1)
    json.dump({"runs": runs, "keys": keys, "wide": wide, **result, "load": load}, sys.stdout)
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=75_000)
    parser.add_argument("--keys", type=int, default=1_500, help="metrics of each wide run")
    parser.add_argument("--wide", type=int, default=2_000, help="runs that have all of them")
    parser.add_argument("--data", type=Path, help="a folder for the runs, filled unless it was")
    given = parser.parse_args()
    asyncio.run(main(given.runs, given.keys, given.wide, given.data))
