"""The tracker over its stores: series against brute force, stores that die, an engine that does not open."""

from __future__ import annotations

import asyncio
import math
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from cairn.scheduler.v1 import job_pb2, scheduler_pb2, scheduler_pb2_grpc
from cairn.tracker.v1 import metric_pb2, run_pb2, tracker_pb2
from cairn_common.clock import FakeClock
from cairn_common.db import pool
from cairn_common.ids import new_uid
from cairn_tracker.handlers import catch_up, complete_overdue
from tests.harness import servers
from tests.harness.tracker import Client, Spool, Tracker, run_name, start_tracker


@pytest.fixture(scope="module")
def nats_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Nats]:
    server = servers.start_nats(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tracker(
    tmp_path_factory: pytest.TempPathFactory,
    nats_alone: servers.Nats,
    database_url: Callable[[str], str],
    s3: servers.S3,
) -> Iterator[Tracker]:
    folder = tmp_path_factory.mktemp("tracker")
    server = start_tracker(folder, nats_url=nats_alone.url, postgres_url=database_url("tracker"), s3=s3)
    yield server
    server.stop()


Values = dict[str, dict[int, float]]


async def test_buckets_are_those_of_brute_force_at_every_width(tracker: Tracker) -> None:
    chance = random.Random(11)
    run = new_uid()
    shown: Values = {}
    events = []
    for attempt in (1, 2, 3):
        spool = Spool(run, attempt=attempt)
        for batch in range(4):
            steps = sorted(chance.sample(range(300), 60))
            key = f"k{chance.randint(0, 2)}"
            values = [chance.choice([chance.gauss(0, 1), math.nan, math.inf]) for _ in steps]
            events.append(spool.points(steps, time=1e9 + batch * 1000, **{key: values}))
            shown.setdefault(key, {}).update(zip(steps, values, strict=True))
    async with Client(tracker) as client:
        await client.publish(*events)
        for event in events:
            await client.applied(event)
        for most, first, end in [(1, 0, 0), (7, 0, 0), (64, 10, 200), (1000, 0, 0), (5, 299, 300)]:
            answer = await client.series(run, max_buckets=most, start_step=first, end_step=end)
            found = {item.key: item for item in answer.series}
            for key, points in shown.items():
                inside = {step: value for step, value in points.items() if first <= step < (end or 300)}
                if not inside:
                    assert key not in found
                    continue
                assert_is(found[key], inside, most)


def assert_is(series: metric_pb2.Series, points: dict[int, float], most: int) -> None:
    assert series.exact is (len(points) <= most)
    assert len(series.steps) <= most
    starts = list(series.steps)
    for place, start in enumerate(starts):
        end = starts[place + 1] if place + 1 < len(starts) else max(points) + 1
        steps = [step for step in sorted(points) if start <= step < end]
        finite = [points[step] for step in steps if math.isfinite(points[step])]
        assert series.counts[place] == len(steps)
        assert same(series.last[place], points[steps[-1]])
        assert same(series.min[place], min(finite, default=math.nan))
        assert same(series.max[place], max(finite, default=math.nan))
    assert starts[0] == min(points)
    assert sum(series.counts) == len(points)


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


async def test_killed_stores_lose_and_double_nothing(
    tmp_path: Path, data_folder: Path, s3: servers.S3
) -> None:
    postgres = await asyncio.to_thread(servers.start_postgres, data_folder)
    bus = await asyncio.to_thread(servers.start_nats, tmp_path / "nats")
    await asyncio.to_thread(postgres.create_database, "killed")
    url = await asyncio.to_thread(postgres.create_schema, "killed", "tracker")
    server = await asyncio.to_thread(
        start_tracker, tmp_path / "tracker", nats_url=bus.url, postgres_url=url, s3=s3
    )
    run = new_uid()
    spool = Spool(run)
    try:
        for victim in (postgres, bus, server):
            async with Client(server) as client:
                await client.publish(*(spool.points([spool.offset], loss=[1.0]) for _ in range(30)))
                await client.publish(spool.say(f"before {victim.program.name}"))
            await asyncio.to_thread(victim.restart)
        async with Client(server) as client:
            last = spool.points([spool.offset], loss=[2.0])
            await client.publish(last)
            await client.applied(last)
            (loss,) = (await client.series(run, "loss")).series
            assert list(loss.steps) == [
                place for place in range(0, spool.offset, 100) if place % 3100 != 3000
            ]
            assert set(loss.counts) == {1}
            found = await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run)))
            assert found.summary["loss"].count == 91
            lines = await client.runs.ListLogLines(tracker_pb2.ListLogLinesRequest(parent=run_name(run)))
            assert [line.text for line in lines.lines] == [
                "before postgres", "before nats", "before tracker",
            ]  # fmt: skip
            assert await client.postgres.fetchval("SELECT count(*) FROM dead_letters") == 0
    finally:
        for process in (server, bus, postgres):
            await asyncio.to_thread(process.stop)


