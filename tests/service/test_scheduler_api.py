"""What callers of the scheduler see: resources, refusals, pages, live changes. Nothing is run here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from cairn.quota.v1 import token_pb2
from cairn.scheduler.v1 import job_pb2, scheduler_pb2, sweep_pb2
from cairn_common.ids import new_uid
from cairn_scheduler.api import ACCESS, NAME
from tests.harness import quota, scheduler, servers
from tests.harness.problem import problem
from tests.harness.scheduler import Scheduler

Job = job_pb2.Job
# Asks for all CPUs behind a job that never fits: it stays pending.
WAITS = "resources: {cpus: 4}\nrun: 'true'\n"
SWEEP = "envs: {LR: 1, SEED: 0}\nrun: x\ncairn: {sweep: {parameters: {LR: [0.1, 1e-2], SEED: [1, 2]}}}"


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


@pytest.fixture
async def team(cairn: Scheduler) -> str:
    """A team that may hold nothing: its jobs stay pending."""
    return await cairn.quota.team(jobs=0)


async def test_a_request_id_makes_one_job_however_often_it_is_sent(cairn: Scheduler, team: str) -> None:
    sent = {"team": team, "request_id": new_uid()}
    made = await asyncio.gather(*(cairn.submit(WAITS, **sent) for _ in range(8)))
    assert len({job.uid for job in made}) == 1
    error = await problem(cairn.submit("run: another", **sent))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")


async def test_validate_only_checks_everything_and_queues_nothing(cairn: Scheduler, team: str) -> None:
    job = await cairn.submit(WAITS, team=team, validate_only=True)
    assert (job.uid, job.name, job.spec.resources.cpu_milli) == ("", "", 4000)
    error = await problem(cairn.submit("run: x\nresources: {acelerators: 1}", team=team, validate_only=True))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TASK_INVALID")
    assert error.metadata["path"] == "resources.acelerators"
    assert "accelerators" in error.message
    listed = await cairn.stub.ListJobs(scheduler_pb2.ListJobsRequest(parent=f"teams/{team}"))
    assert list(listed.jobs) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("run: x\nresources: {cpus: 5}", "4 CPUs"),
        ("run: x\nnum_nodes: 3\nresources: {accelerators: A100:2}", "4 GPUs"),
        ("run: x\nresources: {memory: 900000}", "MiB"),
    ],
)
async def test_what_could_never_run_is_refused_with_the_limit(
    cairn: Scheduler, team: str, text: str, told: str
) -> None:
    error = await problem(cairn.submit(text, team=team))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_IMPOSSIBLE")
    assert told in error.message


async def test_a_sweep_makes_all_of_its_jobs_once_in_the_order_of_the_grid(
    cairn: Scheduler, team: str
) -> None:
    request = scheduler_pb2.CreateSweepRequest(parent=f"teams/{team}", task=SWEEP, request_id=new_uid())
    made = await cairn.stub.CreateSweep(request)
    assert [dict(job.spec.params) for job in made.jobs] == [
        {"LR": lr, "SEED": seed} for lr in ("0.1", "1e-2") for seed in ("1", "2")
    ]
    assert all(dict(job.spec.envs) == dict(job.spec.params) for job in made.jobs)
    again = await cairn.stub.CreateSweep(request)
    assert [job.uid for job in again.jobs] == [job.uid for job in made.jobs]
    seen = await cairn.stub.GetSweep(scheduler_pb2.GetSweepRequest(name=made.name))
    assert [job.uid for job in seen.jobs] == [job.uid for job in made.jobs]
    whole = await cairn.job(made.jobs[3].name)
    assert (whole.spec.task, whole.spec.run, whole.sweep) == (SWEEP, "x", made.name)
    one = scheduler_pb2.CreateJobRequest(parent=f"teams/{team}", task=SWEEP)
    assert (await problem(cairn.stub.CreateJob(one))).metadata["path"] == "cairn.sweep"


async def test_a_sweep_of_a_thousand_jobs_is_one_answer(cairn: Scheduler, team: str) -> None:
    values = list(range(1000))
    text = f"envs: {{S: 0}}\nrun: |\n  {'x' * 5000}\ncairn: {{sweep: {{parameters: {{S: {values}}}}}}}"
    made: sweep_pb2.Sweep = await cairn.stub.CreateSweep(
        scheduler_pb2.CreateSweepRequest(parent=f"teams/{team}", task=text)
    )
    assert len({job.uid for job in made.jobs}) == 1000
    text = f"envs: {{S: 0, T: 0}}\nrun: x\ncairn: {{sweep: {{parameters: {{S: {values}, T: [1, 2]}}}}}}"
    error = await problem(
        cairn.stub.CreateSweep(scheduler_pb2.CreateSweepRequest(parent=f"teams/{team}", task=text))
    )
    assert error.reason == "SWEEP_INVALID"
    assert "2,000" in error.message


async def test_pages_hold_every_job_once_newest_first(cairn: Scheduler, team: str) -> None:
    made = [(await cairn.submit(WAITS, team=team)).uid for _ in range(7)]
    request = scheduler_pb2.ListJobsRequest(parent=f"teams/{team}", page_size=3)
    seen: list[str] = []
    while True:
        page = await cairn.stub.ListJobs(request)
        seen += [job.uid for job in page.jobs]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == made[::-1]
    request.page_token = request.page_token[:-3] + "AAA"
    assert (await problem(cairn.stub.ListJobs(request))).reason == "PAGE_TOKEN_INVALID"
    some = scheduler_pb2.ListJobsRequest(parent=f"teams/{team}", states=[Job.RUNNING, Job.FAILED])
    assert list((await cairn.stub.ListJobs(some)).jobs) == []


async def test_large_jobs_make_short_pages(cairn: Scheduler, team: str) -> None:
    code = job_pb2.CodeRef(git_diff="+" * 250_000)
    for _ in range(15):
        await cairn.submit(WAITS, team=team, code=code)
    request = scheduler_pb2.ListJobsRequest(parent=f"teams/{team}")
    first = await cairn.stub.ListJobs(request)
    request.page_token = first.next_page_token
    second = await cairn.stub.ListJobs(request)
    assert len(first.jobs) + len(second.jobs) == 15


async def test_a_pending_job_is_cancelled_at_once_and_an_ended_one_is_not(
    cairn: Scheduler, team: str
) -> None:
    job = await cairn.submit(WAITS, team=team)
    request = scheduler_pb2.CancelJobRequest(name=job.name)
    done = await cairn.stub.CancelJob(request)
    assert (done.state, done.cause, done.reason) == (Job.CANCELLED, job_pb2.CAUSE_CANCELLED, "")
    assert await cairn.stub.CancelJob(request) == done
    ended = await cairn.ended(await cairn.submit("run: 'true'"))
    error = await problem(cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=ended.name)))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_ENDED")


async def test_a_watcher_that_comes_back_has_missed_nothing(cairn: Scheduler) -> None:
    job = await cairn.submit("run: 'true'")
    request = scheduler_pb2.WatchJobsRequest(parent="teams/main", job=job.name)
    await cairn.ended(job)
    stream = cairn.stub.WatchJobs(request)
    now = await stream.read()
    assert (now.event, now.job.state) == ("", Job.SUCCEEDED)
    stream.cancel()
    request.cursor = "0"
    seen: list[str] = []
    async for reply in cairn.stub.WatchJobs(request):
        seen.append(reply.event)
        revision = reply.job.revision
        assert revision == len(seen), "each revision is told once, in order"
        if reply.event == "launching":
            # Here the watcher goes away; another one goes on from its cursor.
            request.cursor = reply.cursor
            break
    async for reply in cairn.stub.WatchJobs(request):
        seen.append(reply.event)
        if reply.event == "finished":
            break
    assert seen == ["submitted", "admitted", "launching", "running", "finished"]
    request.cursor = "soon"
    assert (await problem(cairn.stub.WatchJobs(request).read())).reason == "CURSOR_INVALID"


async def test_strangers_see_nothing_and_viewers_change_nothing(cairn: Scheduler, team: str) -> None:
    job = await cairn.submit(WAITS, team=team)
    stranger = await cairn.calling(await cairn.quota.member(await cairn.quota.team(), token_pb2.ROLE_OWNER))
    for call in (
        stranger.GetJob(scheduler_pb2.GetJobRequest(name=job.name)),
        stranger.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name)),
        stranger.ListJobs(scheduler_pb2.ListJobsRequest(parent=f"teams/{team}")),
        stranger.CreateJob(scheduler_pb2.CreateJobRequest(parent=f"teams/{team}", task=WAITS)),
        stranger.WatchJobs(scheduler_pb2.WatchJobsRequest(parent=f"teams/{team}")).read(),
    ):
        error = await problem(call)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "TEAM_NOT_FOUND")
    every = scheduler_pb2.ListJobsRequest(parent="teams/-")
    assert (await problem(cairn.stub.ListJobs(every))).code == grpc.StatusCode.PERMISSION_DENIED
    viewer = await cairn.calling(await cairn.quota.member(team, token_pb2.ROLE_VIEWER))
    assert (await viewer.GetJob(scheduler_pb2.GetJobRequest(name=job.name))).uid == job.uid
    error = await problem(viewer.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name)))
    assert error.reason == "ROLE_TOO_LOW"
    other = f"teams/main/jobs/{job.uid}"
    assert (await problem(cairn.job(other))).reason == "JOB_NOT_FOUND"
    nobody = await cairn.calling(None)
    error = await problem(nobody.GetJob(scheduler_pb2.GetJobRequest(name=job.name)))
    assert error.code == grpc.StatusCode.UNAUTHENTICATED


async def test_a_service_may_list_the_jobs_of_every_team(cairn: Scheduler, team: str) -> None:
    job = await cairn.submit(WAITS, team=team)
    service = await cairn.calling(cairn.quota.tokens.services["quota"])
    request = scheduler_pb2.ListJobsRequest(parent="teams/-", page_size=1000)
    request.updated_after.FromNanoseconds(job.create_time.ToNanoseconds() - 1000)
    assert job.uid in {one.uid for one in (await service.ListJobs(request)).jobs}
    ran = await cairn.ended(await cairn.submit("run: 'true'"))
    request.admitted = True
    found = {one.uid for one in (await service.ListJobs(request)).jobs}
    assert ran.uid in found
    assert job.uid not in found
    request.admitted = False
    request.updated_after.CopyFrom(job.update_time)
    assert job.uid not in {one.uid for one in (await service.ListJobs(request)).jobs}


async def test_every_method_states_what_it_asks_of_its_caller() -> None:
    service = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"]
    assert set(ACCESS) == {f"/{NAME}/{method.name}" for method in service.methods}
