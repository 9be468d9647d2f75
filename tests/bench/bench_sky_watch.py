"""What it costs the scheduler to watch 200 attempts on SkyPilot: prints one JSON line.

``python -m tests.bench.bench_sky_watch [ATTEMPTS [SECONDS]]``. The clusters are those of a double of
SkyPilot's HTTP API; their runners' beats (one each 15 s) go over a real NATS to the scheduler's own process,
with a real PostgreSQL and the real quota service. What is told is that process's time on a CPU.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
from pathlib import Path

import grpc
import psutil

from cairn.scheduler.v1 import job_pb2, scheduler_pb2, scheduler_pb2_grpc
from cairn_common.rpc import channel
from cairn_server import ports
from tests.harness import fake_sky, quota, servers
from tests.harness.scheduler import Process

TASK = "resources: {infra: slurm/lab}\nrun: wait\n"


async def measure(
    folder: Path, nats: servers.Nats, postgres: servers.Postgres, count: int, pause: float
) -> float:
    """Seconds of CPU that the scheduler used in `pause` seconds."""
    postgres.create_database("bench")
    urls = {name: postgres.create_schema("bench", name) for name in ("quota", "scheduler")}
    (port,) = ports.free(["scheduler"]).values()
    async with (
        quota.running(postgres_url=urls["quota"], nats_url=nats.url, folder=folder / "quota") as quotas,
        fake_sky.running(nats.url, chance=random.Random(1), pace=0.05) as (_, url),
        channel(f"127.0.0.1:{port}", quotas.tokens.admin) as calls,
    ):
        process = Process(
            quotas, postgres_url=urls["scheduler"], nats_url=nats.url, folder=folder / "data",
            CAIRN_SKYPILOT_URL=url, CAIRN_GRPC_BIND=f"127.0.0.1:{port}",
        )  # fmt: skip
        process.start()
        try:
            jobs = scheduler_pb2_grpc.SchedulerServiceStub(calls)
            await submit(jobs, count)
            await all_running(jobs, count)
            # The last beat of each has come, and the last launch is written down.
            await asyncio.sleep(20)
            watched = psutil.Process(process.pid)
            before = sum(watched.cpu_times()[:2])
            await asyncio.sleep(pause)
            return sum(watched.cpu_times()[:2]) - before
        finally:
            process.kill()


async def submit(jobs: scheduler_pb2_grpc.SchedulerServiceAsyncStub, count: int) -> None:
    for number in range(count):
        request = scheduler_pb2.CreateJobRequest(
            parent="teams/main", task=TASK, request_id=f"bench-{number:04}"
        )
        while True:
            try:
                await jobs.CreateJob(request)
                break
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)


async def all_running(jobs: scheduler_pb2_grpc.SchedulerServiceAsyncStub, count: int) -> None:
    request = scheduler_pb2.ListJobsRequest(parent="teams/main", page_size=1000, states=[job_pb2.Job.RUNNING])
    while len((await jobs.ListJobs(request)).jobs) < count:
        await asyncio.sleep(0.5)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    pause = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    # Not below a folder that another user could not enter: PostgreSQL does not run as root.
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        (folder / "nats").mkdir()
        nats = servers.start_nats(folder / "nats")
        postgres = servers.start_postgres(folder, durable=False)
        try:
            used = asyncio.run(measure(folder, nats, postgres, count, pause))
        finally:
            postgres.stop()
            nats.stop()
    result = {
        "attempts": count,
        "seconds": pause,
        "cpu_seconds": round(used, 2),
        "percent_of_a_core": round(100 * used / pause, 2),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
