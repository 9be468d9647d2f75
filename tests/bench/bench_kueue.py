"""Kueue's generators through the services: ``python -m tests.bench.bench_kueue [baseline|large-scale]``.

Prints one JSON line: seconds from the first creator's start to the last job's end, what each process used of
the CPU, and whether all of it was right. Jobs end by a timer (`cluster.timed`) that begins when an attempt is
launched; Kueue's own begins when its workload is admitted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import statistics
import sys
from collections.abc import Sequence

import structlog

from tests.bench.cluster import verdict
from tests.bench.cluster.drive import all_ended, submit
from tests.bench.cluster.generators import SHAPES, Shape, creators, team, tree
from tests.bench.cluster.platform import Platform, running

BARS = {"baseline": 80.0, "large-scale": 60.0}
TIMEOUT = 900.0


async def judge(platform: Platform, shape: Shape, *, besides: Sequence[str] = ()) -> dict[str, object]:
    """What is wrong with a run; all of it should be 0. `besides`: teams that are not the generator's."""
    whole = await asyncio.to_thread(verdict.attempts, platform.journal)
    ran = [one for one in whole if one.team not in besides]
    groups = {team(c, q): f"cohort-{c}" for c in range(shape.cohorts) for q in range(shape.queues)}
    most = verdict.most_used(ran, group=groups)
    may = shape.nominal * shape.queues
    done = await verdict.succeeded(await platform.database("scheduler"), besides=besides)
    return {
        "lost": shape.jobs - done,
        "doubled": verdict.doubled(ran),
        "over_quota": sum(used > may for used in most.values()),
        "attempts": len(ran),
        "gpu_s_used": round(verdict.seconds_used(ran)),
        "gpu_s_lost": round(verdict.lost(ran)),
    }


async def waits(platform: Platform) -> dict[str, float]:
    """From submit to the last admission, seconds, the mean by class."""
    db = await platform.database("scheduler")
    rows = await db.fetch(
        "SELECT split_part(display_name, '-', 1) AS kind,"
        " avg(extract(epoch FROM admit_time - create_time))::float8 AS wait FROM jobs GROUP BY 1 ORDER BY 1"
    )
    return {f"wait_{row['kind']}_s": round(row["wait"], 2) for row in rows}


async def main(name: str) -> None:
    """Runs it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    shape = SHAPES[name]
    async with running(tree(shape)) as platform:
        if os.environ.get("BENCH_PIDS"):
            print({one.name: one.pid for one in platform.services.values()}, file=sys.stderr)
        load = os.getloadavg()[0]
        before = platform.cpu_seconds()
        told = await submit(platform, creators(shape))
        last = await all_ended(platform, shape.jobs, timeout=TIMEOUT)
        after = platform.cpu_seconds()
        figures = {
            "bench": name,
            "jobs": shape.jobs,
            "seconds": round(last - told.begun, 1),
            "bar_seconds": BARS[name],
            "submitted_s": round(told.over - told.begun, 1),
            "submit_ms_p99": round(statistics.quantiles(told.took, n=100)[98] * 1000),
            **await waits(platform),
            **await judge(platform, shape),
            "cpu_s": {one: round(after[one] - before[one], 1) for one in after},
            "load_before": round(load, 1),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "baseline"))
