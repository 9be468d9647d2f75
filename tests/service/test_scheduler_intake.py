"""New jobs, many at once: all or none, each once, whoever shares the transaction."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from cairn.quota.v1 import allocation_pb2
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


async def test_a_batch_under_one_id_is_made_once(cairn: Scheduler) -> None:
    team = await team_without_room(cairn)
    asked = scheduler_pb2.BatchCreateJobsRequest(
        parent=f"teams/{team}", requests=[Create(task=TASK)] * 3, request_id="b1"
    )
    answers = await asyncio.gather(*(cairn.stub.BatchCreateJobs(asked) for _ in range(20)))
    assert {tuple(job.uid for job in answer.jobs) for answer in answers} == {
        tuple(job.uid for job in answers[0].jobs)
    }
    asked.requests.add(task=TASK)
    with pytest.raises(aio.AioRpcError) as refused:
        await cairn.stub.BatchCreateJobs(asked)
    assert from_rpc_error(refused.value).reason is Reason.REQUEST_ID_REUSED
    assert await count(cairn, team) == 3


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


async def limited(cairn: Scheduler, **limits: int) -> str:
    """A team that may run nothing, with these limits on what comes in."""
    team = await team_without_room(cairn)
    node = {"team": team, "limits": limits}
    document = json.dumps({"flavors": {"plain": {}}, "tree": {"organisation": "acme", "children": [node]}})
    admin = await cairn.quota.allocation()
    await admin.ApplyTree(allocation_pb2.ApplyTreeRequest(document=document))
    return team


async def refusal(call: Any) -> Any:
    with pytest.raises(aio.AioRpcError) as error:
        await call
    return from_rpc_error(error.value)


async def test_of_many_submits_at_once_no_more_wait_than_may(cairn: Scheduler) -> None:
    other, team = await team_without_room(cairn), await limited(cairn, pending_jobs=3)
    requests = [Create(parent=f"teams/{team}", task=TASK, request_id=f"r{number}") for number in range(12)]
    answers = await asyncio.gather(*map(cairn.stub.CreateJob, requests), return_exceptions=True)
    made = {one.request_id: job for one, job in zip(requests, answers, strict=True) if not error_of(job)}
    assert len(made) == await count(cairn, team) == 3
    errors = [from_rpc_error(one) for one in answers if error_of(one)]
    assert {error.reason for error in errors} == {Reason.QUOTA_EXCEEDED}
    assert {error.metadata["resource"] for error in errors} == {"pending_jobs"}
    # What is there already is answered, and made no second time.
    for request in requests:
        if request.request_id in made:
            assert (await cairn.stub.CreateJob(request)).uid == made[request.request_id].uid
    # No road goes around it, and nobody else is kept.
    grid = f"{TASK}\nenvs: {{x: '0'}}\ncairn: {{sweep: {{parameters: {{x: [1, 2]}}}}}}"
    sweep = scheduler_pb2.CreateSweepRequest(parent=f"teams/{team}", task=grid)
    assert (await refusal(cairn.stub.CreateSweep(sweep))).reason is Reason.QUOTA_EXCEEDED
    assert (await refusal(batch(cairn, team, Create(task=TASK)))).reason is Reason.QUOTA_EXCEEDED
    assert await count(cairn, team) == 3
    await batch(cairn, other, *[Create(task=TASK) for _ in range(5)])
    # Room in the queue is room again.
    first = next(iter(made.values()))
    await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=first.name))
    await cairn.stub.CreateJob(Create(parent=f"teams/{team}", task=TASK))


async def test_no_more_come_in_an_hour_than_may_also_where_they_have_ended(cairn: Scheduler) -> None:
    team = await limited(cairn, submits_per_hour=2)
    for _ in range(2):
        job = await cairn.stub.CreateJob(Create(parent=f"teams/{team}", task=TASK))
        await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
    error = await refusal(cairn.stub.CreateJob(Create(parent=f"teams/{team}", task=TASK)))
    assert error.metadata["resource"] == "submits_per_hour"
    assert "2 jobs may come an hour" in error.message


def error_of(answer: Any) -> bool:
    return isinstance(answer, aio.AioRpcError)
