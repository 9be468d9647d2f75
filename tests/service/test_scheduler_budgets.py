"""A spent budget on every road into the platform: what each rule lets start, go on, and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import yaml

from cairn._recipes.task import Wanted, code
from cairn.quota.v1 import allocation_pb2
from cairn.scheduler.v1 import job_pb2, outlook_pb2, outlook_pb2_grpc, scheduler_pb2
from cairn_common.rpc import channel
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

Job = job_pb2.Job
RULES = ("deny_new", "drain", "preempt")
TREE = """
flavors: {plain: {}}
tree: {organisation: acme, children: [{team: TEAM}]}
budgets: {b-TEAM: {node: TEAM, unit: gpu-hours, amount: HOURS, window: {one_off: {}}, overrun: RULE}}
"""
# Its first attempt ends by SIGKILL once the file is there: a fault that is tried again.
FRAGILE = """
run: |
  test "$CAIRN_ATTEMPT" = 1 || exit 0
  until test -e {go}; do sleep 0.02; done
  kill -9 $$
resources: {{cpus: 0.1, accelerators: 'GPU:1'}}
"""
# Its first attempt runs until it is told to end; the second ends well.
LONG = """
run: |
  test "$CAIRN_ATTEMPT" = 1 || exit 0
  sleep 600
