"""The database and the bus die under the scheduler while jobs run: it waits, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from grpc import aio

from cairn.scheduler.v1 import job_pb2
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

Job = job_pb2.Job


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[servers.Postgres]:
    server = servers.start_postgres(tmp_path / "postgres")
    server.create_database("cairn")
    yield server
    server.stop()


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[servers.Nats]:
    server = servers.start_nats(tmp_path / "nats")
    yield server
    server.stop()


@pytest.fixture
async def cairn(
    own_postgres: servers.Postgres, own_nats: servers.Nats, tmp_path: Path
) -> AsyncIterator[Scheduler]:
    url = {name: own_postgres.create_schema("cairn", name) for name in ("quota", "scheduler")}
    async with (
        quota.running(postgres_url=url["quota"], nats_url=own_nats.url, folder=tmp_path / "quota") as quotas,
        scheduler.running(
            quotas, postgres_url=url["scheduler"], nats_url=own_nats.url, folder=tmp_path / "data"
        ) as running,
    ):
        yield running


async def patiently(cairn: Scheduler, task: str, request_id: str) -> Job:
    """Submits as a client does: again under the same id while the platform is away."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await cairn.submit(task, request_id=request_id)
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("victim", ["postgres", "nats"])
async def test_jobs_go_on_and_end_right_while_a_server_is_killed(
    cairn: Scheduler,
    own_postgres: servers.Postgres,
    own_nats: servers.Nats,
    tmp_path: Path,
    victim: str,
) -> None:
    server = own_postgres if victim == "postgres" else own_nats
    wait = f"until test -e {tmp_path}/go; do sleep 0.05; done"
    before = await patiently(cairn, f"run: {wait}", "before")
    await cairn.until(before, lambda job: job.state == Job.RUNNING)
    await asyncio.to_thread(server.kill)
    # It ends while nobody can write that down, or tell it.
    (tmp_path / "go").touch()
    during = asyncio.create_task(patiently(cairn, "run: 'true'", "during"))
    await asyncio.to_thread(server.start)
    for job in (before, await during):
        end = await cairn.ended(job)
        assert (end.state, len(end.attempts)) == (Job.SUCCEEDED, 1)
