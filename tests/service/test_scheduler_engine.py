"""The engine at work: a quota tree, places that are lent and taken back, room for one of many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cairn.quota.v1 import allocation_pb2
from cairn.scheduler.v1 import job_pb2, scheduler_pb2
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

Job = job_pb2.Job
TREE = """
flavors:
  plain: {}
tree:
  organisation: acme
  children:
    - team: LENDER
      quotas: {plain: {gpu: {nominal: 2}}}
    - team: BORROWER
      quotas: {plain: {gpu: {nominal: 2}}}
"""


@pytest.fixture
async def cairn(
    nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Scheduler]:
    async with (
        quota.running(
            postgres_url=database_url("quota"), nats_url=nats_server.url, folder=tmp_path / "quota"
        ) as quotas,
        scheduler.running(
            quotas, postgres_url=database_url("scheduler"), nats_url=nats_server.url, folder=tmp_path / "data"
        ) as running,
    ):
        yield running


async def applied(cairn: Scheduler) -> tuple[str, str]:
    """Two new teams, two GPUs each, that lend what they do not use."""
    lender, borrower = await cairn.quota.team(), await cairn.quota.team()
    admin = await cairn.quota.allocation()
    document = TREE.replace("LENDER", lender).replace("BORROWER", borrower)
    await admin.ApplyTree(allocation_pb2.ApplyTreeRequest(document=document))
    return lender, borrower


def gpus(count: int, run: str = "sleep 600", **cairn: object) -> str:
    block = "".join(f"\n  {name}: {value}" for name, value in {"grace": 5, **cairn}.items())
    return f"run: {run}\nresources: {{cpus: 0.5, accelerators: 'GPU:{count}'}}\ncairn:{block}"


async def running(cairn: Scheduler, job: Job) -> Job:
    return await cairn.until(job, lambda now: now.state == Job.RUNNING and bool(now.attempts[-1].pids))


async def waits(cairn: Scheduler, job: Job, *words: str) -> Job:
    """The job once it is pending with one of these words as its reason: a remark, of which no event tells."""
    async with asyncio.timeout(30):
        while True:
            now = await cairn.job(job.name)
            if now.state == Job.PENDING and any(word in now.reason for word in words):
                return now
            await asyncio.sleep(0.05)


async def cancel(cairn: Scheduler, *jobs: Job) -> None:
    for job in jobs:
        await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
    for job in jobs:
        await cairn.ended(job)


async def test_what_was_lent_is_taken_back_and_its_job_goes_on_later(cairn: Scheduler) -> None:
    lender, borrower = await applied(cairn)
    own = [await cairn.submit(gpus(1), team=borrower) for _ in range(2)]
    for job in own:
        await running(cairn, job)
    lent = [await cairn.submit(gpus(1), team=borrower) for _ in range(2)]
    for job in lent:
        await running(cairn, job)
    claim = await cairn.submit(gpus(1), team=lender)
    await running(cairn, claim)
    now = [await cairn.job(job.name) for job in (*own, *lent)]
    taken = [job for job in now if job.state == Job.PENDING]
    assert len(taken) == 1
    assert taken[0].attempts[0].cause == job_pb2.CAUSE_PREEMPTED
    # Nothing of its own is free: it waits, and says why.
    await waits(cairn, taken[0], "may use", "CapacityFull")
    await cancel(cairn, claim)
    back = await cairn.until(taken[0], lambda job: job.state == Job.RUNNING)
    assert len(back.attempts) == 2
    await cancel(cairn, *own, *lent)


async def test_a_job_beyond_what_its_node_may_ever_use_says_so(cairn: Scheduler) -> None:
    lender, _ = await applied(cairn)
    job = await cairn.submit(gpus(1, flavors="[unknown]"), team=lender)
    await waits(cairn, job, "NoMatchingFlavor")
    await cancel(cairn, job)


async def test_many_submits_against_room_for_one_admit_one(cairn: Scheduler) -> None:
    team = await cairn.quota.team(jobs=1)
    jobs = await asyncio.gather(*(cairn.submit("run: sleep 600", team=team) for _ in range(50)))
    async with asyncio.timeout(60):
        while True:
            now = await asyncio.gather(*(cairn.job(job.name) for job in jobs))
            told = [job for job in now if job.state == Job.PENDING and "QuotaFull" in job.reason]
            if len(told) == 49:
                break
            await asyncio.sleep(0.1)
    held = await cairn.quota.db.fetchval(
        "SELECT count(*) FROM reservations WHERE state = 1 AND team = $1", team
    )
    assert held == 1
    await cancel(cairn, *jobs)
