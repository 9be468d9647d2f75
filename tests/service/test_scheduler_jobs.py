"""Jobs from submission to end: real processes by the real runner, real quota, bus and database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cairn.scheduler.v1 import job_pb2

from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

Job = job_pb2.Job


@pytest.fixture
async def quotas(
    nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[quota.Quota]:
    async with quota.running(
        postgres_url=database_url("quota"), nats_url=nats_server.url, folder=tmp_path / "quota"
    ) as running:
        yield running


@pytest.fixture
async def cairn(
    quotas: quota.Quota, nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Scheduler]:
    async with scheduler.running(
        quotas, postgres_url=database_url("scheduler"), nats_url=nats_server.url, folder=tmp_path / "data"
    ) as running:
        yield running


async def test_a_job_runs_and_succeeds(cairn: Scheduler) -> None:
    job = await cairn.submit("run: echo hello && test $COLOUR = red\nenvs: {COLOUR: red}\nname: first")
    assert (job.state, job.revision, job.display_name) == (Job.PENDING, 1, "first")
    end = await cairn.ended(job)
    assert (end.state, end.cause, end.message, end.reason) == (Job.SUCCEEDED, 0, "", "")
    (attempt,) = end.attempts
    assert (attempt.number, attempt.state, attempt.exit_code) == (1, job_pb2.Attempt.SUCCEEDED, 0)
    assert end.admissions == 1
    assert end.start_time.ToNanoseconds() <= end.end_time.ToNanoseconds()
