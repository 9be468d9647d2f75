"""A hundred random stops and crashes over SkyPilot's clusters (a double of its HTTP API, for their number).

The scheduler is killed, the API server forgets, nodes die: no job is lost, none runs twice, no cluster stays.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from cairn.scheduler.v1 import job_pb2, orphan_pb2, orphan_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from cairn_common.ids import new_uid
from cairn_common.rpc import channel
from cairn_server import ports
from tests.harness import fake_sky, quota, servers
from tests.harness.fake_sky import FakeSky
from tests.harness.scheduler import FINAL, Process

SEED = int(os.environ.get("CAIRN_TEST_SEED", "7"))
EVENTS = 100
T = TypeVar("T")


class World:
    """The scheduler's process, its callers, and the double."""

    def __init__(
        self, process: Process, sky: FakeSky, calls: grpc.aio.Channel, chance: random.Random
    ) -> None:
        self.process = process
        self.sky = sky
        self.chance = chance
        self.jobs = scheduler_pb2_grpc.SchedulerServiceStub(calls)
        self.audit = orphan_pb2_grpc.OrphanServiceStub(calls)
        self.submitted: dict[str, str] = {}
        self.stopped: set[str] = set()

    async def submit(self) -> None:
        """A job of a random kind."""
        command = self.chance.choice(("ok", "ok", "wait", "fail"))
        request = scheduler_pb2.CreateJobRequest(
            parent="teams/main", request_id=new_uid(),
            task=f"resources: {{infra: slurm/lab}}\nrun: {command}\ncairn: {{max_retries: 20}}\n",
        )  # fmt: skip
        job = await insist(lambda: self.jobs.CreateJob(request))
        self.submitted[job.name] = command

    async def stop(self, name: str) -> None:
        """Somebody stops a job; one that has ended already stays as it is."""
        self.stopped.add(name)
        try:
            await insist(lambda: self.jobs.CancelJob(scheduler_pb2.CancelJobRequest(name=name)))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise

    async def disturb(self) -> None:
        """One stop or crash."""
        match self.chance.choices(("stop", "kill", "crash", "lose"), (12, 3, 3, 2))[0]:
            case "stop":
                await self.stop(self.chance.choice(list(self.submitted)))
            case "kill":
                self.process.kill()
                self.process.start()
            case "crash":
                self.sky.crash()
            case "lose" if self.sky.clusters:
                self.sky.lose(self.chance.choice(list(self.sky.clusters)))

    async def all_jobs(self) -> list[job_pb2.Job]:
        """Each as it is now."""
        request = scheduler_pb2.ListJobsRequest(parent="teams/main", page_size=1000)
        return list((await insist(lambda: self.jobs.ListJobs(request))).jobs)

    async def orphans(self) -> list[orphan_pb2.Orphan]:
        """What the audit says."""
        found = await insist(lambda: self.audit.ListOrphans(orphan_pb2.ListOrphansRequest()))
        return list(found.orphans)


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """A call again and again while the scheduler is away."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.05)


@pytest.fixture
async def quotas(
    nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[quota.Quota]:
    async with quota.running(
        postgres_url=database_url("quota"), nats_url=nats_server.url, folder=tmp_path / "quota"
    ) as running:
        yield running


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_after_random_stops_and_crashes_there_is_no_orphan(
    quotas: quota.Quota,
    nats_server: servers.Nats,
    database_url: Callable[[str], str],
    tmp_path: Path,
) -> None:
    chance = random.Random(SEED)
    # Not one that the kernel gives to somebody's connection while the scheduler is away.
    (port,) = ports.free(["scheduler"]).values()
    address = f"127.0.0.1:{port}"
    async with fake_sky.running(nats_server.url, chance=chance) as (sky, url):
        process = Process(
            quotas, postgres_url=database_url("scheduler"), nats_url=nats_server.url,
            folder=tmp_path / "data", CAIRN_SKYPILOT_URL=url, CAIRN_SKYPILOT_LOOK_SECONDS="0.5",
            CAIRN_GRPC_BIND=address,
        )  # fmt: skip
        process.start()
        try:
            async with channel(address, quotas.tokens.admin) as calls:
                world = World(process, sky, calls, chance)
                for _ in range(EVENTS):
                    await world.submit()
                    await asyncio.sleep(chance.uniform(0, 0.4))
                    await world.disturb()
                await settle(world)
                await judge(world)
        finally:
            process.kill()


async def settle(world: World) -> None:
    """Stops what waits; returns when every job has ended and the audit finds nothing."""
    for name, command in world.submitted.items():
        if command == "wait":
            await world.stop(name)
    async with asyncio.timeout(300):
        while any(job.state not in FINAL for job in await world.all_jobs()) or await world.orphans():
            await asyncio.sleep(0.2)


async def judge(world: World) -> None:
    jobs = {job.name: job for job in await world.all_jobs()}
    assert jobs.keys() == world.submitted.keys(), "a job is lost"
    expected = {"ok": job_pb2.Job.SUCCEEDED, "fail": job_pb2.Job.FAILED, "wait": job_pb2.Job.CANCELLED}
    odd = {
        name: job_pb2.Job.State.Name(job.state)
        for name, job in jobs.items()
        if job.state != expected[world.submitted[name]]
        and not (name in world.stopped and job.state == job_pb2.Job.CANCELLED)
    }
    assert not odd
    assert +world.sky.doubled == {}, "an attempt ran twice at a time"
    # One whose node dies before its last word is on the bus is rightly tried again.
    again = {name: world.sky.told[job.uid] for name, job in jobs.items() if world.sky.told[job.uid] > 1}
    assert not again, "a job was done twice"
    unproved = [
        name
        for name, job in jobs.items()
        if job.state == job_pb2.Job.SUCCEEDED and not world.sky.done[job.uid]
    ]
    assert not unproved
    assert world.sky.clusters == {}, "the audit says that there is none"
