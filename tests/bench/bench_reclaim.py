"""A team takes all of its GPUs back: ``python -m tests.bench.bench_reclaim [GPUS]``, one JSON line.

One team has borrowed all of a park (4,000, if nothing is said) for one-GPU jobs; as many jobs of the owner
wait under a tree that holds it; then one is applied that does not. `plan_s`: from that call
until the last victim is told to end, committed with its fact; `reclaimed_s`: until the last of the owner's
jobs is admitted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time

import structlog

from tests.bench.cluster import parks
from tests.bench.cluster.platform import running

BAR = 10.0


async def main(gpus: int) -> None:
    """Runs it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    quotas = [("owner", gpus, 0), ("guest", 0, gpus)]
    async with running(parks.tree(quotas, held=["owner"]), gpus=gpus) as platform:
        db = await platform.database("scheduler")
        await parks.submit(platform, "guest", gpus, name="guest")
        await parks.until(db, "state = 'RUNNING'", gpus)
        await parks.submit(platform, "owner", gpus, name="owner")
        await parks.until(db, "team = 'owner' AND reason LIKE 'Held:%'", gpus)
        load, before = os.getloadavg()[0], platform.cpu_seconds()
        begun = time.monotonic()
        await platform.apply_tree(parks.tree(quotas))
        await parks.until(db, "team = 'guest' AND preempt_time IS NOT NULL OR retry_time IS NOT NULL", gpus)
        planned = time.monotonic() - begun
        await parks.until(db, "team = 'owner' AND admissions > 0", gpus)
        reclaimed = time.monotonic() - begun
        after = platform.cpu_seconds()
    figures = {
        "bench": "reclaim",
        "gpus": gpus,
        "plan_s": round(planned, 2),
        "bar_seconds": BAR,
        "reclaimed_s": round(reclaimed, 2),
        "cpu_s": {one: round(after[one] - before[one], 1) for one in after},
        "load_before": round(load, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000))
