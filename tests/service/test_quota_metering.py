"""Metering and settling: events in any order, lost ones, and holds that nobody comes back for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import grpc
import pytest
import pytest_asyncio

from cairn.quota.v1 import quota_pb2, reservation_pb2, team_pb2
from cairn.scheduler.v1 import events_pb2, job_pb2, scheduler_pb2, scheduler_pb2_grpc
from cairn_common.auth import Role, access
from cairn_common.bus import Message, connect
from cairn_common.clock import FakeClock
from cairn_common.errors import NotFound, Reason
from cairn_common.ids import new_uid
from cairn_common.rpc import channel, server
from cairn_common.subjects import STREAMS, subject
from cairn_quota.app import Parts
from cairn_quota.handlers import Metering
from cairn_quota.reconcile import Reconciler
from tests.harness.quota import Quota, running

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
Job = job_pb2.Job


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(BEGIN)


@pytest_asyncio.fixture
async def quota(
    database_url: Callable[[str], str], nats_url: str, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Quota]:
    async with running(
        postgres_url=database_url("quota"), nats_url=nats_url, folder=tmp_path, clock=clock
    ) as service:
        yield service


def job(team: str, uid: str, *, revision: int, state: Job.State.ValueType, admissions: int) -> Job:
    made = Job(
        name=f"teams/{team}/jobs/{uid}",
        uid=uid,
        state=state,
        revision=revision,
        admissions=admissions,
        creator="users/admin",
    )
    made.spec.num_nodes = 2
    made.spec.resources.gpus = 3
    made.spec.resources.cpu_milli = 1500
    made.update_time.FromDatetime(BEGIN + timedelta(seconds=revision))
    return made


def attempt(to: Job, number: int, *, start: float, end: float | None) -> None:
    made = to.attempts.add(uid=f"{to.uid}a{number}", number=number)
    made.start_time.FromDatetime(BEGIN + timedelta(seconds=start))
    if end is not None:
        made.end_time.FromDatetime(BEGIN + timedelta(seconds=end))


def story(team: str, uid: str) -> list[Job]:
    """Two admissions with an attempt each (the first was requeued), then the end."""
    told = [
        job(team, uid, revision=1, state=Job.PENDING, admissions=0),
        job(team, uid, revision=2, state=Job.ADMITTED, admissions=1),
        job(team, uid, revision=3, state=Job.RUNNING, admissions=1),
        job(team, uid, revision=4, state=Job.PENDING, admissions=1),
        job(team, uid, revision=5, state=Job.RUNNING, admissions=2),
        job(team, uid, revision=6, state=Job.SUCCEEDED, admissions=2),
    ]
    for one in told[2:]:
        attempt(one, 1, start=10, end=None if one.revision == 3 else 20)
    for one in told[4:]:
        attempt(one, 2, start=110, end=None if one.revision == 5 else 111.5)
    return told


def event(of: Job) -> events_pb2.SchedulerEvent:
    arm = {Job.PENDING: "job_requeued", Job.SUCCEEDED: "job_finished", Job.RUNNING: "job_running"}
    made = events_pb2.SchedulerEvent(id=new_uid(), actor="services/scheduler")
    getattr(made, arm.get(of.state, "job_admitted")).job.CopyFrom(of)
    return made


def message(of: Job) -> Message:
    team = of.name.split("/")[1]
    return Message(
        subject=subject("scheduler", "job", "running", team, of.uid),
        data=event(of).SerializeToString(),
        sequence=1,
        num_delivered=1,
        time=BEGIN,
    )


async def reserve(quota: Quota, team: str, uid: str, number: int) -> reservation_pb2.Reservation:
    service = await quota.teams(quota.tokens.services["scheduler"])
    return await service.ReserveQuota(
        quota_pb2.ReserveQuotaRequest(
            parent=f"teams/{team}",
            reservation_id=f"{uid}-{number}",
            job=f"teams/{team}/jobs/{uid}",
            amounts=team_pb2.Amounts(gpus=6, cpu_milli=3000, jobs=1),
        )
    )


async def states(quota: Quota, team: str) -> dict[str, str]:
    teams = await quota.teams()
    answer = await teams.ListReservations(quota_pb2.ListReservationsRequest(parent=f"teams/{team}"))
    return {
        one.name.rpartition("-")[2]: reservation_pb2.Reservation.State.Name(one.state)
        for one in answer.reservations
    }


async def used(quota: Quota, team: str, **period: float) -> tuple[float, float, int]:
    request = quota_pb2.GetUsageRequest(name=f"teams/{team}")
    for name, seconds in period.items():
        getattr(request, name).FromDatetime(BEGIN + timedelta(seconds=seconds))
    usage = await (await quota.teams()).GetUsage(request)
    return usage.gpu_seconds, usage.cpu_seconds, usage.attempts


async def is_free(quota: Quota, team: str) -> bool:
    got = await (await quota.teams()).GetTeam(quota_pb2.GetTeamRequest(name=f"teams/{team}"))
    return got.held == team_pb2.Amounts()


@pytest.mark.parametrize("seed", range(8))
async def test_shuffled_doubled_and_lost_events_end_in_the_same_state(
    quota: Quota, clock: FakeClock, seed: int
) -> None:
    chance = random.Random(seed)
    team, uid = await quota.team(), new_uid()
    await reserve(quota, team, uid, 1)
    clock.advance(100)
    await reserve(quota, team, uid, 2)
    told = story(team, uid)
    heard = [one for one in told[:-1] if chance.random() < 0.8] * 2 + [told[-1]] * 2
    chance.shuffle(heard)
    metering = Metering(Parts.over(quota.db, clock).store, clock)
    while heard:
        size = chance.randint(1, 4)
        await metering([message(one) for one in heard[:size]])
        heard = heard[size:]
    assert await states(quota, team) == {"1": "SETTLED", "2": "SETTLED"}
    assert await used(quota, team) == (6 * 11.5, 3 * 11.5, 2)
    assert await used(quota, team, start_time=20, end_time=111.5) == (60, 30, 1)
    assert await is_free(quota, team)


async def test_a_job_back_in_the_queue_gives_back_its_admission_and_keeps_the_next(
    quota: Quota, clock: FakeClock
) -> None:
    team, uid = await quota.team(), new_uid()
    await reserve(quota, team, uid, 1)
    await reserve(quota, team, uid, 2)
    metering = Metering(Parts.over(quota.db, clock).store, clock)
    await metering([message(story(team, uid)[3])])
    assert await states(quota, team) == {"1": "RELEASED", "2": "HELD"}


async def test_an_older_version_of_a_job_changes_nothing(quota: Quota, clock: FakeClock) -> None:
    team, uid = await quota.team(), new_uid()
    metering = Metering(Parts.over(quota.db, clock).store, clock)
    await metering([message(job(team, uid, revision=7, state=Job.ADMITTED, admissions=1))])
    await reserve(quota, team, uid, 1)
    await metering([message(job(team, uid, revision=6, state=Job.CANCELLED, admissions=1))])
    assert await states(quota, team) == {"1": "HELD"}


async def test_usage_cannot_be_rewritten(quota: Quota, clock: FakeClock) -> None:
    team, uid = await quota.team(), new_uid()
    metering = Metering(Parts.over(quota.db, clock).store, clock)
    await metering([message(story(team, uid)[-1])])
    for statement in ("UPDATE usage_entries SET gpu_millis = 0", "DELETE FROM usage_entries"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
            await quota.db.execute(statement)
    assert (await used(quota, team))[2] == 2


async def test_events_on_the_bus_settle_and_poison_among_them_stops_nothing(
    quota: Quota, nats_url: str
) -> None:
    team, uid, next_uid = await quota.team(), new_uid(), new_uid()
    await reserve(quota, team, uid, 1)
    last, other = story(team, uid)[-1], story(team, next_uid)[-1]
    finished = subject("scheduler", "job", "finished", team, uid)
    held = asyncio.Event()
    async with asyncio.timeout(20), connect(nats_url, name="test") as bus:
        await bus.ensure_stream("SCHEDULER", STREAMS["SCHEDULER"])
        await bus.ensure_stream("QUOTA", STREAMS["QUOTA"])
        await bus.publish(finished, b"\xff\xff not an event")
        # Tells of another job than its subject.
        await bus.publish(finished, event(other).SerializeToString())
        await bus.publish(finished, event(last).SerializeToString())
        facts = bus.tail(
            stream="QUOTA",
            subjects=[f"cairn.v1.quota.reservation.ended.{team}.*"],
            start_sequence=1,
        )
        async for _ in facts:
            held.set()
            await facts.aclose()
            break
    assert held.is_set()
    assert await states(quota, team) == {"1": "SETTLED"}
    assert (await used(quota, team))[2] == 2
    buried = await quota.db.fetchval("SELECT count(*) FROM dead_letters WHERE subject = $1", finished)
    assert buried == 2


@dataclass
class Scheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """As much of the scheduler as quota asks: a real server, with jobs that a test says."""

    jobs: dict[str, Job] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def ListJobs(
        self, request: scheduler_pb2.ListJobsRequest, context: object
    ) -> scheduler_pb2.ListJobsResponse:
        since = request.updated_after.ToDatetime(tzinfo=UTC)
        found = [
            one
            for one in self.jobs.values()
            if (not request.states or one.state in request.states)
            and (not request.admitted or one.admissions)
            and (not request.HasField("updated_after") or one.update_time.ToDatetime(tzinfo=UTC) > since)
        ]
        begin = int(request.page_token or 0)
        end = begin + 1
        return scheduler_pb2.ListJobsResponse(
            jobs=found[begin:end], next_page_token=str(end) if end < len(found) else ""
        )

    async def GetJob(self, request: scheduler_pb2.GetJobRequest, context: object) -> Job:
        self.asked.append(request.name)
        found = self.jobs.get(request.name)
        if found is None:
            raise NotFound("there is no such job", reason=Reason.JOB_NOT_FOUND)
        return found


@dataclass
class World:
    scheduler: Scheduler
    reconciler: Reconciler


async def nobody(token: str) -> object:
    raise AssertionError("every method here is public")


@pytest_asyncio.fixture
async def world(quota: Quota, clock: FakeClock) -> AsyncIterator[World]:
    scheduler = Scheduler()
    service = "cairn.scheduler.v1.SchedulerService"
    async with (
        server(
            bind="127.0.0.1:0",
            access={f"/{service}/{name}": access(Role.NONE, public=True) for name in ("ListJobs", "GetJob")},
            authenticate=nobody,  # type: ignore[arg-type]
            services=[
                lambda made: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, made)
            ],
            names=[service],
        ) as running_server,
        channel(f"127.0.0.1:{running_server.port}") as there,
    ):
        stub = scheduler_pb2_grpc.SchedulerServiceStub(there)
        yield World(scheduler, Reconciler(Parts.over(quota.db, clock).store, stub, clock))
    await quota.db.execute("UPDATE limits SET held_gpus = 0, held_cpu_milli = 0, held_jobs = 0")
    await quota.db.execute("TRUNCATE reservations, reconciliation")


def put(world: World, jobs: Sequence[Job]) -> None:
    for one in jobs:
        world.scheduler.jobs[one.name] = one


async def test_what_the_bus_lost_is_metered_and_settled_by_asking(
    quota: Quota, world: World, clock: FakeClock
) -> None:
    team, uids = await quota.team(), [new_uid() for _ in range(3)]
    for uid in uids:
        await reserve(quota, team, uid, 1)
    put(world, [story(team, uid)[-1] for uid in uids])
    await world.reconciler.round()
    assert await states(quota, team) == {"1": "SETTLED"}
    assert await is_free(quota, team)
    assert (await used(quota, team))[2] == 6


async def test_young_holds_are_left_alone_and_old_ones_end_unless_their_job_runs(
    quota: Quota, world: World, clock: FakeClock
) -> None:
    team, runs, waits, gone = await quota.team(), new_uid(), new_uid(), new_uid()
    for uid in (runs, waits, gone):
        await reserve(quota, team, uid, 1)
    put(
        world,
        [
            job(team, runs, revision=2, state=Job.RUNNING, admissions=1),
            job(team, waits, revision=1, state=Job.PENDING, admissions=0),
        ],
    )
    clock.advance(59)
    await world.reconciler.round()
    assert not world.scheduler.asked
    clock.advance(2)
    # Asked for again: young again.
    await reserve(quota, team, waits, 1)
    await world.reconciler.round()
    held = await (await quota.teams()).ListReservations(
        quota_pb2.ListReservationsRequest(parent=f"teams/{team}", held_only=True)
    )
    assert {one.job.rpartition("/")[2] for one in held.reservations} == {runs, waits}
    clock.advance(61)
    await world.reconciler.round()
    held = await (await quota.teams()).ListReservations(
        quota_pb2.ListReservationsRequest(parent=f"teams/{team}", held_only=True)
    )
    assert {one.job.rpartition("/")[2] for one in held.reservations} == {runs}


async def test_a_scheduler_that_is_away_ends_nothing(quota: Quota, clock: FakeClock) -> None:
    team, uid = await quota.team(), new_uid()
    await reserve(quota, team, uid, 1)
    clock.advance(600)
    # Nobody listens on a port that was never bound: grpc says UNAVAILABLE.
    async with channel("127.0.0.1:1", timeout=2) as there:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(there)
        reconciler = Reconciler(Parts.over(quota.db, clock).store, stub, clock)
        with pytest.raises(Exception, match="connect") as caught:
            await reconciler.round()
    assert getattr(caught.value, "code", None) is grpc.StatusCode.UNAVAILABLE
    assert await states(quota, team) == {"1": "HELD"}
