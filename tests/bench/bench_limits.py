"""What many steps and many keys cost: ``python -m tests.bench.bench_limits`` prints one JSON line.

Milliseconds (p50, p95) of a chart of 1,000 buckets, of a zoom into 1,000 steps and of adding 1,000 points,
for a series of 1e6 and one of 1e7 steps; then of a chart of ten keys and of adding 1,000 points to ten keys,
in a run of 1,000 keys and one of 1e5. `ratio` is the larger one's p50 by the smaller one's: above 2 is too
much. On the embedded engine, without the bus and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.resources import files

import numpy as np

from cairn_tracker import points, rollups, series
from cairn_tracker.batch import MetricKey, Points
from cairn_tracker.clickhouse import ClickHouse, clickhouse
from cairn_tracker.model import Summary
from tests.bench.timing import timed

TIMES = 15
BATCH = 200_000
Known = dict[MetricKey, Summary]


def made(run: str, keys: list[str], start: int, steps: int) -> Points:
    """Points of all keys at the same steps, laid out by key."""
    step = np.tile(np.arange(start, start + steps, dtype=np.int64), len(keys))
    same = np.zeros(len(step), np.int64)
    return Points(
        metrics=[MetricKey("main", run, key) for key in keys], writers=["w"],
        metric=np.repeat(np.arange(len(keys)), steps), writer=same, step=step, attempt=same, segment=same,
        position=step // 4096, cell=step % 4096, time=1_700_000_000_000_000 + step * 100_000,
        value=np.random.default_rng(start).normal(size=len(step)),
    )  # fmt: skip


async def add(store: ClickHouse, known: Known, batch: Points) -> None:
    await points.add(store, batch)
    known |= await rollups.keep(store, batch, known)


def chart(
    store: ClickHouse, run: str, keys: list[str], first: int = 0, end: int = 2**53
) -> Callable[[], Awaitable[object]]:
    return lambda: series.series(store, "main", runs=[run], keys=keys, max_buckets=1000, first=first, end=end)


async def of_steps(store: ClickHouse, run: str, steps: int) -> dict[str, dict[str, float]]:
    """One series of so many steps."""
    known: Known = {}
    for start in range(0, steps, BATCH):
        await add(store, known, made(run, ["loss"], start, min(BATCH, steps - start)))
    at = iter(range(steps, steps + TIMES * 1_000, 1_000))
    return {
        "chart": await timed(chart(store, run, ["loss"]), TIMES),
        "zoom": await timed(chart(store, run, ["loss"], steps // 2, steps // 2 + 1000), TIMES),
        "add": await timed(lambda: add(store, known, made(run, ["loss"], next(at), 1_000)), TIMES),
    }


async def of_keys(store: ClickHouse, run: str, count: int) -> dict[str, dict[str, float]]:
    """So many keys of ten steps each."""
    known: Known = {}
    keys = sorted(f"layer{number % 97}/weight{number}" for number in range(count))
    for start in range(0, count, BATCH // 10):
        await add(store, known, made(run, keys[start : start + BATCH // 10], 0, 10))
    some = keys[:: count // 10][:10]
    at = iter(range(10, 10 + TIMES * 100, 100))
    return {
        "chart": await timed(chart(store, run, some), TIMES),
        "add": await timed(lambda: add(store, known, made(run, some, next(at), 100)), TIMES),
    }


def compared(small: dict[str, dict[str, float]], large: dict[str, dict[str, float]]) -> dict[str, object]:
    return {
        name: {
            "small": small[name],
            "large": large[name],
            "ratio": round(large[name]["p50_ms"] / small[name]["p50_ms"], 2),
        }
        for name in small
    }


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        async with clickhouse(f"chdb://{folder}/store", readers=1) as store:
            await store.migrate(files("cairn_tracker") / "migrations" / "clickhouse")
            steps = [
                await of_steps(store, "01" + letter * 24, 10**power) for letter, power in (("a", 6), ("b", 7))
            ]
            keys = [
                await of_keys(store, "01" + letter * 24, 10**power) for letter, power in (("c", 3), ("d", 5))
            ]
    result = {"steps": compared(*steps), "keys": compared(*keys), "load": round(os.getloadavg()[0], 1)}
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    asyncio.run(main())
