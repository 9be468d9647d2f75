"""An empty park is filled: ``python -m tests.bench.bench_fill [NODES GPUS_EACH]``, one JSON line.

As many one-GPU jobs of 20 teams as there are GPUs (500 nodes of 8, if nothing is said) wait under a tree that
admits nothing; then one is applied that does. `admitted_s`: from that call until the last admission is
committed, with its fact; `launched_s`: until the last attempt runs. The place is one of all GPUs
(`cluster.timed`), through the real services.
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

TEAMS = 20
BAR = 5.0


async def main(nodes: int, each: int) -> None:
    """Runs it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    gpus = nodes * each
    quotas = [(f"t{n}", gpus // TEAMS, gpus) for n in range(TEAMS)]
    held = parks.tree(quotas, held=[team for team, _, _ in quotas])
    async with running(held, gpus=gpus) as platform:
        db = await platform.database("scheduler")
        for team, nominal, _ in quotas:
            await parks.submit(platform, team, nominal, name="fill")
        await parks.until(db, "reason LIKE 'Held:%'", gpus // TEAMS * TEAMS)
        load, before = os.getloadavg()[0], platform.cpu_seconds()
        begun = time.monotonic()
        await platform.apply_tree(parks.tree(quotas))
        await parks.until(db, "admissions > 0", gpus // TEAMS * TEAMS)
        admitted = time.monotonic() - begun
        await parks.until(db, "state = 'RUNNING'", gpus // TEAMS * TEAMS)
        launched = time.monotonic() - begun
        after = platform.cpu_seconds()
    figures = {
        "bench": "fill",
        "jobs": gpus // TEAMS * TEAMS,
        "admitted_s": round(admitted, 2),
        "bar_seconds": BAR,
        "launched_s": round(launched, 2),
        "cpu_s": {one: round(after[one] - before[one], 1) for one in after},
        "load_before": round(load, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers or [500, 8])))
