"""A job's secrets: in its attempts' environment, and nowhere else."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest

from cairn.job.v1 import events_pb2
from cairn.quota.v1 import secret_service_pb2 as pb
from cairn.quota.v1 import token_pb2
from cairn.scheduler.v1 import job_pb2, scheduler_pb2
from cairn_common.bus import connect
from cairn_common.db import Database
from cairn_common.subjects import team_stream
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

SECRET = "hf_" + "q1w2e3r4t5"
INLINE = "in the file, 42"
Job = job_pb2.Job
Start = Callable[..., AbstractAsyncContextManager[Scheduler]]
# The command knows what to expect in two pieces: the value itself may stand nowhere.
TASK = f"""
secrets:
  HF_TOKEN: null
  OTHER: {INLINE}
run: |
  test "$HF_TOKEN" = "hf_""{SECRET[3:]}" || exit 3
  echo "saying $HF_TOKEN and $OTHER"
  test "$CAIRN_ATTEMPT" = 2 || exec sleep 600
"""


@pytest.fixture
async def start(
    nats_server: servers.Nats, database_url: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Start]:
    async with quota.running(
        postgres_url=database_url("quota"),
        nats_url=nats_server.url,
        folder=tmp_path / "quota",
        data_dir=tmp_path / "quota",
    ) as running:

        def make(**settings: Any) -> AbstractAsyncContextManager[Scheduler]:
            return scheduler.running(
                running, postgres_url=database_url("scheduler"), nats_url=nats_server.url,
                folder=tmp_path / "data", **settings,
            )  # fmt: skip

        yield make


async def everything(cairn: Scheduler, db: Database | None = None, schema: str = "scheduler") -> str:
    """All rows of all of a service's tables, as text."""
    db = db or cairn.db
    tables = await db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
    rows = [await db.fetch(f"SELECT t::text AS row FROM {table['tablename']} t") for table in tables]
    return "\n".join(row["row"] for found in rows for row in found)


async def test_they_survive_a_retry_and_are_never_seen(start: Start, nats_url: str) -> None:
    async with start() as cairn:
        job = await cairn.submit(TASK, secrets={"HF_TOKEN": SECRET}, request_id="once")
        again = await cairn.submit(TASK, secrets={"HF_TOKEN": SECRET}, request_id="once")
        assert again.uid == job.uid
        assert list(job.spec.secrets) == ["HF_TOKEN", "OTHER"]
        assert "OTHER: null" in job.spec.task
        seen = await cairn.until(job, lambda now: now.state == Job.RUNNING and now.attempts[-1].pids)
        kept = await cairn.db.fetchval("SELECT sealed FROM job_secrets WHERE job_uid = $1", job.uid)
        assert kept is not None
        assert SECRET.encode() not in kept
        assert SECRET not in await everything(cairn)
        folder = cairn.folder / "attempts" / seen.attempts[0].uid
        assert not (folder / "secrets.json").exists()
        for path in folder.rglob("*"):
            assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
        os.kill(seen.attempts[0].pids[0], signal.SIGKILL)
        end = await cairn.ended(job)
        assert end.state == Job.SUCCEEDED, end.message
        assert len(end.attempts) == 2
        assert await cairn.db.fetchval("SELECT count(*) FROM job_secrets") == 0
        for told in (await everything(cairn), str(end)):
            assert SECRET not in told
            assert INLINE not in told
        lines = await said(nats_url, job.uid, attempts=2)
        assert lines.count("saying ******** and ********") == 2
        assert (cairn.folder / "secrets.key").stat().st_mode & 0o777 == 0o600


