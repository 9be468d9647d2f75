"""New jobs, many at once: all or none, each once, whoever shares the transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from cairn.scheduler.v1 import scheduler_pb2
from cairn_common.errors import Reason, from_rpc_error
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

Create = scheduler_pb2.CreateJobRequest
# Nothing of this machine holds so much at once: they wait.
TASK = "run: exit 0\nresources: {cpus: 4}"


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


async def team_without_room(cairn: Scheduler) -> str:
    return await cairn.quota.team(jobs=0)


async def batch(cairn: Scheduler, team: str, *requests: Create) -> scheduler_pb2.BatchCreateJobsResponse:
    return await cairn.stub.BatchCreateJobs(
        scheduler_pb2.BatchCreateJobsRequest(parent=f"teams/{team}", requests=requests)
    )


async def count(cairn: Scheduler, team: str) -> int:
    return int(await cairn.db.fetchval("SELECT count(*) FROM jobs WHERE team = $1", team))


async def test_a_batch_makes_each_job_once_and_tells_of_it(cairn: Scheduler) -> None:
    team = await team_without_room(cairn)
    requests = [
        Create(task=TASK, request_id=f"r{number}", display_name=f"n{number}") for number in range(300)
    ]
    first = await batch(cairn, team, *requests)
    assert [job.display_name for job in first.jobs] == [one.display_name for one in requests]
    again = await batch(cairn, team, *requests[:100], Create(task=TASK, request_id="new"))
    assert [job.uid for job in again.jobs[:100]] == [job.uid for job in first.jobs[:100]]
    assert await count(cairn, team) == 301
    seen: set[str] = set()
    watch = cairn.stub.WatchJobs(scheduler_pb2.WatchJobsRequest(parent=f"teams/{team}"))
    async with asyncio.timeout(60):
        async for reply in watch:
            seen.add(reply.job.uid)
            if len(seen) == 301:
                break
    watch.cancel()


async def test_one_that_cannot_be_queued_keeps_all_of_its_batch_back(cairn: Scheduler) -> None:
    team = await team_without_room(cairn)
    for bad in (
        Create(task="run: 5"),
        Create(task=TASK, parent="teams/other"),
        Create(task=TASK, request_id="x" * 999),
    ):
        with pytest.raises(aio.AioRpcError) as refused:
            await batch(cairn, team, Create(task=TASK), bad)
        assert refused.value.code() is StatusCode.INVALID_ARGUMENT
        assert from_rpc_error(refused.value).metadata["index"] == "1"
    with pytest.raises(aio.AioRpcError) as refused:
        await batch(cairn, team, *(Create(task="run: a") for _ in range(1001)))
    assert from_rpc_error(refused.value).reason is Reason.FIELD_INVALID
    assert await count(cairn, team) == 0
    assert not (await batch(cairn, team)).jobs


async def test_parallel_submits_of_one_request_make_one_job(cairn: Scheduler) -> None:
    team = await team_without_room(cairn)
    jobs = await asyncio.gather(
        *(cairn.submit(TASK, team=team, request_id=f"r{number % 20}") for number in range(200))
    )
    assert len({job.uid for job in jobs}) == 20
    assert await count(cairn, team) == 20
    with pytest.raises(aio.AioRpcError) as refused:
        await cairn.submit("run: other", team=team, request_id="r0")
    assert from_rpc_error(refused.value).reason is Reason.REQUEST_ID_REUSED
