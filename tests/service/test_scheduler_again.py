"""A job that has run is run again, or goes on from a checkpoint, as a job of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio

from cairn.scheduler.v1 import job_pb2, scheduler_pb2
from cairn_common.ids import new_uid
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

Job = job_pb2.Job
Origin = job_pb2.Origin
CHECKPOINT = "teams/main/artifacts/checkpoint-x/versions/3"
TASK = """
name: digits
envs: {lr: "0.1", width: "16"}
secrets: {KEY_OF_MINE: null}
resources: {cpus: 0.5}
run: echo "$lr $width ${CAIRN_RESUME:-none} ${CAIRN_RERUN:-none}" >> %s
cairn: {experiment: digits, priority: 3, max_retries: 1}
"""


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


def again(job: Job, **fields: Any) -> scheduler_pb2.RerunJobRequest:
    return scheduler_pb2.RerunJobRequest(
        **{"name": job.name, "secrets": {"KEY_OF_MINE": "sesame-2"}, **fields}
    )


def on(job: Job, checkpoint: str = CHECKPOINT, **fields: Any) -> scheduler_pb2.ResumeJobRequest:
    return scheduler_pb2.ResumeJobRequest(
        name=job.name, checkpoint=checkpoint, secrets={"KEY_OF_MINE": "sesame-3"}, **fields
    )


async def refused(call: Any) -> tuple[StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as error:
        await call
    return error.value.code(), str(error.value.details())


async def test_a_job_is_run_again_and_from_a_checkpoint(cairn: Scheduler, tmp_path: Path) -> None:
    said = tmp_path / "said"
    first = await cairn.submit(TASK % said, secrets={"KEY_OF_MINE": "sesame-1"})
    await cairn.ended(first)
    rerun = await cairn.stub.RerunJob(again(first))
    assert rerun.uid != first.uid
    assert rerun.origin == Origin(kind=Origin.RERUN, job=first.name)
    for field in ("setup", "run", "envs", "resources", "max_retries", "task"):
        assert getattr(rerun.spec, field) == getattr(first.spec, field), field
    kept = (rerun.display_name, rerun.experiment, rerun.priority)
    assert kept == ("digits", "digits", 3)
    await cairn.ended(rerun)
    resumed = await cairn.stub.ResumeJob(on(rerun, envs={"lr": "1e-4"}, display_name="finer"))
    assert resumed.origin == Origin(kind=Origin.RESUME, job=rerun.name, checkpoint=CHECKPOINT)
    assert (dict(resumed.spec.params), resumed.display_name) == ({"lr": "1e-4"}, "finer")
    await cairn.ended(resumed)
    assert said.read_text().splitlines() == [
        "0.1 16 none none",
        f"0.1 16 none {first.uid}",
        f"1e-4 16 {CHECKPOINT} none",
    ]
    assert not (await cairn.job(first.name)).HasField("origin")
    assert (await cairn.job(resumed.name)).origin == resumed.origin


async def test_the_same_request_makes_one_job(cairn: Scheduler) -> None:
    first = await cairn.submit("run: sleep 60\nresources: {cpus: 0.5}")
    request = scheduler_pb2.RerunJobRequest(name=first.name, request_id=new_uid())
    made = {job.uid for job in await asyncio.gather(*(cairn.stub.RerunJob(request) for _ in range(5)))}
    assert len(made) == 1
    request.envs["lr"] = "2"
    assert (await refused(cairn.stub.RerunJob(request)))[0] is StatusCode.FAILED_PRECONDITION
    dry = scheduler_pb2.RerunJobRequest(name=first.name, validate_only=True)
    assert (await cairn.stub.RerunJob(dry)).uid == ""
    listed = await cairn.stub.ListJobs(scheduler_pb2.ListJobsRequest(parent="teams/main"))
    assert {job.uid for job in listed.jobs if job.origin.job == first.name} == made


@pytest.mark.parametrize(
    "checkpoint",
    ["", "v3", "teams/main/artifacts/x/versions/latest", CHECKPOINT.replace("main", "other"), "\x00"],
)
async def test_what_is_no_version_of_the_team_is_refused(cairn: Scheduler, checkpoint: str) -> None:
    job = await cairn.submit("run: exit 0\nresources: {cpus: 0.5}")
    code, told = await refused(cairn.stub.ResumeJob(on(job, checkpoint)))
    assert code is StatusCode.INVALID_ARGUMENT
    assert told.startswith("checkpoint: ")


async def test_secrets_are_asked_for_again_and_shown_nowhere(cairn: Scheduler, tmp_path: Path) -> None:
    first = await cairn.submit(TASK % (tmp_path / "said"), secrets={"KEY_OF_MINE": "sesame-1"})
    code, told = await refused(cairn.stub.RerunJob(again(first, secrets={})))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "secrets.KEY_OF_MINE: no value is known for KEY_OF_MINE" in told
    code, told = await refused(cairn.stub.RerunJob(again(first, envs={"lr": "is sesame-2 here"})))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "sesame" not in told
    code, told = await refused(cairn.stub.RerunJob(again(first, envs={"CAIRN_RUN": "x"})))
    assert (code, told) == (
        StatusCode.INVALID_ARGUMENT,
        "envs.CAIRN_RUN: is set by the platform itself; choose another name",
    )
    made = await cairn.stub.RerunJob(again(first))
    assert "sesame" not in str(await cairn.job(made.name))
    assert list(made.spec.secrets) == ["KEY_OF_MINE"]
    nothing = scheduler_pb2.RerunJobRequest(name=f"teams/main/jobs/{new_uid()}")
    assert (await refused(cairn.stub.RerunJob(nothing)))[0] is StatusCode.NOT_FOUND