async def test_an_engine_that_refuses_half_written_parts_opens_and_keeps_the_rest(tracker: Tracker) -> None:
    spool = Spool(new_uid())
    said = spool.say("kept")
    async with Client(tracker) as client:
        await client.publish(said)
        await client.applied(said)
    await asyncio.to_thread(tracker.stop)
    part = next((tracker.folder / "points" / "store").glob("*/*/all_*"))
    for number in range(1000, 1120):
        broken = part.with_name(f"all_{number}_{number}_0")
        shutil.copytree(part, broken)
        for name in ("data.bin", "columns.txt", "checksums.txt"):
            if (broken / name).exists():
                (broken / name).write_bytes(b"")
    await asyncio.to_thread(tracker.start)
    assert "clickhouse.restore_forced" in tracker.log.read_text()
    async with Client(tracker) as client:
        lines = await client.runs.ListLogLines(tracker_pb2.ListLogLinesRequest(parent=run_name(spool.run)))
        assert [line.text for line in lines.lines] == ["kept"]


class Jobs(scheduler_pb2_grpc.SchedulerServiceServicer):
    """A scheduler that has these jobs, one a page."""

    def __init__(self, jobs: list[job_pb2.Job]) -> None:
        self.jobs = jobs
        self.asked: list[datetime] = []

    async def ListJobs(self, request: Any, context: Any) -> Any:
        assert request.parent == "teams/-"
        since = request.updated_after.ToDatetime(tzinfo=UTC)
        self.asked.append(since)
        newer = [job for job in self.jobs if job.update_time.ToDatetime(tzinfo=UTC) > since]
        place = int(request.page_token or 0)
        more = str(place + 1) if place + 1 < len(newer) else ""
        return scheduler_pb2.ListJobsResponse(jobs=newer[place : place + 1], next_page_token=more)


@asynccontextmanager
async def scheduler(jobs: Jobs) -> AsyncIterator[aio.Channel]:
    server = aio.server()
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(jobs, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as made:
        yield made
    await server.stop(None)


async def test_runs_come_right_without_any_event(tracker: Tracker) -> None:
    clock = FakeClock(datetime.now(UTC))
    jobs = []
    for number in range(3):
        uid = new_uid()
        job = job_pb2.Job(name=f"teams/main/jobs/{uid}", uid=uid, revision=3, state=job_pb2.Job.SUCCEEDED)
        job.attempts.add(number=1, uid=new_uid(), state=job_pb2.Attempt.SUCCEEDED)
        for stamp in (job.create_time, job.end_time):
            stamp.FromDatetime(clock.now())
        job.update_time.FromDatetime(clock.now() + timedelta(seconds=number))
        jobs.append(job)
    served = Jobs(jobs)
    async with (
        Client(tracker) as client,
        scheduler(served) as made,
        pool(tracker.postgres_url, schema="tracker", size=2) as db,
    ):
        stub = scheduler_pb2_grpc.SchedulerServiceStub(made)
        for _ in range(2):
            await catch_up(db, stub, clock)
        # The second time it asks from shortly before where it was.
        assert jobs[-1].update_time.ToDatetime(tzinfo=UTC) - served.asked[-1] == timedelta(seconds=60)
        get = tracker_pb2.GetRunRequest(name=run_name(jobs[0].uid))
        run = await client.runs.GetRun(get)
        assert (run.state, run.complete, run.revision) == (run_pb2.Run.SUCCEEDED, False, 1)
        # Nobody says the attempt's last word: after a minute it is not waited for any more.
        await complete_overdue(db, clock.advance(59))
        assert not (await client.runs.GetRun(get)).complete
        await complete_overdue(db, clock.advance(2))
        assert (await client.runs.GetRun(get)).complete
