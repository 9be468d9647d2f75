"""Quota killed again and again while jobs come, run and end: no unit is lost or charged twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest_asyncio
from grpc import aio

from cairn.quota.v1 import allocation_pb2, allocation_pb2_grpc, plan_pb2
from cairn.scheduler.v1 import events_pb2, job_pb2
from cairn_common.bus import Bus, connect
from cairn_common.db import Database, pool
from cairn_common.ids import new_uid
from cairn_common.rpc import channel
from cairn_common.subjects import STREAMS, subject
from cairn_server import ports
from tests.harness.books import check_books
from tests.harness.quota import Tokens
from tests.harness.service_process import ServiceProcess

KILLS = 5
BETWEEN = 25
"""Ends of jobs between two kills."""
GPUS = 3
LIMIT = 8
TEAM = "crash"
TREE = """
flavors: {x: {price: 3.6}}
tree: {organisation: o, children: [{team: crash, quotas: {x: {gpu: {max: 8}}}}]}
budgets:
  hours: {node: crash, unit: gpu-hours, amount: 5000, window: {one_off: {}}}
  ada: {user: ada, unit: money, amount: 9000, window: {one_off: {}}}
"""
Job = job_pb2.Job


@dataclass
class Place:
    """A quota service of its own, and what was done to it."""

    process: ServiceProcess
    address: str
    tokens: Tokens
    bus: Bus
    db: Database
    ended: int = 0
    ran_millis: int = 0
    most_held: int = 0
    told: asyncio.Event = field(default_factory=asyncio.Event)


@pytest_asyncio.fixture
async def place(database_url: Callable[[str], str], nats_url: str, tmp_path: Path) -> AsyncIterator[Place]:
    tokens, url = Tokens(), database_url("quota")
    address = f"127.0.0.1:{ports.free(['quota'])['quota']}"
    settings = {
        "CAIRN_POSTGRES_URL": url,
        "CAIRN_NATS_URL": nats_url,
        "CAIRN_SERVICE_TOKEN": tokens.services["quota"],
        "CAIRN_BOOTSTRAP": str(tokens.write(tmp_path / "bootstrap.json")),
        "CAIRN_GRPC_BIND": address,
    }
    process = ServiceProcess("quota", settings, tmp_path / "quota.log")
    process.start()
    try:
        async with connect(nats_url, name="test") as bus, pool(url, schema="quota", size=2) as db:
            await bus.ensure_stream("SCHEDULER", STREAMS["SCHEDULER"])
            yield Place(process, address, tokens, bus, db)
    except BaseException as error:
        error.add_note(process.log.read_text(errors="replace")[-3000:])
        raise
    finally:
        process.kill()


async def patiently(call: Callable[[], aio.UnaryUnaryCall[object, object]]) -> object:
    """Asked until it answers, as every neighbour of a killed service does."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except aio.AioRpcError:
                await asyncio.sleep(0.02)


async def one_job(
    place: Place, quota: allocation_pb2_grpc.AllocationServiceAsyncStub, ran: timedelta
) -> None:
    """Admitted as soon as there is room, has run for `ran`, and ends; told as the scheduler tells it."""
    uid = new_uid()
    hold = plan_pb2.Hold(
        name=f"teams/{TEAM}/reservations/{uid}-1",
        flavor="x",
        amounts={"gpu": GPUS * 1000, "jobs": 1000},
        user="users/ada",
    )
    request = allocation_pb2.ApplyPlanRequest(holds=[hold])
    while True:
        answer = await patiently(lambda: quota.ApplyPlan(request, timeout=5))
        assert isinstance(answer, allocation_pb2.ApplyPlanResponse)
        if answer.verdicts[0].code == plan_pb2.Verdict.HELD:
            break
        assert answer.verdicts[0].code == plan_pb2.Verdict.EXCEEDED, answer
        place.told.clear()
        await place.told.wait()
    job = Job(
        name=f"teams/{TEAM}/jobs/{uid}", uid=uid, state=Job.RUNNING, revision=1, admissions=1,
        creator="users/ada",
    )  # fmt: skip
    job.spec.resources.gpus = GPUS
    attempt = job.attempts.add(uid=f"{uid}a", number=1)
    end = datetime.now(UTC).replace(microsecond=0)
    attempt.start_time.FromDatetime(end - ran)
    await tell(place, job, "running")
    attempt.end_time.FromDatetime(end)
    job.state, job.revision = Job.SUCCEEDED, 2
    await tell(place, job, "finished")
    place.ended += 1
    place.ran_millis += ran // timedelta(milliseconds=1)


async def tell(place: Place, job: Job, event: str) -> None:
    fact = events_pb2.SchedulerEvent(id=new_uid(), actor="services/scheduler")
    getattr(fact, f"job_{event}").job.CopyFrom(job)
    await place.bus.publish(
        subject("scheduler", "job", event, TEAM, job.uid), fact.SerializeToString(), fact.id
    )


async def held(place: Place) -> int:
    """Thousandths of GPUs that reservations hold now."""
    found = await place.db.fetchval(
        "SELECT coalesce(sum((resources->>'gpu')::bigint), 0)::bigint FROM reservations WHERE state = 1"
    )
    assert isinstance(found, int)
    return found


async def watch(place: Place) -> None:
    """Looks at what is held all the time; wakes those who wait for room."""
    while True:
        place.most_held = max(place.most_held, await held(place))
        place.told.set()
        await asyncio.sleep(0.05)


async def test_killed_quota_leaves_books_that_add_up_to_the_millisecond(place: Place) -> None:
    async with channel(place.address, place.tokens.admin) as admin:
        tree = allocation_pb2.ApplyTreeRequest(document=TREE)
        await patiently(lambda: allocation_pb2_grpc.AllocationServiceStub(admin).ApplyTree(tree, timeout=5))
    async with channel(place.address, place.tokens.services["scheduler"]) as calls:
        quota = allocation_pb2_grpc.AllocationServiceStub(calls)
        done = asyncio.Event()

        async def work(number: int) -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                await one_job(place, quota, timedelta(milliseconds=1_777 * number + 10_001 * turn))

        looking = asyncio.create_task(watch(place))
        async with asyncio.timeout(180), asyncio.TaskGroup() as tasks:
            for number in range(4):
                tasks.create_task(work(number))
            for _ in range(KILLS):
                before = place.ended
                while place.ended < before + BETWEEN:
                    await asyncio.sleep(0.01)
                place.process.kill()
                place.process.start()
            done.set()
        async with asyncio.timeout(60):
            while await held(place) or await place.db.fetchval(
                "SELECT count(*) FROM meters WHERE end_time IS NULL"
            ):
                await asyncio.sleep(0.05)
        looking.cancel()
    await check_books(place.db)
    assert 0 < place.most_held <= LIMIT * 1000
    assert await place.db.fetchval("SELECT count(*) FROM meters") == place.ended
    rows = await place.db.fetch("SELECT budget, held, settled FROM balances")
    # 3.6 an hour is one millionth a millisecond, of each of the GPUs.
    spent = GPUS * place.ran_millis
    assert {row["budget"]: (row["held"], row["settled"]) for row in rows} == {
        "hours": (0, spent),
        "ada": (0, spent),
    }
