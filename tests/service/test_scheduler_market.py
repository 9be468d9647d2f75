"""What SkyPilot has room for, and what it costs: who is launched, who waits with which words, when it goes
on, at which price it is settled, and that its end is enough. With a double, as it takes a place that is full
when we say so."""

from __future__ import annotations

import asyncio
import random
from ast import literal_eval
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn.quota.v1 import allocation_pb2, allocation_pb2_grpc, budget_pb2
from cairn.scheduler.v1 import job_pb2, scheduler_pb2
from tests.harness import fake_sky, quota, scheduler, servers
from tests.harness.scheduler import Scheduler

Job = job_pb2.Job
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def opened(
    nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> Callable[..., Any]:
    urls = {name: database_url(name) for name in ("quota", "scheduler")}

    @asynccontextmanager
    async def opening(sky_url: str) -> AsyncIterator[Scheduler]:
        async with (
            quota.running(
                postgres_url=urls["quota"], nats_url=nats_server.url, folder=tmp_path / "quota"
            ) as quotas,
            scheduler.running(
                quotas, postgres_url=urls["scheduler"], nats_url=nats_server.url, folder=tmp_path / "data",
                skypilot_url=sky_url,
            ) as running,
        ):  # fmt: skip
            yield running

    return opening


def task(accelerators: str, **more: Any) -> str:
    return str({"resources": {"infra": "slurm/lab", "accelerators": accelerators, **more}, "run": "ok"})


def waits(job: Job) -> bool:
    return job.reason.startswith("CapacityCircuitOpen")


async def told(cairn: Scheduler, job: Job) -> Job:
    """The job once its reason names a circuit: a remark, which no fact tells."""
    async with asyncio.timeout(30):
        while not waits(found := await cairn.job(job.name)):
            await asyncio.sleep(0.1)
    return found


async def test_one_tries_while_the_others_wait_and_all_run_when_room_comes(
    opened: Callable[..., Any], nats_server: servers.Nats
) -> None:
    async with fake_sky.running(nats_server.url, chance=random.Random(1), pace=0.1) as (sky, url):
        sky.full.add("H100")
        async with opened(url) as cairn:
            first = await told(cairn, await cairn.submit(task("H100:8")))
            second = await told(cairn, await cairn.submit(task("H100:8")))
            assert "there was no room for slurm/lab H100 once; it is tried again at" in first.reason
            assert not second.attempts
            # Not a failure, and nobody else is held up: another kind, a smaller one, another way.
            assert first.state == Job.PENDING
            free = [{"accelerators": "H100:8"}, {"accelerators": "A100:8"}]
            others = [
                await cairn.submit(task("A100:8")),
                await cairn.submit(str({"resources": {"infra": "slurm/lab", "any_of": free}, "run": "ok"})),
            ]
            for other in others:
                assert (await cairn.ended(other)).state == Job.SUCCEEDED
            assert sky.asked[-1]["any_of"] == [{"accelerators": "A100:8"}]
        sky.full.clear()
        launches = len(sky.asked)
        # A new scheduler knows of it from what is written down.
        async with opened(url) as cairn:
            assert waits(await cairn.job(second.name))
            assert (await cairn.ended(first, timeout=90)).state == Job.SUCCEEDED
            end = await cairn.ended(second, timeout=30)
            assert (end.state, len(end.attempts)) == (Job.SUCCEEDED, 1)
            assert len(sky.asked) == launches + 2


async def test_what_skypilot_takes_for_it_is_what_is_settled(
    opened: Callable[..., Any], nats_server: servers.Nats
) -> None:
    async with fake_sky.running(nats_server.url, chance=random.Random(2), pace=0.1) as (sky, url):
        sky.hourly = 7.2
        async with opened(url) as cairn:
            tree = (
                "{flavors: {x: {price: 3600}}, tree: {organisation: o, children: [{team: main}]},"
                " budgets: {b: {node: main, unit: money, amount: 1000, window: {one_off: {}}}}}"
            )
            admin = await cairn.quota.allocation()
            await admin.ApplyTree(allocation_pb2.ApplyTreeRequest(document=tree))
            job = await cairn.submit(str({**literal_eval(task("A100:1")), "run": "wait"}))
            priced = await cairn.until(
                job, lambda now: now.attempts and now.attempts[0].price_micros_per_hour
            )
            assert priced.attempts[0].price_micros_per_hour == 7_200_000
            await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
            attempt = (await cairn.ended(job)).attempts[0]
            ran = attempt.end_time.ToMilliseconds() - attempt.start_time.ToMilliseconds()
            async with asyncio.timeout(30):
                while (spent := await balance(admin)).held or not spent.settled:
                    await asyncio.sleep(0.05)
            # 7.2 dollars an hour are two millionths a millisecond, to which each moment is rounded down.
            assert abs(spent.settled - 2 * ran) <= 2


def price(job: Job) -> int:
    return job.attempts[0].price_micros_per_hour if job.attempts else 0


async def balance(admin: allocation_pb2_grpc.AllocationServiceAsyncStub) -> budget_pb2.Balance:
    tree = await admin.GetTree(allocation_pb2.GetTreeRequest(use=True))
    return tree.budgets[0].balance


async def test_an_attempt_of_which_only_the_good_end_is_heard_has_succeeded(
    opened: Callable[..., Any], nats_server: servers.Nats
) -> None:
    async with (
        fake_sky.running(nats_server.url, chance=random.Random(1), pace=0.1) as (_, url),
        opened(url) as cairn,
    ):
        mute = await cairn.submit(str({"resources": {"infra": "slurm/lab"}, "run": "mute"}))
        (attempt,) = (ended := await cairn.ended(mute)).attempts
        assert (ended.state, attempt.state) == (Job.SUCCEEDED, job_pb2.Attempt.SUCCEEDED)
        assert attempt.start_time.ToDatetime() <= attempt.end_time.ToDatetime()
