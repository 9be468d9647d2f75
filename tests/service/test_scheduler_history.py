"""What the scheduler remembers of a job's life, whatever brought its states about."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from cairn.scheduler.v1 import job_pb2, scheduler_pb2, timeline_pb2
from cairn_common.ids import new_uid
from cairn_scheduler import history, store
from cairn_scheduler.timeline import Step
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

Job, Moment = job_pb2.Job, timeline_pb2.Moment


@pytest.fixture
async def cairn(
    nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Scheduler]:
    async with (
        quota.running(
            postgres_url=database_url("quota"), nats_url=nats_server.url, folder=tmp_path / "quota"
        ) as quotas,
        scheduler.running(
            quotas, postgres_url=database_url("scheduler"), nats_url=nats_server.url,
            folder=tmp_path / "data", local_cpus=1.0,
        ) as running,
    ):  # fmt: skip
        yield running
        left = await running.stub.ListJobs(scheduler_pb2.ListJobsRequest(parent="teams/main"))
        for job in left.jobs:
            if job.state not in scheduler.FINAL:
                await running.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
                await running.ended(job)


async def moments(cairn: Scheduler, job: Job) -> list[Moment]:
    found = await cairn.stub.GetTimeline(scheduler_pb2.GetTimelineRequest(name=job.name))
    assert found.job == job.name
    times = [moment.time.ToNanoseconds() for moment in found.moments]
    assert times == sorted(times)
    return list(found.moments)


async def explained(cairn: Scheduler, job: Job) -> None:
    """Waits until the loop has said why a job waits: a remark, of which no event tells."""
    async with asyncio.timeout(20):
        while (await cairn.job(job.name)).reason.startswith("NotEvaluated"):
            await asyncio.sleep(0.05)


def kinds(found: list[Moment]) -> list[str]:
    return [Moment.Kind.Name(moment.kind) for moment in found]


async def test_a_job_that_waited_died_and_went_on(cairn: Scheduler) -> None:
    first = await cairn.submit("run: exec sleep 600")
    await cairn.until(first, lambda now: now.state == Job.RUNNING)
    job = await cairn.submit('run: test "$CAIRN_ATTEMPT" = 2 || exec sleep 600')
    await explained(cairn, job)
    assert kinds(await moments(cairn, job)) == ["SUBMITTED", "WAITING"]
    await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=first.name))
    seen = await cairn.until(job, lambda now: now.state == Job.RUNNING and now.attempts[-1].pids)
    os.kill(seen.attempts[0].pids[0], signal.SIGKILL)
    await cairn.ended(job)
    found = await moments(cairn, job)
    assert kinds(found) == [
        "SUBMITTED", "WAITING", "ADMITTED", "LAUNCHING", "RUNNING", "ATTEMPT_ENDED", "RECOVERING",
        "LAUNCHING", "RUNNING", "ATTEMPT_ENDED", "FINISHED",
    ]  # fmt: skip
    assert found[0].text == "by admin"
    assert found[1].text
    assert found[5].cause == job_pb2.CAUSE_INFRA
    assert "SIGKILL" in found[5].text
    assert found[-1].state == Job.SUCCEEDED
    assert all(one.HasField("end_time") for one in found if one.kind in (Moment.WAITING, Moment.RUNNING))
    stopped = await moments(cairn, first)
    assert ("STOPPING", "by admin") in [(Moment.Kind.Name(one.kind), one.text) for one in stopped]


async def test_steps_are_kept_once_and_told_once(cairn: Scheduler) -> None:
    job = await cairn.submit("run: exec sleep 600")
    job = await cairn.until(job, lambda now: now.state == Job.RUNNING)
    whole = await store.job(cairn.db, team="main", uid=job.uid)
    assert whole is not None
    attempt = whole.attempts[0]
    text, told_of = "Slurm allocation 43 on lab", set()
    for _ in range(2):
        async with cairn.db.transaction() as conn:
            await history.add_step(conn, whole, attempt, Step(attempt.uid, 1, datetime.now(UTC), text))
            # In the transaction: nothing is relayed before it commits.
            rows = await conn.fetch("SELECT id FROM outbox WHERE subject LIKE $1", "%.attempt.stepped.%")
            told_of |= {row["id"] for row in rows}
    assert len(told_of) == 1
    told = [one for one in await moments(cairn, job) if one.kind == Moment.PROVISIONING]
    assert [(one.text, one.attempt) for one in told] == [(text, 1)]


async def test_of_a_reason_only_another_kind_is_remembered_and_not_for_ever(cairn: Scheduler) -> None:
    first = await cairn.submit("run: exec sleep 600")
    await cairn.until(first, lambda now: now.state == Job.RUNNING)
    job = await cairn.submit("run: x")
    await explained(cairn, job)
    for number in range(500):
        await cairn.db.execute(
            "UPDATE jobs SET reason = $2 WHERE uid = $1", job.uid, f"{'AB'[number // 2 % 2]}: {number}"
        )
    found = [one.text for one in await moments(cairn, job) if one.kind == Moment.WAITING]
    assert len(found) == 200
    assert found[-2:] == ["A: 496", "B: 498"]


async def test_of_another_teams_job_nothing_is_told(cairn: Scheduler) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cairn.stub.GetTimeline(scheduler_pb2.GetTimelineRequest(name=f"teams/main/jobs/{new_uid()}"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
