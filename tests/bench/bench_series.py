"""Charts of long series: ``python -m tests.bench.bench_series [STEPS] [SERIES]`` prints one JSON line.

How fast points with their buckets are written (without the bus and PostgreSQL), the milliseconds (p50, p95)
of charts of 1,000 buckets of one and of all series and of a zoom into 1,000 steps, one drawn from the points
alone, and bytes a point on disk. On the embedded engine; ten series of 1,000,000 steps unless told.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files

import numpy as np

from cairn_tracker import points, rollups, series
from cairn_tracker.batch import MetricKey, Points
from cairn_tracker.clickhouse import ClickHouse, clickhouse
from cairn_tracker.model import Summary
from tests.bench.timing import timed

RUN = "01" + "b" * 24
TIMES = 20
BATCH = 100_000
_SIZES = """
SELECT table, sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()
GROUP BY table
"""


def batch(number: int, start: int, steps: int) -> Points:
    step = np.arange(start, start + steps, dtype=np.int64)
    same = np.zeros(steps, np.int64)
    return Points(
        metrics=[MetricKey("main", RUN, f"key{number}")], writers=["w"], metric=same, writer=same, step=step,
        attempt=same, segment=same, position=step // 4096, cell=step % 4096,
        time=1_700_000_000_000_000 + step * 100_000, value=np.random.default_rng(start).normal(size=steps),
    )  # fmt: skip


async def write(store: ClickHouse, count: int, steps: int) -> float:
    known: dict[MetricKey, Summary] = {}
    begin = time.perf_counter()
    for number in range(count):
        for start in range(0, steps, BATCH):
            made = batch(number, start, min(BATCH, steps - start))
            await points.add(store, made)
            known |= await rollups.keep(store, made, known)
    return count * steps / (time.perf_counter() - begin)


async def charts(store: ClickHouse, count: int, steps: int) -> dict[str, object]:
    def ask(number: int, first: int = 0, end: int = 2**53) -> Callable[[], Awaitable[object]]:
        keys = [f"key{place}" for place in range(number)]
        return lambda: series.series(
            store, "main", runs=[RUN], keys=keys, max_buckets=1000, first=first, end=end
        )

    made: dict[str, object] = {
        "one": await timed(ask(1), TIMES),
        "all": await timed(ask(count), TIMES),
        "zoom": await timed(ask(1, steps // 2, steps // 2 + 1000), TIMES),
    }
    whole = [series.Extent(RUN, "key0", steps, 0, steps - 1)]
    made["one from points"] = await timed(
        lambda: series._from_points(store, "main", whole, 1000, first=0, end=2**53), TIMES
    )
    return made


async def main(steps: int, count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        async with clickhouse(f"chdb://{folder}/store", readers=1) as store:
            await store.migrate(files("cairn_tracker") / "migrations" / "clickhouse")
            speed = await write(store, count, steps)
            sizes = dict(zip(*(await store.query(_SIZES, {})), strict=True))
            result: dict[str, object] = {
                "steps": steps,
                "series": count,
                "points_per_s": round(speed),
                "bytes_per_point": round((sizes["points"] + sizes["rollups"]) / (count * steps), 2),
                **await charts(store, count, steps),
                "load": round(os.getloadavg()[0], 1),
            }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(*(given + [1_000_000, 10][len(given) :])))
