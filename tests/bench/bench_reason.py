"""From submit to a true reason: one JSON line.

``python -m tests.bench.bench_reason [PENDING SAMPLES [TEAMS]]``.
10,000 jobs of 100 teams wait (if nothing is said) for a park that is full. Jobs are submitted one at a time,
each of a team that waits for its own quota; measured is from the call until GetJob tells a reason that the
engine found. It has to be the one that ExplainJob decides anew, for a sample of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import statistics
import sys
import time

import structlog

from cairn.scheduler.v1 import job_pb2, outlook_pb2, outlook_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from cairn_common.rpc import channel
from tests.bench.cluster import parks
from tests.bench.cluster.platform import Platform, running

BAR_MS = 1000.0
_EXPLAINED = 5


async def told(stub: scheduler_pb2_grpc.SchedulerServiceAsyncStub, team: str) -> tuple[job_pb2.Job, float]:
    """A new job once its reason is known, and how many seconds that took."""
    begun = time.monotonic()
    request = scheduler_pb2.CreateJobRequest(parent=f"teams/{team}", task=parks.task())
    first = await stub.CreateJob(request)
    job = first
    async with asyncio.timeout(60):
        while job.reason == first.reason:
            await asyncio.sleep(0.01)
            job = await stub.GetJob(scheduler_pb2.GetJobRequest(name=first.name))
    return job, time.monotonic() - begun


async def wrong(platform: Platform, jobs: list[job_pb2.Job]) -> int:
    """Of how many jobs the reason is another one than is found when it is asked for."""
    async with channel(platform.addresses["scheduler"], platform.tokens.admin) as calls:
        stub = outlook_pb2_grpc.OutlookServiceStub(calls)
        bad = 0
        for job in jobs:
            request = outlook_pb2.ExplainJobRequest(name=job.name)
            found = await stub.ExplainJob(request, timeout=60)
            bad += found.code != job.reason.partition(":")[0]
    return bad


async def main(pending: int, samples: int, teams: int = 100) -> None:
    """Runs it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    quotas = [(f"t{n}", 1, 0) for n in range(teams)]
    async with running(parks.tree(quotas), gpus=teams) as platform:
        db = await platform.database("scheduler")
        for team, _, _ in quotas:
            await parks.submit(platform, team, pending // teams + 1, name="wait")
        count = pending // teams * teams
        await parks.until(db, "state = 'RUNNING'", teams)
        await parks.until(db, "state = 'PENDING' AND reason LIKE 'QuotaFull%'", count)
        load = os.getloadavg()[0]
        jobs, times, stub = [], [], await platform.jobs()
        for number in range(samples):
            job, seconds = await told(stub, f"t{number % teams}")
            jobs.append(job)
            times.append(seconds * 1000)
        figures = {
            "bench": "reason",
            "pending": count,
            "teams": teams,
            "reason_ms_p50": round(statistics.median(times)),
            "reason_ms_p99": round(statistics.quantiles(times, n=100)[98]),
            "bar_ms": BAR_MS,
            "kinds": sorted({job.reason.partition(":")[0] for job in jobs}),
            "wrong": await wrong(platform, jobs[:: max(1, samples // _EXPLAINED)]),
            "load_before": round(load, 1),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers or [10_000, 200])))
