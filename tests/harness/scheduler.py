"""The scheduler in the test's own process, on real servers, with the real quota service and real runners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn.scheduler.v1 import job_pb2, scheduler_pb2, scheduler_pb2_grpc
from cairn_common.db import Database, pool
from cairn_common.rpc import Server, channel
from cairn_scheduler.app import SCHEMA, run
from cairn_scheduler.settings import SchedulerSettings
from google.protobuf.json_format import MessageToDict
from grpc import aio

from tests.harness.quota import Quota

FINAL = frozenset({job_pb2.Job.SUCCEEDED, job_pb2.Job.FAILED, job_pb2.Job.CANCELLED, job_pb2.Job.TIMED_OUT})


@dataclass
class Scheduler:
    """A running scheduler, as the admin's caller."""

    address: str
    folder: Path
    quota: Quota
    db: Database
    stub: scheduler_pb2_grpc.SchedulerServiceAsyncStub
    stack: AsyncExitStack

    async def calling(self, token: str | None) -> scheduler_pb2_grpc.SchedulerServiceAsyncStub:
        """The service as another caller sees it."""
        made: aio.Channel = await self.stack.enter_async_context(channel(self.address, token))
        return scheduler_pb2_grpc.SchedulerServiceStub(made)

    async def submit(self, task: str, *, team: str = "main", **fields: Any) -> job_pb2.Job:
        """A new job."""
        request = scheduler_pb2.CreateJobRequest(parent=f"teams/{team}", task=task, **fields)
        return await self.stub.CreateJob(request)

    async def job(self, name: str) -> job_pb2.Job:
        """The job as it is now."""
        return await self.stub.GetJob(scheduler_pb2.GetJobRequest(name=name))

    async def until(
        self, job: job_pb2.Job, true: Callable[[job_pb2.Job], object], *, timeout: float = 60.0
    ) -> job_pb2.Job:
        """The first version of a job for which this is true, as told by WatchJobs."""
        request = scheduler_pb2.WatchJobsRequest(parent=job.name.rpartition("/jobs/")[0], job=job.name)
        seen: list[str] = []
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        async for reply in self.stub.WatchJobs(request):
                            seen.append(f"{reply.event}/{job_pb2.Job.State.Name(reply.job.state)}")
                            if true(reply.job):
                                return reply.job
                    except aio.AioRpcError:
                        # The bus is not there yet, or went away: what there is now comes first again.
                        await asyncio.sleep(0.05)
        except TimeoutError:
            now = MessageToDict(await self.job(job.name))
            raise AssertionError(f"it did not come to be; seen: {seen}; now: {now}") from None

    async def ended(self, job: job_pb2.Job, *, timeout: float = 60.0) -> job_pb2.Job:
        """The job in its final state."""
        return await self.until(job, lambda now: now.state in FINAL, timeout=timeout)


@asynccontextmanager
async def running(
    quota: Quota, *, postgres_url: str, nats_url: str, folder: Path, **settings: Any
) -> AsyncIterator[Scheduler]:
    """The service while the block runs; `settings` are fields of SchedulerSettings."""
    made = SchedulerSettings(
        postgres_url=postgres_url,
        nats_url=nats_url,
        service_token=quota.tokens.services["scheduler"],
        quota_address=quota.address,
        data_dir=folder,
        **{"local_cpus": 4.0, "local_gpus": 4, **settings},
    )
    stop = asyncio.Event()
    server: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        service = tasks.create_task(run(made, stop=stop, ready=server.set_result))
        await asyncio.wait({service, server}, return_when=asyncio.FIRST_COMPLETED)
        if service.done():
            await service
        address = f"127.0.0.1:{server.result().port}"
        async with (
            AsyncExitStack() as stack,
            pool(postgres_url, schema=SCHEMA, size=2) as db,
            channel(address, quota.tokens.admin) as calls,
        ):
            stub = scheduler_pb2_grpc.SchedulerServiceStub(calls)
            yield Scheduler(address, folder, quota, db, stub, stack)
        stop.set()
