"""Jobs that run after others, on the real services: released, ended, killed in between."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from cairn.scheduler.v1 import job_pb2, outlook_pb2, outlook_pb2_grpc, scheduler_pb2
from cairn_common.db import Database, pool
from cairn_common.rpc import channel
from cairn_scheduler import model, store
from cairn_scheduler.model import State
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Process, Scheduler

Job = job_pb2.Job


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


def after(*named: str, run: str = "exit 0") -> str:
    return f"run: {run}\nresources: {{cpus: 0.5}}\ncairn: {{after: {list(named)}}}"


def gated(path: Path, end: str = "true") -> str:
    """Runs until the file is there, then ends so."""
    run = f"until test -e {path}; do sleep 0.02; done; {end}"
    return f"run: {run}\nresources: {{cpus: 0.5}}\ncairn: {{max_retries: 0}}"


async def explained(cairn: Scheduler, job: Job) -> outlook_pb2.Explanation:
    async with channel(cairn.address, cairn.quota.tokens.admin) as calls:
        stub = outlook_pb2_grpc.OutlookServiceStub(calls)
        return await stub.ExplainJob(outlook_pb2.ExplainJobRequest(name=job.name))


async def test_a_job_starts_when_what_it_waits_for_has_succeeded(cairn: Scheduler, tmp_path: Path) -> None:
    first = await cairn.submit(gated(tmp_path / "go"), display_name="train")
    job = await cairn.submit(after("train", first.uid))
    assert (job.state, job.hold) == (Job.HELD, Job.HOLD_DEPENDENCY)
    assert job.reason == f"DependencyWait: it starts once job {first.uid[:12]} (train) has succeeded"
    assert [(one.name, one.condition) for one in job.after] == [(first.name, job_pb2.Dependency.OK)]
    why = await explained(cairn, job)
    assert (why.code, why.sentence) == ("DependencyWait", job.reason)
    assert [change.kind for change in why.changes] == ["release"]
    # What it waits for may start again and again: only its end counts.
    await cairn.until(first, lambda now: now.state == Job.RUNNING)
    (tmp_path / "go").touch()
    end = await cairn.ended(job)
    before = await cairn.job(first.name)
    assert (before.state, end.state) == (Job.SUCCEEDED, Job.SUCCEEDED)
    assert end.attempts[0].create_time.ToDatetime() >= before.end_time.ToDatetime()
    told = await cairn.stub.GetTimeline(scheduler_pb2.GetTimelineRequest(name=job.name))
    assert [moment.text for moment in told.moments if moment.kind == moment.HELD] == [job.reason]


async def test_what_fails_ends_those_that_needed_it_and_frees_those_that_did_not(
    cairn: Scheduler, tmp_path: Path
) -> None:
    first = await cairn.submit(gated(tmp_path / "go", "exit 3"), display_name="train")
    needs = await cairn.submit(after("train"), display_name="eval")
    further = await cairn.submit(after("eval"))
    anyway = await cairn.submit(after("train:any"))
    (tmp_path / "go").touch()
    one, two, three = [await cairn.ended(job) for job in (needs, further, anyway)]
    assert (one.state, one.cause) == (Job.CANCELLED, job_pb2.CAUSE_CANCELLED)
    assert one.message.startswith(f"Not started: job {first.uid[:12]} (train) ended as FAILED, and was to ")
    assert (two.state, "(eval) ended as CANCELLED" in two.message) == (Job.CANCELLED, True)
    assert three.state == Job.SUCCEEDED
    with pytest.raises(aio.AioRpcError) as caught:
        await cairn.submit(after("train"))
    assert caught.value.code() == StatusCode.FAILED_PRECONDITION
    assert "write `:any`" in str(caught.value.details())


async def test_a_sweep_is_waited_for_as_a_whole_and_may_itself_wait(cairn: Scheduler, tmp_path: Path) -> None:
    grid = "envs: {LR: 1}\nrun: 'true'\nresources: {cpus: 0.5}\ncairn: {sweep: {parameters: {LR: [1, 2, 3]}}"
    gate = await cairn.submit(gated(tmp_path / "go"), display_name="prepare")
    sweep = await cairn.stub.CreateSweep(
        scheduler_pb2.CreateSweepRequest(
            parent="teams/main", task=grid + ", after: prepare}", display_name="grid"
        )
    )
    assert {job.state for job in sweep.jobs} == {Job.HELD}
    # By name, and by the beginning of its id.
    best = await cairn.submit(after("grid"))
    other = await cairn.submit(after(f"{sweep.uid[:20]}:any"))
    assert "all 3 jobs of sweep" in best.reason
    assert [one.name for one in other.after] == [sweep.name]
    (tmp_path / "go").touch()
    ends = [await cairn.ended(job) for job in (gate, *sweep.jobs, best, other)]
    assert {job.state for job in ends} == {Job.SUCCEEDED}
    last = max(job.end_time.ToDatetime() for job in ends[1:4])
    assert all(job.start_time.ToDatetime() >= last for job in ends[4:])


async def test_what_is_not_there_or_another_teams_cannot_be_waited_for(cairn: Scheduler) -> None:
    team = await cairn.quota.team()
    foreign = await cairn.submit("run: 'true'", team=team, display_name="theirs")
    for named in ("nothing", foreign.uid, foreign.name, "theirs"):
        with pytest.raises(aio.AioRpcError) as caught:
            await cairn.submit(after(named))
        assert caught.value.code() == StatusCode.NOT_FOUND
    await cairn.ended(foreign)


async def test_the_same_request_is_the_same_job_whatever_has_become_of_the_other(cairn: Scheduler) -> None:
    first = await cairn.submit("run: exit 1\ncairn: {max_retries: 0}", display_name="train")
    job = await cairn.submit(after("train"), request_id="again")
    await cairn.ended(first)
    end = await cairn.ended(job)
    again = await cairn.submit(after("train"), request_id="again")
    assert (again.uid, again.state) == (end.uid, Job.CANCELLED)


async def test_a_hold_of_its_team_outlasts_the_end_of_what_it_waits_for(
    cairn: Scheduler, tmp_path: Path
) -> None:
    first = await cairn.submit(gated(tmp_path / "go"))
    job = await cairn.submit(after(first.uid))
    held = await cairn.stub.HoldJob(scheduler_pb2.HoldJobRequest(name=job.name))
    assert held.hold == Job.HOLD_USER
    (tmp_path / "go").touch()
    await cairn.ended(first)
    other = await cairn.submit(after(first.uid))
    await cairn.ended(other)
    assert (await cairn.job(job.name)).state == Job.HELD
    await cairn.stub.ReleaseJob(scheduler_pb2.ReleaseJobRequest(name=job.name))
    assert (await cairn.ended(job)).state == Job.SUCCEEDED


async def written(db: Database, jobs: list[Job]) -> dict[str, model.Job]:
    return await store.jobs_by_uid(db, [job.uid for job in jobs])


async def test_a_killed_scheduler_frees_what_became_free_while_it_was_away(
    nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> None:
    urls = {"postgres_url": database_url("scheduler"), "nats_url": nats_server.url}
    async with quota.running(
        postgres_url=database_url("quota"), nats_url=nats_server.url, folder=tmp_path / "quota"
    ) as quotas:
        process = Process(quotas, folder=tmp_path / "data", **urls)
        async with scheduler.running(quotas, folder=tmp_path / "data", **urls) as cairn:
            first = await cairn.submit(gated(tmp_path / "go"))
            await cairn.until(first, lambda now: now.state == Job.RUNNING and bool(now.attempts[0].pids))
            chain = [await cairn.submit(after(first.uid))]
            for _ in range(2):
                chain.append(await cairn.submit(after(chain[-1].uid)))
        (tmp_path / "go").touch()
        try:
            async with pool(urls["postgres_url"], schema="scheduler", size=2) as db, asyncio.timeout(300):
                jobs = await written(db, chain)
                while not all(job.state.final for job in jobs.values()):
                    # Killed as soon as it has written something of any of them.
                    process.start()
                    before = jobs
                    while (jobs := await written(db, chain)) == before:
                        await asyncio.sleep(0.01)
                    process.kill()
        finally:
            process.kill()
        assert {job.state for job in jobs.values()} == {State.SUCCEEDED}
        ends = [jobs[job.uid] for job in chain]
        assert all(
            one.end_time and two.attempts[0].create_time >= one.end_time
            for one, two in itertools.pairwise(ends)
        )
