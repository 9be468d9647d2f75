"""Where jobs can run, as callers of the scheduler see it; without SkyPilot, or with one that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from cairn.scheduler.v1 import infra_pb2, infra_pb2_grpc, scheduler_pb2
from cairn_common.rpc import channel
from cairn_scheduler import reach
from tests.harness import quota, scheduler, servers
from tests.harness.problem import problem
from tests.harness.scheduler import Scheduler

Infra = infra_pb2.Infra
# Nothing listens there.
AWAY = "http://127.0.0.1:9"


@pytest.fixture
def opened(
    nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> Callable[..., Any]:
    @asynccontextmanager
    async def opening(
        **settings: Any,
    ) -> AsyncIterator[tuple[Scheduler, infra_pb2_grpc.InfraServiceAsyncStub]]:
        async with (
            quota.running(
                postgres_url=database_url("quota"), nats_url=nats_server.url, folder=tmp_path / "quota"
            ) as quotas,
            scheduler.running(
                quotas,
                postgres_url=database_url("scheduler"),
                nats_url=nats_server.url,
                folder=tmp_path / "data",
                **settings,
            ) as running,
            channel(running.address, quotas.tokens.admin) as calls,
        ):
            yield running, infra_pb2_grpc.InfraServiceStub(calls)

    return opening


def plan(task: str) -> infra_pb2.PlanJobRequest:
    return infra_pb2.PlanJobRequest(parent="teams/main", task=task)


async def test_without_skypilot_this_machine_is_shown_and_how_to_start_it(
    opened: Callable[..., Any],
) -> None:
    async with opened() as (running, stub):
        found = await stub.ListInfras(infra_pb2.ListInfrasRequest())
        assert found.complete
        here, sky = found.infras
        assert (here.name, here.state, here.problem) == ("infras/local", Infra.ENABLED, "")
        assert (here.accelerators[0].total, here.accelerators[0].free) == (4, 4)
        assert (sky.name, sky.state) == ("infras/skypilot", Infra.DISABLED)
        assert "cairn up --skypilot" in sky.remedy
        assert set(reach.ACCESS) == {f"/{reach.NAME}/{m}" for m in ("ListInfras", "PlanJob")}
        stranger = infra_pb2_grpc.InfraServiceStub(
            await running.stack.enter_async_context(channel(running.address, None))
        )
        error = await problem(stranger.ListInfras(infra_pb2.ListInfrasRequest()))
        assert error.code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_plan_refuses_what_a_submit_refuses_and_stores_nothing(opened: Callable[..., Any]) -> None:
    async with opened() as (running, stub):
        found = await stub.PlanJob(plan("num_nodes: 2\nresources: {cpus: 1, accelerators: 'GPU:2'}\nrun: x"))
        assert [(one.infra, one.num_nodes, one.accelerators) for one in found.placements] == [
            ("local", 2, "GPU:2")
        ]
        assert not found.placements[0].HasField("price")
        sweep = "envs: {LR: 1}\nrun: x\ncairn: {sweep: {parameters: {LR: [1, 2, 3]}}}"
        assert (await stub.PlanJob(plan(sweep))).jobs == 3
        for task in (
            "run: x\nresources: {cpus: 999}",
            "run: x\nresources: {cpus: many}",
            "run: x\nresources: {infra: slurm/lab}",
            "run: x\nnonsense: 1",
            "",
        ):
            asked = scheduler_pb2.CreateJobRequest(parent="teams/main", task=task, validate_only=True)
            real, planned = await asyncio.gather(
                problem(running.stub.CreateJob(asked)), problem(stub.PlanJob(plan(task)))
            )
            assert (planned.code, planned.reason, planned.message, planned.metadata) == (
                real.code, real.reason, real.message, real.metadata,
            )  # fmt: skip
        assert (await running.db.fetchval("SELECT count(*) FROM jobs")) == 0


async def test_a_skypilot_that_is_away_is_said_to_be_and_holds_nobody_up(opened: Callable[..., Any]) -> None:
    async with opened(skypilot_url=AWAY) as (_, stub):
        async with asyncio.timeout(20):
            found = await stub.ListInfras(infra_pb2.ListInfrasRequest())
        assert found.complete
        here, sky = found.infras
        assert here.state == Infra.ENABLED
        assert (sky.name, sky.state) == ("infras/skypilot", Infra.UNREACHABLE)
        assert AWAY in sky.problem
        assert "CAIRN_SKYPILOT_URL" in sky.remedy
        error = await problem(stub.PlanJob(plan("run: x\nresources: {infra: slurm/lab}")))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        assert AWAY in error.message
