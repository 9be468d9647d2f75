"""Held, released, preempted: by people, on real processes, with the programs' last words."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from grpc import StatusCode, aio

from cairn.quota.v1 import token_pb2
from cairn.scheduler.v1 import job_pb2, scheduler_pb2
from cairn.tracker.v1 import artifact_pb2, events_pb2
from cairn_common.bus import connect
from cairn_common.subjects import STREAMS, subject
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

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


def is_running(job: Job) -> bool:
    return job.state == Job.RUNNING and bool(job.attempts[-1].pids)


async def until(true: Callable[[], object], *, timeout: float = 20.0) -> None:
    """Waits for a fact of the machine that nobody tells."""
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.02)


async def nothing_is_reserved(cairn: Scheduler) -> None:
    async with asyncio.timeout(20):
        while await cairn.quota.db.fetchval("SELECT count(*) FROM reservations WHERE state = 1"):
            await asyncio.sleep(0.05)


async def hold(cairn: Scheduler, job: Job, **fields: object) -> Job:
    return await cairn.stub.HoldJob(scheduler_pb2.HoldJobRequest(name=job.name, **fields))  # type: ignore[arg-type]


async def release(cairn: Scheduler, job: Job) -> Job:
    return await cairn.stub.ReleaseJob(scheduler_pb2.ReleaseJobRequest(name=job.name))


async def preempt(cairn: Scheduler, job: Job, **fields: object) -> Job:
    return await cairn.stub.PreemptJob(scheduler_pb2.PreemptJobRequest(name=job.name, **fields))  # type: ignore[arg-type]


# It says why it was told to end, then leaves; the attempt after that ends well.
HEEDS = """envs: {{SAID: {said}}}
run: |
  test "$CAIRN_ATTEMPT" = 1 || exit 0
  exec {python} -c 'import cairn, os, time
  cairn.stopping()
  open("ready", "w").close()
  while not cairn.stopping(): time.sleep(0.01)
  print("told:", cairn.stop_reason(), flush=True)
  assert cairn.stop_reason() == "preempted"
  open(os.environ["SAID"], "w").write(cairn.stop_reason())'
cairn: {{max_retries: 0}}
"""


async def test_a_preempted_job_hears_why_and_goes_on_in_the_same_job(
    cairn: Scheduler, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    job = await cairn.submit(HEEDS.format(said=said, python=sys.executable))
    running = await cairn.until(job, is_running)
    folder = cairn.folder / "attempts" / running.attempts[0].uid
    await until(lambda: (folder / "work" / "ready").exists())
    told = await preempt(cairn, job, reason="a bigger one")
    assert told.state == Job.PREEMPTING
    assert told.reason.startswith("Preempting: by users/")
    assert "a bigger one" in told.reason
    end = await cairn.ended(job)
    assert end.state == Job.SUCCEEDED
    first, second = end.attempts
    assert (first.cause, first.state) == (job_pb2.CAUSE_PREEMPTED, job_pb2.Attempt.FAILED)
    assert second.number == 2
    assert end.admissions == 2
    assert said.read_text() == "preempted"


async def test_a_program_that_ends_well_before_it_is_told_has_succeeded(cairn: Scheduler) -> None:
    job = await cairn.submit("run: trap '' TERM; sleep 0.5; true")
    await cairn.until(job, is_running)
    await preempt(cairn, job)
    end = await cairn.ended(job)
    assert end.state == Job.SUCCEEDED


async def test_a_held_job_waits_until_it_is_released(cairn: Scheduler) -> None:
    job = await cairn.submit("run: exit 0\nresources: {cpus: 4}")
    # Whatever it was by then: it never ran, or gave its place up.
    held = await hold(cairn, job, reason="not today")
    held = held if held.state == Job.HELD else await cairn.until(job, lambda now: now.state == Job.HELD)
    assert held.hold == Job.HOLD_USER
    other = await cairn.submit("run: exit 0\nresources: {cpus: 4}")
    await cairn.ended(other)
    assert (await cairn.job(job.name)).state == Job.HELD
    assert (await hold(cairn, job)).revision == held.revision
    await release(cairn, job)
    assert (await cairn.ended(job)).state == Job.SUCCEEDED


async def test_holding_what_runs_takes_its_place_and_cancelling_it_ends_it(cairn: Scheduler) -> None:
    job = await cairn.submit("run: sleep 600")
    await cairn.until(job, is_running)
    assert (await hold(cairn, job)).state == Job.PREEMPTING
    held = await cairn.until(job, lambda now: now.state == Job.HELD)
    assert held.attempts[0].cause == job_pb2.CAUSE_PREEMPTED
    await nothing_is_reserved(cairn)
    end = await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
    assert (end.state, end.hold) == (Job.CANCELLED, Job.HOLD_UNSPECIFIED)


async def test_only_an_admin_releases_what_an_admin_holds(cairn: Scheduler) -> None:
    job = await cairn.submit("run: sleep 600\nresources: {cpus: 4}")
    held = await hold(cairn, job, admin=True)
    held = held if held.state == Job.HELD else await cairn.until(job, lambda now: now.state == Job.HELD)
    person = await cairn.quota.member("main", token_pb2.ROLE_MEMBER)
    member = await cairn.calling(person)
    with pytest.raises(aio.AioRpcError) as refused:
        await member.ReleaseJob(scheduler_pb2.ReleaseJobRequest(name=job.name))
    assert refused.value.code() is StatusCode.FAILED_PRECONDITION
    for call in (
        member.HoldJob(scheduler_pb2.HoldJobRequest(name=job.name, admin=True)),
        member.PreemptJob(scheduler_pb2.PreemptJobRequest(name=job.name)),
    ):
        with pytest.raises(aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is StatusCode.PERMISSION_DENIED
    assert (await release(cairn, job)).state == Job.PENDING
    await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
    await cairn.ended(job)


async def test_what_holds_no_place_cannot_be_preempted(cairn: Scheduler) -> None:
    job = await cairn.submit("run: exit 0")
    await cairn.ended(job)
    for call in (preempt(cairn, job), hold(cairn, job), release(cairn, job)):
        with pytest.raises(aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is StatusCode.FAILED_PRECONDITION


async def test_a_committed_checkpoint_is_known_to_the_job(
    cairn: Scheduler, nats_server: servers.Nats
) -> None:
    job = await cairn.submit("run: sleep 600")
    await cairn.until(job, is_running)
    event = events_pb2.TrackerEvent(id="x")
    version = event.artifact_committed.version
    version.kind, version.run = artifact_pb2.ARTIFACT_KIND_CHECKPOINT, f"teams/main/runs/{job.uid}"
    now = datetime.now(UTC)
    version.create_time.FromDatetime(now)
    async with connect(nats_server.url, name="tracker") as bus:
        await bus.ensure_stream("TRACKER", STREAMS["TRACKER"])
        to = subject("tracker", "artifact", "committed", "main", job.uid)
        await bus.publish(to, event.SerializeToString())
    known = await cairn.until(job, lambda now: now.HasField("checkpoint_time"))
    assert known.checkpoint_time.ToDatetime(tzinfo=UTC) == now
    await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
    await cairn.ended(job)
