"""No room at SkyPilot: who is launched, who waits with which words, and when it goes on. With a double, as
it takes a place that is full and empty when we say so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cairn.scheduler.v1 import job_pb2
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
