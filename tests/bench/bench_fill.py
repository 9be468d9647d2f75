"""An empty park is filled: ``python -m tests.bench.bench_fill [NODES GPUS_EACH]``, one JSON line.

As many one-GPU jobs as there are GPUs (500 nodes of 8, if nothing is said) wait while the scheduler is away.
`admitted_s`: from the moment that it is called for until the last admission is committed, with its fact;
`launched_s`: until the last attempt has begun. The place is one of all GPUs (`cluster.timed`), through the
real services.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time

import structlog

from cairn.scheduler.v1 import scheduler_pb2
from cairn_common.db import Database
from tests.bench.cluster.platform import Platform, running

TEAMS = 20
BAR = 5.0
_BATCH = 500


def tree(gpus: int) -> str:
    """Teams that share all of it alike, and may borrow the rest."""
    each = f"{{h100: {{gpu: {{nominal: {gpus // TEAMS}, borrow_limit: {gpus}}}}}}}"
    teams = ", ".join(f"{{team: t{n}, quotas: {each}}}" for n in range(TEAMS))
    return (
        "{flavors: {h100: {}}, tree: {organisation: acme, preemption: {within: lower, reclaim: any},"
        f" children: [{teams}]}}}}"
    )


def task(*, gpus: int = 1, seconds: float = 3600, grace: float = 1) -> str:
    """Of one job."""
    return (
        f"run: sleep {seconds}\nresources: {{accelerators: 'GPU:{gpus}', cpus: 1}}\n"
        f"cairn: {{grace: {grace}s}}\n"
    )


async def submit(platform: Platform, teams: list[str], count: int, text: str, *, name: str) -> None:
    """So many jobs, spread over teams."""
    stub = await platform.jobs()
    share = count // len(teams)
    for team in teams:
        for at in range(0, share, _BATCH):
            requests = [
                scheduler_pb2.CreateJobRequest(task=text, request_id=f"{name}-{n}")
                for n in range(at, min(at + _BATCH, share))
            ]
            batch = scheduler_pb2.BatchCreateJobsRequest(parent=f"teams/{team}", requests=requests)
            await stub.BatchCreateJobs(batch, timeout=60)


async def until(db: Database, query: str, count: int, *, timeout: float = 300) -> None:
    """Waits until the query counts so many."""
    async with asyncio.timeout(timeout):
        while await db.fetchval(query) < count:
            await asyncio.sleep(0.02)


async def fill(platform: Platform, count: int) -> dict[str, float]:
    """The figures."""
    db = await platform.database("scheduler")
    # Held by nobody, launched by nobody: the one that decides is stopped while they come.
    await platform.pause_deciding()
    await submit(platform, [f"t{n}" for n in range(TEAMS)], count, task(), name="fill")
    await platform.resume_deciding()
    begun = time.time()
    await until(db, "SELECT count(*) FROM attempts WHERE state = 'RUNNING'", count)
    launched = time.time() - begun
    row = await db.fetchrow("SELECT extract(epoch FROM max(admit_time))::float8 AS last FROM jobs")
    assert row is not None
    return {"admitted_s": round(float(row["last"]) - begun, 2), "launched_s": round(launched, 2)}


async def main(nodes: int, each: int) -> None:
    """Runs it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    gpus = nodes * each
    async with running(tree(gpus), gpus=gpus) as platform:
        load = os.getloadavg()[0]
        figures = await fill(platform, gpus)
    print(json.dumps({"bench": "fill", "jobs": gpus, **figures, "bar_seconds": BAR, "load": round(load, 1)}))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers or [500, 8])))
