"""Why a job waits, asked of the real scheduler; what-if; a snapshot that is decided again elsewhere."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from cairn.quota.v1 import allocation_pb2, node_pb2, tree_pb2
from cairn.scheduler.v1 import infra_pb2, infra_pb2_grpc, outlook_pb2, outlook_pb2_grpc, scheduler_pb2
from cairn_common.rpc import channel
from cairn_scheduler.engine import snapshot_file
from cairn_scheduler.engine.explain import starts
from cairn_server.replay import replay, words
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler
from tests.service.test_scheduler_engine import gpus, waits


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


async def test_a_job_that_waits_is_told_why_and_what_would_let_it_start(cairn: Scheduler) -> None:
    first = await cairn.submit(gpus(4))
    await cairn.until(first, lambda now: bool(now.attempts))
    second = await cairn.submit(gpus(3))
    await waits(cairn, second, "CapacityFull")
    async with channel(cairn.address, cairn.quota.tokens.admin) as calls:
        stub = outlook_pb2_grpc.OutlookServiceStub(calls)
        found = await stub.ExplainJob(outlook_pb2.ExplainJobRequest(name=second.name))
        assert found.code == "CapacityFull"
        assert (found.position, found.waiting) == (1, 1)
        assert [one.job for one in found.holders] == [first.name]
        assert "if 1 running job ended" in [one.words for one in found.changes]
        running = await stub.ExplainJob(outlook_pb2.ExplainJobRequest(name=first.name))
        assert (running.code, "does not wait" in running.sentence) == ("", True)
        lost = await stub.WhatIf(outlook_pb2.WhatIfRequest(lose_pool="local"))
        assert (list(lost.lost), list(lost.starts)) == ([first.uid], [])
        with pytest.raises(aio.AioRpcError) as error:
            await stub.WhatIf(outlook_pb2.WhatIfRequest(lose_pool="moon"))
        assert error.value.code() is StatusCode.INVALID_ARGUMENT
        text = (await stub.GetSnapshot(outlook_pb2.GetSnapshotRequest())).snapshot
    assert not starts(snapshot_file.load(text), second.uid)
    told = replay(text)
    assert list(told["waiting"]) == [second.uid]
    assert json.loads(json.dumps(told)) == told
    assert words(told).startswith(f"waits     {second.uid}  CapacityFull")
    for job in (second, first):
        await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
        await cairn.ended(job)


async def test_a_plan_says_before_submitting_what_the_job_is_told_after(cairn: Scheduler) -> None:
    async with channel(cairn.address, cairn.quota.tokens.admin) as calls:
        plans, outlook = infra_pb2_grpc.InfraServiceStub(calls), outlook_pb2_grpc.OutlookServiceStub(calls)
        request = infra_pb2.PlanJobRequest(parent="teams/main", task=gpus(3))
        free = (await plans.PlanJob(request)).outlook
        assert (free.code, free.sentence) == ("", "it would start now")
        first = await cairn.submit(gpus(4))
        await cairn.until(first, lambda now: bool(now.attempts))
        before = (await plans.PlanJob(request)).outlook
        second = await cairn.submit(gpus(3))
        await waits(cairn, second, "CapacityFull")
        after = await outlook.ExplainJob(outlook_pb2.ExplainJobRequest(name=second.name))
        assert before.job == ""
        before.job = second.name
        assert before == after
    for job in (second, first):
        await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
        await cairn.ended(job)


async def test_another_quota_tree_is_tried_before_it_rules(cairn: Scheduler) -> None:
    team = await cairn.quota.team()
    trees = await cairn.quota.allocation()

    def document(most: int) -> str:
        quotas = f"{{plain: {{gpu: {{nominal: {most}, max: {most}}}}}}}"
        node = f"{{team: {team}, quotas: {quotas}}}"
        return f"flavors: {{plain: {{}}}}\ntree: {{organisation: acme, children: [{node}]}}\n"

    async def tree(most: int) -> tree_pb2.QuotaTree:
        asked = allocation_pb2.ApplyTreeRequest(document=document(most), validate_only=True)
        return (await trees.ApplyTree(asked)).tree

    await trees.ApplyTree(allocation_pb2.ApplyTreeRequest(document=document(1)))
    first = await cairn.submit(gpus(1), team=team)
    await cairn.until(first, lambda now: bool(now.attempts))
    second = await cairn.submit(gpus(1), team=team)
    await waits(cairn, second, "may use")
    async with channel(cairn.address, cairn.quota.tokens.admin) as calls:
        stub = outlook_pb2_grpc.OutlookServiceStub(calls)
        more = await stub.WhatIf(outlook_pb2.WhatIfRequest(tree=await tree(2)))
        assert (list(more.starts), list(more.waits), list(more.lost)) == ([second.uid], [], [])
        same = await stub.WhatIf(outlook_pb2.WhatIfRequest(tree=await tree(1)))
        assert (list(same.starts), list(same.lost)) == ([], [])
        both = await stub.WhatIf(outlook_pb2.WhatIfRequest(tree=await tree(2), lose_pool="local"))
        assert (list(both.starts), list(both.lost)) == ([], [first.uid])
        broken = tree_pb2.QuotaTree(nodes=[node_pb2.QuotaNode(id="a", parent="b")])
        for asked in (outlook_pb2.WhatIfRequest(tree=broken), outlook_pb2.WhatIfRequest()):
            with pytest.raises(aio.AioRpcError) as error:
                await stub.WhatIf(asked)
            assert error.value.code() is StatusCode.INVALID_ARGUMENT
    # Nothing of it came true.
    await waits(cairn, second, "may use")
    for job in (second, first):
        await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
        await cairn.ended(job)