resources: {cpus: 0.1, accelerators: 'GPU:1'}
"""
SHORT = "run: exit 0\nresources: {cpus: 0.1, accelerators: 'GPU:1'}"
SWEEP = SHORT + "\nenvs: {LR: 1}\ncairn: {sweep: {parameters: {LR: [1, 2]}}}"


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


async def organised(cairn: Scheduler, rule: str) -> str:
    """A new team with a budget of ten GPU-hours under this rule."""
    team = await cairn.quota.team()
    await grant(cairn, team, rule, 10)
    return team


async def grant(cairn: Scheduler, team: str, rule: str, hours: float) -> None:
    """The budget is this much from now on, whatever was used of it."""
    document = TREE.replace("TEAM", team).replace("RULE", rule).replace("HOURS", str(hours))
    await (await cairn.quota.allocation()).ApplyTree(allocation_pb2.ApplyTreeRequest(document=document))


async def running(cairn: Scheduler, job: Job) -> Job:
    return await cairn.until(job, lambda now: now.state == Job.RUNNING and bool(now.attempts[-1].pids))


async def waits(cairn: Scheduler, job: Job) -> None:
    """Until it is pending with the budget as its reason: a remark, of which no event tells."""
    async with asyncio.timeout(30):
        while not (await cairn.job(job.name)).reason.startswith("BudgetExhausted:"):
            await asyncio.sleep(0.05)


async def explained(cairn: Scheduler, job: Job) -> outlook_pb2.Explanation:
    async with channel(cairn.address, cairn.quota.tokens.admin) as calls:
        stub = outlook_pb2_grpc.OutlookServiceStub(calls)
        return await stub.ExplainJob(outlook_pb2.ExplainJobRequest(name=job.name))


async def every_new_road(cairn: Scheduler, team: str) -> list[Job]:
    """A job, the same again and from a checkpoint, the children of a sweep, and jobs of a batch."""
    parent = f"teams/{team}"
    one = await cairn.submit(SHORT, team=team)
    sweep = await cairn.stub.CreateSweep(scheduler_pb2.CreateSweepRequest(parent=parent, task=SWEEP))
    batch = await cairn.stub.BatchCreateJobs(
        scheduler_pb2.BatchCreateJobsRequest(
            parent=parent, requests=[scheduler_pb2.CreateJobRequest(task=SHORT)] * 2
        )
    )
    again = await cairn.stub.RerunJob(scheduler_pb2.RerunJobRequest(name=one.name))
    resumed = await cairn.stub.ResumeJob(
        scheduler_pb2.ResumeJobRequest(name=one.name, checkpoint=f"{parent}/artifacts/c/versions/1")
    )
    return [one, again, resumed, *sweep.jobs, *batch.jobs]


@pytest.mark.parametrize("rule", RULES)
async def test_new_jobs_wait_for_a_spent_budget_by_every_road_and_start_when_there_is_more(
    cairn: Scheduler, rule: str
) -> None:
    team = await organised(cairn, rule)
    await grant(cairn, team, rule, 0)
    jobs = await every_new_road(cairn, team)
    # What `cairn code` submits; it would end only when nobody comes.
    editor = await cairn.submit(yaml.safe_dump(code(Wanted("code", accelerators="GPU:1"))), team=team)
    for job in (*jobs, editor):
        await waits(cairn, job)
    await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=editor.name))
    why = await explained(cairn, jobs[0])
    assert (why.code, why.node) == ("BudgetExhausted", team)
    assert "budget" in [change.kind for change in why.changes]
    await grant(cairn, team, rule, 10)
    assert {(await cairn.ended(job)).state for job in jobs} == {Job.SUCCEEDED}


@pytest.mark.parametrize("rule", RULES)
async def test_what_runs_goes_on_or_is_held_by_the_rule(cairn: Scheduler, tmp_path: Path, rule: str) -> None:
    team = await organised(cairn, rule)
    job = await cairn.submit(LONG + "cairn: {grace: 5}", team=team)
    fragile = await cairn.submit(FRAGILE.format(go=tmp_path / "go"), team=team)
    for one in (job, fragile):
        await running(cairn, one)
    await grant(cairn, team, rule, 0)
    if rule == "preempt":
        held = [await cairn.until(one, lambda now: now.state == Job.HELD) for one in (job, fragile)]
        assert {(one.hold, one.attempts[0].cause) for one in held} == {
            (Job.HOLD_BUDGET, job_pb2.CAUSE_BUDGET)
        }
        assert held[0].reason == f"Held: by a budget that is spent (budget b-{team} of {team})"
        assert (await explained(cairn, job)).code == "BudgetExhausted"
    # What waits now was decided on by what the budget has left now.
    await waits(cairn, await cairn.submit(SHORT, team=team))
    if rule != "preempt":
        assert (await cairn.job(job.name)).state == Job.RUNNING
        # A retry in its place: one that ran before goes on under deny_new alone.
        (tmp_path / "go").touch()
        if rule == "drain":
            kept = await cairn.until(fragile, lambda now: now.state == Job.HELD)
            assert kept.hold == Job.HOLD_BUDGET
        else:
            assert (await cairn.ended(fragile)).state == Job.SUCCEEDED
        await cairn.stub.PreemptJob(scheduler_pb2.PreemptJobRequest(name=job.name))
        if rule == "drain":
            await waits(cairn, job)
    await grant(cairn, team, rule, 10)
    ends = [await cairn.ended(one) for one in (job, fragile)]
    assert {(one.state, len(one.attempts)) for one in ends} == {(Job.SUCCEEDED, 2)}


@pytest.mark.parametrize("rule", RULES)
async def test_what_people_held_comes_back_by_the_rule(cairn: Scheduler, rule: str) -> None:
    team = await organised(cairn, rule)
    job = await cairn.submit(LONG, team=team)
    await running(cairn, job)
    await cairn.stub.HoldJob(scheduler_pb2.HoldJobRequest(name=job.name))
    await cairn.until(job, lambda now: now.state == Job.HELD)
    await grant(cairn, team, rule, 0)
    await cairn.stub.ReleaseJob(scheduler_pb2.ReleaseJobRequest(name=job.name))
    if rule != "deny_new":
        await waits(cairn, job)
        await grant(cairn, team, rule, 10)
    assert (await cairn.ended(job)).state == Job.SUCCEEDED


async def test_a_job_runs_on_what_it_holds_ahead_of_a_budget_that_preempts(cairn: Scheduler) -> None:
    team = await organised(cairn, "preempt")
    # Less than the ten minutes that a job holds: all that is left is held, and none of it is used yet.
    await grant(cairn, team, "preempt", 0.1)
    gpus = "run: sleep 1\nresources: {cpus: 0.1, accelerators: 'GPU:4'}\ncairn: {grace: 5}"
    before = await cairn.submit(gpus, team=team)
    assert (await cairn.ended(before)).attempts[0].number == 1
    jobs = [await cairn.submit(gpus.replace("GPU:4", "GPU:1"), team=team) for _ in range(4)]
    ends = [await cairn.ended(job) for job in jobs]
    assert {(job.state, len(job.attempts)) for job in ends} == {(Job.SUCCEEDED, 1)}
