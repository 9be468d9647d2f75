"""What many steps and many keys cost: ``python -m tests.bench.bench_limits`` prints one JSON line.

Milliseconds (the median), by gRPC and the bus: of a chart of 1,000 buckets, of a zoom into 1,000 steps and of
adding 1,000 points until they can be queried, for a series of 1e6 steps and one of 1e7; then of a chart of
ten keys, of what is new of them, and of adding 1,000 points to ten keys, in a run of 1,000 keys and one of
1e5. `ratio` is the larger one's by the smaller one's: above 2 is too much.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
from clickhouse_connect.driver.client import Client as Store

from cairn.tracker.v1 import tracker_pb2
from tests.bench.reading import answering, put_points
from tests.harness.tracker import TEAM, Client, Spool, run_name

BAR = 2.0
FEW_STEPS, MANY_STEPS = 10**6, 10**7
FEW_KEYS, MANY_KEYS, STEPS_OF_KEYS = 10**3, 10**5, 10
RUNS = {letter: "01" + letter * 24 for letter in "abcd"}
Ask = Callable[[], Awaitable[object]]

_SOURCE = """
SELECT {team:String} AS team, {run:String} AS run, KEY AS key, toInt64(STEP) AS step, 1 AS attempt,
    'w' AS writer, 1 AS segment, intDiv(step, 4096) AS position, step % 4096 AS cell,
    1600000000000000 + step * 100000 AS time, (cityHash64(number) % 100000) / 1000 AS value
FROM numbers({start:UInt64}, {count:UInt64})
"""
_LOSS = _SOURCE.replace("KEY", "'loss'").replace("STEP", "number")
_LAYERS = _SOURCE.replace("KEY", "'weight' || leftPad(toString(intDiv(number, 10)), 6, '0')").replace(
    "STEP", "number % 10"
)
_ROLLUPS = """
INSERT INTO rollups SELECT team, run, key, intDiv(step, 1024) AS bucket, min(step), max(step),
    argMax(time, step), argMax(value, step), min(value), argMin(step, value), max(value), argMax(step, value),
    count()
FROM (SOURCE) GROUP BY team, run, key, bucket
"""
_RUN = """
INSERT INTO runs (team, uid, create_time, update_time, state, experiment, has_job)
VALUES ($1, $2, now(), now(), 2, 'default', false)
"""
_SUMMARIES = """
INSERT INTO summaries (team, run_uid, key, last, last_step, count, min, max)
SELECT $1, $2, key, 50, $4::bigint, $4::bigint + 1, 0, 100 FROM unnest($3::text[]) AS key
"""


def fill(store: Store) -> None:
    for run, source, rows in (
        ("a", _LOSS, FEW_STEPS), ("b", _LOSS, MANY_STEPS),
        ("c", _LAYERS, FEW_KEYS * STEPS_OF_KEYS), ("d", _LAYERS, MANY_KEYS * STEPS_OF_KEYS),
    ):  # fmt: skip
        given = {"team": TEAM, "run": RUNS[run], "start": 0, "count": rows}
        store.command(f"INSERT INTO points {source} SETTINGS max_threads = 2", parameters=given)
        store.command(_ROLLUPS.replace("SOURCE", source), parameters=given)


def layers(count: int) -> list[str]:
    return [f"weight{number:06}" for number in range(count)]


async def add_runs(connection: asyncpg.Connection) -> None:
    for run, keys, last in (
        ("a", ["loss"], FEW_STEPS - 1), ("b", ["loss"], MANY_STEPS - 1),
        ("c", layers(FEW_KEYS), STEPS_OF_KEYS - 1), ("d", layers(MANY_KEYS), STEPS_OF_KEYS - 1),
    ):  # fmt: skip
        await connection.execute(_RUN, TEAM, RUNS[run])
        await connection.execute(_SUMMARIES, TEAM, RUNS[run], keys, last)


def chart(client: Client, run: str, keys: list[str], **fields: int) -> Ask:
    return lambda: client.series(run, *keys, **fields)


def tail(client: Client, run: str, keys: list[str]) -> Ask:
    """What is new since a moment ago: nothing, mostly."""
    cursor = ""

    async def ask() -> None:
        nonlocal cursor
        request = tracker_pb2.TailSeriesRequest(
            parent=f"teams/{TEAM}", runs=[run_name(run)], keys=keys, cursor=cursor
        )
        cursor = (await client.runs.TailSeries(request)).cursor

    return ask


def add(client: Client, run: str, keys: list[str], at: Iterator[int], steps: int) -> Ask:
    """Points of keys, until they are taken in."""
    spool = Spool(run, attempt=1)

    async def work() -> None:
        start = next(at)
        values = [float(place % 7) for place in range(steps)]
        event = spool.points(list(range(start, start + steps)), **dict.fromkeys(keys, values))
        await client.publish(event)
        await client.applied(event)

    return work


def of_steps(client: Client, run: str, steps: int) -> dict[str, Ask]:
    middle = steps // 2
    return {
        "chart": chart(client, run, ["loss"]),
        "zoom": chart(client, run, ["loss"], start_step=middle, end_step=middle + 1000),
        "add": add(client, run, ["loss"], iter(range(steps, steps + 10**6, 1_000)), 1_000),
    }


def of_keys(client: Client, run: str, count: int) -> dict[str, Ask]:
    some = layers(count)[:: count // 10][:10]
    return {
        "chart": chart(client, run, some),
        "tail": tail(client, run, some),
        "add": add(client, run, some, iter(range(STEPS_OF_KEYS, 10**6, 100)), 100),
    }


async def compared(small: dict[str, Ask], large: dict[str, Ask], times: int) -> dict[str, object]:
    """Each in turn, so that both have the machine as it is then."""
    result: dict[str, object] = {}
    for name in small:
        taken: list[list[float]] = [[], []]
        for _ in range(times):
            for place, ask in enumerate((small[name], large[name])):
                begin = time.perf_counter()
                await ask()
                taken[place].append((time.perf_counter() - begin) * 1000)
        one, other = map(statistics.median, taken)
        result[name] = {
            "small_ms": round(one, 1),
            "large_ms": round(other, 1),
            "ratio": round(other / one, 2),
            "bar": BAR,
            "holds": other <= BAR * one,
        }
    return result


async def main(times: int) -> None:
    """Prints the line."""
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        points = Path(folder) / "tracker"
        points.mkdir()
        await put_points(points, fill)
        async with answering(Path(folder), points=points, fill=add_runs) as client:
            steps = [of_steps(client, RUNS["a"], FEW_STEPS), of_steps(client, RUNS["b"], MANY_STEPS)]
            keys = [of_keys(client, RUNS["c"], FEW_KEYS), of_keys(client, RUNS["d"], MANY_KEYS)]
            result = {
                "steps": await compared(steps[0], steps[1], times),
                "keys": await compared(keys[0], keys[1], times),
            }
    json.dump({**result, "load": round(os.getloadavg()[0], 1)}, sys.stdout)
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=25, help="that each is asked")
    asyncio.run(main(parser.parse_args().times))
