"""Console lines, searched and followed: ``python -m tests.bench.bench_logs`` prints one JSON line.

Milliseconds (p50, p95) of `ListLogLines` by gRPC among the lines of one run: a page of what a word, a pattern
and words that are nowhere match (bar 300 ms), and of its last 100 lines (bar 50 ms). A gigabyte of lines of
about 120 bytes unless told, put straight into the embedded engine's columns; ``--data FOLDER`` keeps them for
the next time. Every millionth line has the needle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import asyncpg
from clickhouse_connect.driver.client import Client as Store

from cairn.tracker.v1 import metric_pb2, tracker_pb2
from tests.bench.reading import answering, kept, put_points
from tests.bench.timing import timed
from tests.harness.tracker import TEAM, Client, run_name

RUN = "01" + "l" * 24
TIMES = 25
GREP, TAIL = 300, 50
NEEDLE = "CUDA out of memory"
SEARCHES = {"word": NEEDLE, "pattern": "(?i)out of +memory", "absent": "no such words"}
# Bytes of a line, about.
LINE = 118
LINES_AT_ONCE = 1_000_000
_FIELDS = ("loss", "grad_norm", "lr", "throughput", "tokens")
_TEXT = ", ".join(
    f"' {name}=', toString(0.000001 * (cityHash64(number, {place}) % 1000000))"
    for place, name in enumerate(_FIELDS)
)
_LINES = f"""
INSERT INTO lines SELECT '{TEAM}', '{RUN}', number + 1, 1, number % 8, 'stdout', number + 1, 1.7e9 + number,
    if(number % 1000000 = 7, 'RuntimeError: {NEEDLE}',
       concat('[rank', toString(number % 8), '] 2026-01-01 12:00:00 INFO epoch=',
              toString(intDiv(number, 10000)), ' step=', toString(number), {_TEXT}))
FROM numbers({{start:UInt64}}, {{count:UInt64}})
SETTINGS min_insert_block_size_rows = 1000000, max_threads = 2
"""
_RUN = """
INSERT INTO runs (team, uid, create_time, update_time, state, experiment, has_job, line_count)
VALUES ($1, $2, now(), now(), 4, 'default', false, $3)
"""


def fill(store: Store, lines: int) -> None:
    for start in range(0, lines, LINES_AT_ONCE):
        store.command(_LINES, parameters={"start": start, "count": min(LINES_AT_ONCE, lines - start)})


async def add_run(connection: asyncpg.Connection, lines: int) -> None:
    await connection.execute(_RUN, TEAM, RUN, lines)


async def ask(client: Client, **fields: str | int) -> list[metric_pb2.LogLine]:
    request = tracker_pb2.ListLogLinesRequest(parent=run_name(RUN), **fields)  # type: ignore[arg-type]
    return list((await client.runs.ListLogLines(request)).lines)


async def main(megabytes: int, data: Path | None) -> None:
    lines = megabytes * 10**6 // LINE
    with kept(data) as folder:
        points = folder / "tracker"
        await put_points(points, lambda store: fill(store, lines))
        async with answering(folder, points=points, fill=lambda db: add_run(db, lines)) as client:
            result: dict[str, object] = {"mb": megabytes, "lines": lines}
            for name, grep in SEARCHES.items():
                found = await ask(client, grep=grep)
                assert len(found) == (0 if name == "absent" else -(-(lines - 7) // 1_000_000)), (
                    name,
                    len(found),
                )
                result[name] = await timed(lambda grep=grep: ask(client, grep=grep), TIMES, bar=GREP)
            assert [line.number for line in await ask(client, tail=100)] == list(range(lines - 99, lines + 1))
            result["tail"] = await timed(lambda: ask(client, tail=100), TIMES, bar=TAIL)
    json.dump({**result, "load": round(os.getloadavg()[0], 1)}, sys.stdout)
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mb", type=int, default=1_000, help="of text")
    parser.add_argument("--data", type=Path, help="a folder for the lines, filled unless it was")
    given = parser.parse_args()
    asyncio.run(main(given.mb, given.data))