async def said(nats_url: str, run_uid: str, *, attempts: int) -> list[str]:
    """What the bus has of a run; none of its messages holds a secret."""
    lines: list[str] = []
    drained = 0
    async with connect(nats_url, name="test") as bus, asyncio.timeout(30):
        subjects = [f"cairn.v1.job.run.*.main.{run_uid}"]
        async with aclosing(
            bus.tail(stream=team_stream("main"), subjects=subjects, start_sequence=1)
        ) as messages:
            async for message in messages:
                assert SECRET.encode() not in message.data
                assert INLINE.encode() not in message.data
                event = events_pb2.JobEvent.FromString(message.data)
                lines += [line.text for line in event.lines_logged.lines]
                drained += event.HasField("attempt_drained")
                if drained == attempts:
                    return lines
    raise AssertionError("the stream ended")


@pytest.mark.parametrize(
    ("text", "given", "path"),
    [
        ("run: x\nsecrets: {A: null}", {}, "secrets.A"),
        ("run: x\nsecrets: [A]", {}, "secrets.A"),
        ("run: x", {"A B": SECRET}, "secrets.A B"),
        ("run: x\nenvs: {A: 1}", {"A": SECRET}, "secrets.A"),
        (f"run: x --token {SECRET}", {"A": SECRET}, "secrets.A"),
        (f"run: x\nenvs: {{B: {SECRET}}}", {"A": SECRET}, "secrets.A"),
        (f"run: x\nsecrets: {{A: {SECRET}, B: [{SECRET}]}}", {}, "secrets.B"),
        ("run: x", {"A": SECRET * 10_000}, "secrets.A"),
    ],
)
async def test_what_cannot_be_is_refused_without_its_value(
    start: Start, text: str, given: dict[str, str], path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with start() as cairn:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await cairn.submit(text, secrets=given)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert str(refused.value.details()).startswith(path)
        assert SECRET not in str(refused.value)
        assert SECRET not in await everything(cairn)
    told = capfd.readouterr()
    assert SECRET not in told.out + told.err


async def test_all_jobs_of_a_sweep_have_them_and_a_dry_run_keeps_nothing(start: Start) -> None:
    text = "run: test $A = given\nsecrets: {A: null}\nenvs: {N: 0}\ncairn: {sweep: {parameters: {N: [1, 2]}}}"
    async with start() as cairn:
        request = scheduler_pb2.CreateSweepRequest(
            parent="teams/main", task=text, secrets={"A": "given"}, validate_only=True
        )
        await cairn.stub.CreateSweep(request)
        assert await cairn.db.fetchval("SELECT count(*) FROM job_secrets") == 0
        request.validate_only = False
        sweep = await cairn.stub.CreateSweep(request)
        for job in sweep.jobs:
            assert (await cairn.ended(await cairn.job(job.name))).state == Job.SUCCEEDED
        assert await cairn.db.fetchval("SELECT count(*) FROM job_secrets") == 0


async def test_kept_ones_are_the_users_before_the_teams_and_come_anew_with_each_attempt(
    start: Start, nats_url: str
) -> None:
    text = """
        secrets: [HF_TOKEN, OTHER]
        resources: {cpus: 0.5}
        run: |
          test "$HF_TOKEN" = "hf_""q1w2e3r4t5" || exit 3
          echo "saying $HF_TOKEN and $OTHER"
    """
    async with start(local_cpus=0.5) as cairn:
        member = await cairn.quota.member("main", token_pb2.ROLE_MEMBER)
        ada = await cairn.calling(member)
        create = scheduler_pb2.CreateJobRequest(parent="teams/main", task=text)
        create.code.git_diff = f"+token = {INLINE}"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ada.CreateJob(create)
        assert "no value is known for HF_TOKEN, OTHER. `cairn secret set HF_TOKEN`" in str(refused.value)
        team, own = await cairn.quota.secrets(), await cairn.quota.secrets(member)
        for stub, owner, name, value in (
            (team, "teams/main", "HF_TOKEN", "of the team alone"),
            (team, "teams/main", "OTHER", INLINE),
            (own, "users/me", "HF_TOKEN", "an old one of hers"),
        ):
            await stub.SetSecret(pb.SetSecretRequest(name=f"{owner}/secrets/{name}", value=value))
        first = await cairn.submit("run: exec sleep 600\nresources: {cpus: 0.5}")
        await cairn.until(first, lambda now: now.state == Job.RUNNING)
        job = await ada.CreateJob(create)
        create.request_id = "late"
        late = await ada.CreateJob(create)
        rerun = scheduler_pb2.RerunJobRequest(name=job.name, request_id="rerun")
        batch = scheduler_pb2.BatchCreateJobsRequest(
            parent="teams/main", request_id="batch", requests=[create]
        )
        batch.requests[0].request_id = ""
        made = [(await ada.RerunJob(rerun)).uid, (await ada.BatchCreateJobs(batch)).jobs[0].uid]
        assert job.code.git_diff == "+token = ********"
        # What it is when an attempt begins counts, not what it was before.
        await own.SetSecret(pb.SetSecretRequest(name="users/me/secrets/HF_TOKEN", value=SECRET))
        await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=first.name))
        end = await cairn.ended(job)
        assert end.state == Job.SUCCEEDED, end.message
        assert "saying ******** and ********" in await said(nats_url, job.uid, attempts=1)
        assert (await cairn.ended(late)).state == Job.SUCCEEDED
        # Sent once more, it is answered with what there is, also without its secret.
        for stub, owner in ((team, "teams/main"), (own, "users/me")):
            await stub.DeleteSecret(pb.DeleteSecretRequest(name=f"{owner}/secrets/HF_TOKEN"))
        assert (await ada.CreateJob(create)).uid == late.uid
        again = [(await ada.RerunJob(rerun)).uid, (await ada.BatchCreateJobs(batch)).jobs[0].uid]
        assert again == made
        create.request_id = rerun.request_id = batch.request_id = "another"
        for call, request in (
            (ada.CreateJob, create), (ada.RerunJob, rerun), (ada.BatchCreateJobs, batch),
        ):  # fmt: skip
            with pytest.raises(grpc.aio.AioRpcError, match="no value is known for HF_TOKEN"):
                await call(request)
        for told in (await everything(cairn), await everything(cairn, cairn.quota.db, "quota"), str(end)):
            assert SECRET not in told
            assert INLINE not in told
        noted = await cairn.quota.db.fetch(
            "SELECT actor, resource FROM audit_entries WHERE action = 'secret.used' AND detail::text ~ $1",
            job.uid,
        )
        assert {(row["actor"], row["resource"]) for row in noted} == {
            (job.creator, f"{job.creator}/secrets/HF_TOKEN"),
            (job.creator, "teams/main/secrets/OTHER"),
        }
        # Jobs of several callers are written together: each is noted with where its own was.
        submitted = "SELECT address FROM audit_entries WHERE action = 'job.submitted' AND resource = $1"
        async with asyncio.timeout(30):
            while not (rows := await cairn.quota.db.fetch(submitted, job.name)):
                await asyncio.sleep(0.05)
        assert [row["address"] for row in rows] == ["127.0.0.1"]


async def test_a_lost_key_ends_the_job_with_a_sentence(start: Start) -> None:
    async with start(secrets_key="k" * 40, local_cpus=0.5) as cairn:
        first = await cairn.submit("run: exec sleep 600\nresources: {cpus: 0.5}")
        await cairn.until(first, lambda now: now.state == Job.RUNNING)
        waiting = await cairn.submit("run: x\nresources: {cpus: 0.5}", secrets={"A": SECRET})
    async with start(secrets_key="other" * 10, local_cpus=0.5) as cairn:
        await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=first.name))
        end = await cairn.ended(waiting)
        assert (end.state, len(end.attempts)) == (Job.FAILED, 1)
        assert "CAIRN_SECRETS_KEY" in end.message
        assert await cairn.db.fetchval("SELECT count(*) FROM job_secrets") == 0
