"""Submits through gRPC, durable, with their facts: ``python -m tests.bench.bench_submit [JOBS]``.

Prints one JSON line: unary submits a second (64 in flight), batched jobs a second (batches of 500, 4 in
flight), and from submit to ADMITTED in milliseconds. The services run in this process, on real PostgreSQL and
JetStream.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import structlog

from cairn.scheduler.v1 import scheduler_pb2
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

TASK = "run: exit 0\nresources: {cpus: 1}"


async def unary(cairn: Scheduler, team: str, count: int) -> float:
    gate = asyncio.Semaphore(64)

    async def one(number: int) -> None:
        async with gate:
            await cairn.submit(TASK, team=team, request_id=f"u{number}")

    begin = time.perf_counter()
    await asyncio.gather(*map(one, range(count)))
    return count / (time.perf_counter() - begin)


async def batched(cairn: Scheduler, team: str, count: int) -> float:
    gate = asyncio.Semaphore(4)

    async def one(first: int) -> None:
        requests = [
            scheduler_pb2.CreateJobRequest(task=TASK, request_id=f"b{first + number}")
            for number in range(500)
        ]
        async with gate:
            await cairn.stub.BatchCreateJobs(
                scheduler_pb2.BatchCreateJobsRequest(parent=f"teams/{team}", requests=requests)
            )

    begin = time.perf_counter()
    await asyncio.gather(*(one(first) for first in range(0, count, 500)))
    return count / (time.perf_counter() - begin)


async def admitted(cairn: Scheduler, count: int) -> list[float]:
    """Milliseconds from the call to the row that says ADMITTED or later, one job at a time."""
    taken = []
    for _ in range(count):
        begin = time.time()
        job = await cairn.submit(TASK)
        async with asyncio.timeout(60):
            while (
                at := await cairn.db.fetchval("SELECT admit_time FROM jobs WHERE uid = $1", job.uid)
            ) is None:
                await asyncio.sleep(0.002)
        taken.append((at.timestamp() - begin) * 1000)
        await cairn.ended(job)
    return taken


async def main(count: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as name:
        folder = Path(name)
        postgres = await asyncio.to_thread(servers.start_postgres, folder / "pg")
        nats = await asyncio.to_thread(servers.start_nats, folder / "nats")
        try:
            postgres.create_database("cairn")
            url = {schema: postgres.create_schema("cairn", schema) for schema in ("quota", "scheduler")}
            async with (
                quota.running(
                    postgres_url=url["quota"], nats_url=nats.url, folder=folder / "quota"
                ) as quotas,
                scheduler.running(
                    quotas, postgres_url=url["scheduler"], nats_url=nats.url, folder=folder / "data"
                ) as cairn,
            ):
                # Teams without room, before the first call: who a caller is, is remembered for a while.
                team, alone, together = [await quotas.team(jobs=0) for _ in range(3)]
                times = await admitted(cairn, 30)
                await unary(cairn, team, 200)
                figures = {
                    "unary_per_s": round(await unary(cairn, alone, count)),
                    "batched_per_s": round(await batched(cairn, together, count * 5)),
                    "admitted_ms_p50": round(statistics.median(times), 1),
                    "admitted_ms_p99": round(sorted(times)[-1], 1),
                    "jobs": count,
                    "load": round(os.getloadavg()[0], 1),
                }
                print(json.dumps(figures))
        finally:
            nats.stop()
            postgres.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
