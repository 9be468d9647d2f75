"""Jobs from submission to end: real processes by the real runner, real quota, bus and database."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cairn.quota.v1 import quota_pb2, team_pb2
from cairn.scheduler.v1 import job_pb2, scheduler_pb2
from cairn_scheduler import processes
from tests.harness import quota, scheduler, servers
from tests.harness.scheduler import Scheduler

Job = job_pb2.Job
Start = Callable[..., "asyncio.Future[Scheduler]"]


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


def task(run: str, **cairn: object) -> str:
    """A task of one command, with a `cairn:` block."""
    lines = [f"  {line}" for line in run.splitlines()]
    block = [f"  {name}: {value}" for name, value in cairn.items()]
    return "\n".join(["run: |", *lines, *(["cairn:", *block] if block else [])])


def is_running(job: Job) -> bool:
    return job.state == Job.RUNNING and bool(job.attempts[-1].pids)


async def until(true: Callable[[], object], *, timeout: float = 20.0) -> None:
    """Waits for a fact of the machine that nobody tells."""
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.02)


async def test_a_job_runs_and_succeeds(cairn: Scheduler) -> None:
    job = await cairn.submit("run: echo hello && test $COLOUR = red\nenvs: {COLOUR: red}\nname: first")
    assert (job.state, job.revision, job.display_name) == (Job.PENDING, 1, "first")
    end = await cairn.ended(job)
    assert (end.state, end.cause, end.message, end.reason) == (Job.SUCCEEDED, 0, "", "")
    (attempt,) = end.attempts
    assert (attempt.number, attempt.state, attempt.exit_code) == (1, job_pb2.Attempt.SUCCEEDED, 0)
    assert end.admissions == 1
    assert end.start_time.ToNanoseconds() <= end.end_time.ToNanoseconds()


async def test_a_killed_rank_is_tried_again_in_the_same_job(cairn: Scheduler) -> None:
    job = await cairn.submit(task('test "$CAIRN_ATTEMPT" = 2 || exec sleep 600'))
    seen = await cairn.until(job, is_running)
    os.kill(seen.attempts[0].pids[0], signal.SIGKILL)
    end = await cairn.ended(job)
    assert end.state == Job.SUCCEEDED
    first, second = end.attempts
    assert (first.cause, first.signal, first.state) == (job_pb2.CAUSE_INFRA, 9, job_pb2.Attempt.FAILED)
    assert "SIGKILL" in first.message
    assert second.state == job_pb2.Attempt.SUCCEEDED
    assert end.admissions == 1, "its place was kept"


async def test_a_killed_runner_leaves_nothing_behind_and_is_tried_again(cairn: Scheduler) -> None:
    job = await cairn.submit(task('test "$CAIRN_ATTEMPT" = 2 || { setsid sleep 600 & sleep 600; }'))
    seen = await cairn.until(job, is_running)
    uid = seen.attempts[0].uid
    await until(lambda: len(processes.of_attempt(uid)) >= 4)
    runner = processes.runner_of(uid)
    assert runner is not None
    os.kill(runner.pid, signal.SIGKILL)
    end = await cairn.ended(job)
    assert [attempt.cause for attempt in end.attempts] == [job_pb2.CAUSE_LOST, 0]
    assert end.state == Job.SUCCEEDED
    assert processes.of_attempt(uid) == []


@pytest.mark.parametrize(
    ("text", "exit_code", "told"),
    [
        ("run: |\n  echo one\n  echo two >&2\n  exit 3", 3, ["exit code 3", "two"]),
        ("run: no-such-command --lr 1", 127, ["not found", "no-such-command"]),
        ("setup: exit 5\nrun: echo never", 5, ["setup", "exit code 5"]),
        ("run: kill -SEGV $$", None, ["SIGSEGV"]),
    ],
)
async def test_a_user_error_is_shown_and_not_tried_again(
    cairn: Scheduler, text: str, exit_code: int | None, told: list[str]
) -> None:
    end = await cairn.ended(await cairn.submit(text))
    assert (end.state, end.cause, len(end.attempts)) == (Job.FAILED, job_pb2.CAUSE_USER_ERROR, 1)
    assert exit_code is None or end.attempts[0].exit_code == exit_code
    assert all(part in end.message for part in told), end.message


async def test_cancelling_what_runs_ends_it_gently(cairn: Scheduler, tmp_path: Path) -> None:
    said = tmp_path / "said"
    job = await cairn.submit(
        task(f"trap 'echo bye > {said}; exit 0' TERM\ntouch {said}.ready\nwhile true; do sleep 0.05; done")
    )
    seen = await cairn.until(job, is_running)
    await until(lambda: Path(f"{said}.ready").exists())
    asked = await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
    assert asked.HasField("cancel_time")
    assert asked.state in (Job.RUNNING, Job.LAUNCHING)
    end = await cairn.ended(job)
    assert (end.state, end.cause) == (Job.CANCELLED, job_pb2.CAUSE_CANCELLED)
    assert said.read_text() == "bye\n"
    assert processes.look(seen.attempts[0].pids[0]) is None
    again = await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
    assert again == end, "cancelling what is cancelled is no error"


async def test_what_ignores_sigterm_is_killed_after_its_grace(cairn: Scheduler, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    job = await cairn.submit(task(f"trap '' TERM\ntouch {ready}\nwhile true; do sleep 0.05; done", grace=0.3))
    await until(ready.exists)
    await cairn.stub.CancelJob(scheduler_pb2.CancelJobRequest(name=job.name))
    assert (await cairn.ended(job)).state == Job.CANCELLED


async def test_a_job_over_its_max_runtime_is_timed_out(cairn: Scheduler) -> None:
    end = await cairn.ended(await cairn.submit(task("sleep 600", max_runtime=1, grace=0.2)))
    assert (end.state, end.cause, len(end.attempts)) == (Job.TIMED_OUT, job_pb2.CAUSE_TIMEOUT, 1)


async def test_retries_end_where_they_were_limited(cairn: Scheduler) -> None:
    end = await cairn.ended(await cairn.submit(task("kill -9 $$", max_retries=1)))
    assert (end.state, end.cause, len(end.attempts)) == (Job.FAILED, job_pb2.CAUSE_INFRA, 2)


async def test_ranks_run_together_and_share_no_gpu(cairn: Scheduler, tmp_path: Path) -> None:
    text = (
        "num_nodes: 2\nresources: {accelerators: 'H100:2', cpus: 0.5}\n"
        f"run: echo $CUDA_VISIBLE_DEVICES > {tmp_path}/rank$SKYPILOT_NODE_RANK"
    )
    assert (await cairn.ended(await cairn.submit(text))).state == Job.SUCCEEDED
    given = [(tmp_path / f"rank{rank}").read_text().strip().split(",") for rank in range(2)]
    assert sorted(given[0] + given[1]) == ["0", "1", "2", "3"]


async def test_the_queue_goes_by_priority_and_says_why(cairn: Scheduler, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wide = "resources: {cpus: 4}\n"
    first = await cairn.submit(wide + task(f"until test -e {go}; do sleep 0.05; done"))
    await cairn.until(first, is_running)
    low = await cairn.submit(wide + task("true", priority=-5))
    middle = await cairn.submit(wide + task("true"))
    high = await cairn.submit(wide + task("true", priority=5))
    for job in (low, middle, high):
        for _ in range(200):
            if (await cairn.job(job.name)).reason.startswith("CapacityFull"):
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError((await cairn.job(job.name)).reason)
    pools = await cairn.stub.ListPools(scheduler_pb2.ListPoolsRequest())
    assert (pools.pools[0].capacity.cpu_milli, pools.pools[0].free.cpu_milli) == (4000, 0)
    go.touch()
    ends = {name: await cairn.ended(job) for name, job in (("low", low), ("middle", middle), ("high", high))}
    begun = sorted(ends, key=lambda name: ends[name].start_time.ToNanoseconds())
    assert begun == ["high", "middle", "low"]


async def test_a_team_at_its_limit_waits_until_the_limit_moves(
    cairn: Scheduler, quotas: quota.Quota, tmp_path: Path
) -> None:
    team = await quotas.team(jobs=1)
    first = await cairn.submit(task(f"until test -e {tmp_path}/go; do sleep 0.05; done"), team=team)
    await cairn.until(first, is_running)
    second = await cairn.submit(task("true"), team=team)
    for _ in range(200):
        if (await cairn.job(second.name)).reason.startswith("QuotaFull"):
            break
        await asyncio.sleep(0.02)
    assert "may use 1 jobs" in (await cairn.job(second.name)).reason
    teams = await quotas.teams()
    request = quota_pb2.UpdateTeamRequest(
        team=team_pb2.Team(name=f"teams/{team}", limits=team_pb2.Limits(jobs=2))
    )
    request.update_mask.paths.append("limits")
    await teams.UpdateTeam(request)
    assert (await cairn.ended(second)).state == Job.SUCCEEDED
    assert (await cairn.job(first.name)).state == Job.RUNNING
    (tmp_path / "go").touch()
    assert (await cairn.ended(first)).state == Job.SUCCEEDED


async def test_an_ended_attempt_leaves_no_secret_and_no_bulk(cairn: Scheduler) -> None:
    # What the SDK keeps of checkpoints lies beside the spool, and may be as large as the disk.
    beside = (
        "cd $CAIRN_SPOOL/..; mkdir -p staging/checkpoints; echo state > staging/checkpoints/v1; touch own"
    )
    job = await cairn.ended(await cairn.submit(f"run: echo data > big; {beside}"))
    folder = cairn.folder / "attempts" / job.attempts[0].uid
    await until((folder / "closed").exists)
    left = {path.name for path in folder.iterdir()}
    assert left >= {"launch.json", "end.json", "state.json"}
    assert left <= {"launch.json", "end.json", "state.json", "runner.log", "lock", "drained", "closed"}
    assert folder.stat().st_mode & 0o777 == 0o700
    live = "SELECT count(*) FROM tokens WHERE attempt_uid = $1 AND revoke_time IS NULL"
    assert await cairn.quota.db.fetchval(live, job.attempts[0].uid) == 0


async def test_a_job_sees_nothing_of_the_server(cairn: Scheduler, tmp_path: Path) -> None:
    await cairn.ended(await cairn.submit(f"run: env > {tmp_path}/env; ls -l /proc/self/fd > {tmp_path}/fd"))
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert "CAIRN_SERVICE_TOKEN" not in seen
    assert not [
        name for name in seen if name.startswith("CAIRN_") and ("TOKEN" in name) and "FILE" not in name
    ]
    assert "PYTEST_CURRENT_TEST" not in seen
    assert "socket:" not in (tmp_path / "fd").read_text()
