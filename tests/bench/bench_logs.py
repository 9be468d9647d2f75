"""Console lines, searched and followed: ``python -m tests.bench.bench_logs [MB]`` prints one JSON line.

How fast lines (without the bus and PostgreSQL) are written, bytes on disk a byte of text, and milliseconds
(p50, p95) of a page of what a word, a pattern and words that are nowhere match among the lines of one run,
and of its last 100 lines. On the embedded engine; 250 MB of lines of about 110 bytes unless told: a gigabyte
takes minutes to write.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files

from cairn_tracker import logs
from cairn_tracker.batch import Line, RunKey
from cairn_tracker.clickhouse import ClickHouse, clickhouse
from tests.bench.timing import timed

RUN = RunKey("main", "01" + "l" * 24)
BATCH = 50_000
TIMES = 9
NEEDLE = "CUDA out of memory"
_SIZE = """
SELECT sum(bytes_on_disk) FROM system.parts
WHERE active AND database = currentDatabase() AND table = 'lines'
"""
_WORDS = ("epoch", "step", "loss", "grad_norm", "lr", "throughput", "tokens", "eval", "acc", "saved", "gpu")


def texts(count: int) -> list[str]:
    chance = random.Random(1)
    return [
        f"[rank{number % 8}] 2026-01-01 12:{number % 60:02}:{chance.randrange(60):02} INFO "
        + " ".join(f"{chance.choice(_WORDS)}={chance.random():.6f}" for _ in range(5))
        for number in range(count)
    ]


async def write(store: ClickHouse, megabytes: int) -> tuple[int, int, float]:
    """Lines, their bytes, and seconds of writing them; one line in a million has the needle."""
    some, lines, size, taken = texts(BATCH), 0, 0, 0.0
    counts = {RUN: 0}
    while size < megabytes * 10**6:
        made = [
            Line(RUN, "w", 1, place % 8, "stdout", lines + place + 1, 1.7e9 + lines + place, text)
            for place, text in enumerate(some)
        ]
        if lines % 1_000_000 == 0:
            made[7] = Line(RUN, "w", 1, 7, "stderr", lines + 8, 1.7e9, f"RuntimeError: {NEEDLE}")
        begin = time.perf_counter()
        counts = await logs.add(store, made, counts)
        taken += time.perf_counter() - begin
        lines += BATCH
        size += sum(map(len, some))
    return lines, size, taken


async def main(megabytes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        async with clickhouse(f"chdb://{folder}/store", readers=1) as store:
            await store.migrate(files("cairn_tracker") / "migrations" / "clickhouse")
            lines, size, seconds = await write(store, megabytes)
            ((on_disk,),) = await store.query(_SIZE, {})

            def page(grep: str) -> Callable[[], Awaitable[object]]:
                query = logs.Query(*RUN, last=lines, grep=grep)
                return lambda: logs.read(store, query, after=0, most=1000)

            everything = logs.Query(*RUN, last=lines)
            result = {
                "mb": size // 10**6,
                "lines": lines,
                "mb_per_s": round(size / 1e6 / seconds),
                "bytes_per_byte": round(on_disk / size, 3),
                "word": await timed(page(NEEDLE), TIMES),
                "pattern": await timed(page("(?i)out of +memory"), TIMES),
                "absent": await timed(page("no such words"), TIMES),
                "tail": await timed(lambda: logs.tail(store, everything, 100), TIMES),
                "load": round(os.getloadavg()[0], 1),
            }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:] or ["250"])))
