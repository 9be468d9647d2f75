"""The scheduler in the test's own process, on real servers, with the real quota service and real runners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from grpc import aio

from cairn.scheduler.v1 import job_pb2, scheduler_pb2, scheduler_pb2_grpc
from cairn_common.bus import connect
from cairn_common.db import Database, pool
from cairn_common.ids import new_uid
from cairn_common.rpc import Server, channel
from cairn_scheduler.app import SCHEMA, run
from cairn_scheduler.arrivals import New, insert_jobs
from cairn_scheduler.model import Job, Spec, State
from cairn_scheduler.settings import SchedulerSettings
from tests.harness.quota import Quota
from tests.harness.service_process import ServiceProcess
from tests.harness.streams import of_jobs

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


class Process(ServiceProcess):
    """The scheduler as a process of its own; it is ready when what it does is seen in the database."""

    def __init__(self, quota: Quota, *, postgres_url: str, nats_url: str, folder: Path, **env: str) -> None:
        settings = {
            "CAIRN_POSTGRES_URL": postgres_url,
            "CAIRN_NATS_URL": nats_url,
            "CAIRN_SERVICE_TOKEN": quota.tokens.services["scheduler"],
            "CAIRN_QUOTA_ADDRESS": quota.address,
            "CAIRN_DATA_DIR": str(folder),
            "CAIRN_LOCAL_CPUS": "4",
            **env,
        }
        super().__init__("scheduler", settings, folder.parent / "scheduler.log")


async def queue_job(db: Database, run: str) -> str:
    """A job in the queue of a scheduler that may not answer; returns its uid."""
    now = datetime.now(UTC)
    job = Job(
        uid=new_uid(), team="main", state=State.PENDING, revision=1, creator="users/admin", create_time=now,
        update_time=now, spec=Spec(task="", setup="", run=run), experiment="default",
    )  # fmt: skip
    async with db.transaction() as conn:
        await insert_jobs(conn, [New(job, actor="users/admin")])
        await conn.execute("SELECT pg_notify('scheduler_wake', '')")
    return job.uid


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
    async with connect(nats_url, name="test") as bus:
        # The tracker's to make; runners publish into it.
        await of_jobs(bus)
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
