"""Submits through gRPC, durable, with their facts: ``python -m tests.bench.bench_submit [JOBS [CLIENTS]]``.

Prints one JSON line: unary submits a second (64 in flight), batched jobs a second (batches of 500, 4 in
flight), and from submit to ADMITTED in milliseconds. Services and clients are processes of their own; the
jobs that are counted are of teams that start nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import structlog

from cairn.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from cairn_common.rpc import channel
from tests.bench.cluster import parks
from tests.bench.cluster.platform import Platform, running

TASK = "run: exit 0\nresources: {cpus: 1}"
BATCH = 500
IN_FLIGHT = {"unary": 64, "batched": 4}


async def unary(
    stub: scheduler_pb2_grpc.SchedulerServiceAsyncStub,
    team: str,
    name: str,
    count: int,
    gate: asyncio.Semaphore,
) -> None:
    async def one(number: int) -> None:
        request = scheduler_pb2.CreateJobRequest(
            parent=f"teams/{team}", task=TASK, request_id=f"{name}-{number}"
        )
        async with gate:
            await stub.CreateJob(request, timeout=60)

    await asyncio.gather(*map(one, range(count)))


async def batched(
    stub: scheduler_pb2_grpc.SchedulerServiceAsyncStub,
    team: str,
    name: str,
    count: int,
    gate: asyncio.Semaphore,
) -> None:
    async def one(first: int) -> None:
        requests = [
            scheduler_pb2.CreateJobRequest(task=TASK, request_id=f"{name}-{first + number}")
            for number in range(BATCH)
        ]
        async with gate:
            await stub.BatchCreateJobs(
                scheduler_pb2.BatchCreateJobsRequest(parent=f"teams/{team}", requests=requests), timeout=60
            )

    await asyncio.gather(*(one(first) for first in range(0, count, BATCH)))


WAYS: dict[str, Callable[..., Awaitable[None]]] = {"unary": unary, "batched": batched}


def client(address: str, token: str, way: str, team: str, name: str, count: int, flying: int) -> list[float]:
    """One of the clients, in its own process: when it began and when it was through."""

    async def work() -> list[float]:
        async with channel(address, token) as calls:
            stub = scheduler_pb2_grpc.SchedulerServiceStub(calls)
            await stub.ListJobs(scheduler_pb2.ListJobsRequest(parent=f"teams/{team}", page_size=1))
            begin = time.time()
            await WAYS[way](stub, team, name, count, asyncio.Semaphore(flying))
            return [begin, time.time()]

    return asyncio.run(work())


async def rate(platform: Platform, clients: ProcessPoolExecutor, way: str, count: int, among: int) -> float:
    """Jobs a second of all clients together, from the first one's first call to the last one's answer."""
    loop = asyncio.get_running_loop()
    args = (platform.addresses["scheduler"], platform.tokens.admin, way, way)
    each, flying = count // among, max(1, IN_FLIGHT[way] // among)
    calls = [loop.run_in_executor(clients, client, *args, f"{count}-{n}", each, flying) for n in range(among)]
    times = await asyncio.gather(*calls)
    return each * among / (max(end for _, end in times) - min(begin for begin, _ in times))


async def admitted(platform: Platform, count: int) -> list[float]:
    """Milliseconds from the call to the row that says ADMITTED or later, one job at a time."""
    stub, db = await platform.jobs(), await platform.database("scheduler")
    taken = []
    for _ in range(count):
        begin = time.time()
        job = await stub.CreateJob(scheduler_pb2.CreateJobRequest(parent="teams/open", task=TASK))
        async with asyncio.timeout(60):
            while (at := await db.fetchval("SELECT admit_time FROM jobs WHERE uid = $1", job.uid)) is None:
                await asyncio.sleep(0.002)
            while await db.fetchval("SELECT end_time FROM jobs WHERE uid = $1", job.uid) is None:
                await asyncio.sleep(0.01)
        taken.append((at.timestamp() - begin) * 1000)
    return taken


async def main(count: int, among: int) -> None:
    """Runs it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    tree = parks.tree([("open", 1, 0), ("unary", 1, 0), ("batched", 1, 0)], held=["unary", "batched"])
    async with running(tree) as platform:
        with ProcessPoolExecutor(among, mp_context=get_context("spawn")) as clients:
            times = await admitted(platform, 30)
            await rate(platform, clients, "unary", 200, among)
            load, before = os.getloadavg()[0], platform.cpu_seconds()
            alone = await rate(platform, clients, "unary", count, among)
            between = platform.cpu_seconds()
            together = await rate(platform, clients, "batched", count * 5, among)
            after = platform.cpu_seconds()
    figures = {
        "bench": "submit",
        "unary_per_s": round(alone),
        "batched_per_s": round(together),
        "admitted_ms_p50": round(statistics.median(times), 1),
        "admitted_ms_p99": round(sorted(times)[-1], 1),
        "jobs": count,
        "clients": among,
        "unary_cpu_s": {one: round(between[one] - before[one], 1) for one in after},
        "batched_cpu_s": {one: round(after[one] - between[one], 1) for one in after},
        "load_before": round(load, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(*([int(word) for word in sys.argv[1:]] + [2000, 1][len(sys.argv) - 1 :])))
