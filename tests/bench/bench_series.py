"""Charts of long series: ``python -m tests.bench.bench_series`` prints one JSON line.

Milliseconds (p50, p95) of `QuerySeries` by gRPC, with the bar of each: 1,000 buckets of one series, of ten,
of a hundred, and the exact zoom into 1,000 steps; brute force says the same. By default ten series of
1,000,000 steps; ``--series 100`` makes 1e8 points (about 600 MB, put straight into the embedded engine's
columns; ``--data FOLDER`` keeps them for the next time).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from clickhouse_connect.driver.client import Client as Store

from cairn.tracker.v1 import metric_pb2, tracker_pb2
from tests.bench.reading import answering, kept, put_points
from tests.bench.timing import timed
from tests.harness.tracker import TEAM, Client, run_name

RUN = "01" + "b" * 24
TIMES = 60
# Series, and milliseconds.
BARS = {1: 20, 10: 50, 100: 150}
ZOOM = 15
# Steps held against brute force.
CHECKED = 50_000
# Some at once: a part for each would be merged for minutes.
SERIES_AT_ONCE = 20
_SERIES = f"""
SELECT '{TEAM}' AS team, '{RUN}' AS run, 'key' || toString(intDiv(number, {{steps:UInt64}})) AS key,
    toInt64(number % {{steps:UInt64}}) AS step, 1 AS attempt, 'w' AS writer, 1 AS segment,
    intDiv(step, 4096) AS position, step % 4096 AS cell, 1700000000000000 + step * 100000 AS time,
    toFloat64(toFloat32(3 * exp(-step / 200000) + 0.1 * (cityHash64(number) % 10000) / 10000)) AS value
FROM numbers({{start:UInt64}}, {{count:UInt64}})
"""
_POINTS = f"INSERT INTO points {_SERIES} SETTINGS min_insert_block_size_rows = 20000000, max_threads = 2"
_ROLLUPS = f"""
INSERT INTO rollups SELECT team, run, key, intDiv(step, 1024) AS bucket, min(step), max(step),
    argMax(time, step), argMax(value, step), min(value), argMin(step, value), max(value), argMax(step, value),
    count()
FROM ({_SERIES}) GROUP BY team, run, key, bucket
"""


def fill(store: Store, steps: int, series: int) -> None:
    for first in range(0, series, SERIES_AT_ONCE):
        count = min(SERIES_AT_ONCE, series - first)
        span = {"steps": steps, "start": first * steps, "count": count * steps}
        for sql in (_POINTS, _ROLLUPS):
            store.command(sql, parameters=span)


async def ask(client: Client, series: int, **fields: int) -> list[metric_pb2.Series]:
    keys = [f"key{place}" for place in range(series)]
    request = tracker_pb2.QuerySeriesRequest(
        parent=f"teams/{TEAM}", runs=[run_name(RUN)], keys=keys, max_buckets=1000, **fields
    )
    return list((await client.runs.QuerySeries(request)).series)


async def check(client: Client, steps: int) -> None:
    """The beginning of a series against its points, as exact zooms have them."""
    (drawn,) = await ask(client, 1)
    values: list[float] = []
    for start in range(0, min(steps, CHECKED), 1000):
        (exact,) = await ask(client, 1, start_step=start, end_step=min(start + 1000, steps))
        assert exact.exact
        values += exact.last
    for place, first in enumerate(drawn.steps):
        inside = values[first : first + drawn.counts[place]]
        if len(inside) < drawn.counts[place]:
            break
        found = (drawn.min[place], drawn.max[place], drawn.last[place])
        assert found == (min(inside), max(inside), inside[-1]), (first, found)
    assert sum(drawn.counts) == steps


async def main(steps: int, series: int, data: Path | None) -> None:
    with kept(data) as folder:
        points = folder / "tracker"
        await put_points(points, lambda store: fill(store, steps, series))
        async with answering(folder, points=points) as client:
            middle = steps // 2
            result: dict[str, object] = {"steps": steps, "series": series}
            for count in sorted({1, min(10, series), series}):
                result[f"chart of {count}"] = await timed(
                    lambda count=count: ask(client, count), TIMES, bar=BARS.get(count)
                )
            result["zoom"] = await timed(
                lambda: ask(client, 1, start_step=middle, end_step=middle + 1000), TIMES, bar=ZOOM
            )
            await check(client, steps)
    json.dump({**result, "load": round(os.getloadavg()[0], 1)}, sys.stdout)
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1_000_000, help="of each series")
    parser.add_argument("--series", type=int, default=10)
    parser.add_argument("--data", type=Path, help="a folder for the points, filled unless it was")
    given = parser.parse_args()
    asyncio.run(main(given.steps, given.series, given.data))
