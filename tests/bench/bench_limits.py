"""What many steps and many keys cost: ``python -m tests.bench.bench_limits`` prints one JSON line.

Milliseconds (the median) of a chart of 1,000 buckets, of a zoom into 1,000 steps and of adding 1,000 points,
for a series of 1e6 and one of 1e7 steps; then of a chart of ten keys and of adding 1,000 points to ten keys,
in a run of 1,000 keys and one of 1e5. `ratio` is the larger one's by the smaller one's: above 2 is too
much. On the embedded engine, without the bus and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
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

TIMES = 25
BATCH = 200_000
Known = dict[MetricKey, Summary]
Ask = Callable[[], Awaitable[object]]


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


def chart(store: ClickHouse, run: str, keys: list[str], first: int = 0, end: int = 2**53) -> Ask:
    return lambda: series.series(store, "main", runs=[run], keys=keys, max_buckets=1000, first=first, end=end)


async def of_steps(store: ClickHouse, run: str, steps: int) -> dict[str, Ask]:
    """One series of so many steps, and what is done with it."""
    known: Known = {}
    for start in range(0, steps, BATCH):
        await add(store, known, made(run, ["loss"], start, min(BATCH, steps - start)))
    at = iter(range(steps, steps + 10**6, 1_000))
    return {
        "chart": chart(store, run, ["loss"]),
        "zoom": chart(store, run, ["loss"], steps // 2, steps // 2 + 1000),
        "add": lambda: add(store, known, made(run, ["loss"], next(at), 1_000)),
    }


async def of_keys(store: ClickHouse, run: str, count: int) -> dict[str, Ask]:
    """So many keys of ten steps each, and what is done with ten of them."""
    known: Known = {}
    keys = sorted(f"layer{number % 97}/weight{number}" for number in range(count))
    for start in range(0, count, BATCH // 10):
        await add(store, known, made(run, keys[start : start + BATCH // 10], 0, 10))
    some = keys[:: count // 10][:10]
    at = iter(range(10, 10**6, 100))
    return {
        "chart": chart(store, run, some),
        "add": lambda: add(store, known, made(run, some, next(at), 100)),
    }


async def compared(small: dict[str, Ask], large: dict[str, Ask]) -> dict[str, object]:
    """Each in turn, so that both have the machine as it is then."""
    result: dict[str, object] = {}
    for name in small:
        times: list[list[float]] = [[], []]
        for _ in range(TIMES):
            for place, ask in enumerate((small[name], large[name])):
                begin = time.perf_counter()
                await ask()
                times[place].append((time.perf_counter() - begin) * 1000)
        one, other = map(statistics.median, times)
        result[name] = {
            "small_ms": round(one, 1),
            "large_ms": round(other, 1),
            "ratio": round(other / one, 2),
        }
    return result


async def main() -> None:
    """Prints the line."""
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        async with clickhouse(f"chdb://{folder}/store", readers=1) as store:
            await store.migrate(files("cairn_tracker") / "migrations" / "clickhouse")
            runs = {letter: "01" + letter * 24 for letter in "abcd"}
            steps = [await of_steps(store, runs["a"], 10**6), await of_steps(store, runs["b"], 10**7)]
            keys = [await of_keys(store, runs["c"], 10**3), await of_keys(store, runs["d"], 10**5)]
            result = {"steps": await compared(*steps), "keys": await compared(*keys)}
    json.dump({**result, "load": round(os.getloadavg()[0], 1)}, sys.stdout)
    print()


if __name__ == "__main__":
    asyncio.run(main())
