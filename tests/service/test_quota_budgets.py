"""Budgets run down while jobs run; what is used is in the ledger to the unit, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest
import pytest_asyncio
from grpc import aio

from cairn.quota.v1 import allocation_pb2, events_pb2, ledger_pb2, plan_pb2, quota_pb2, team_pb2
from cairn.scheduler.v1 import job_pb2
from cairn_common import document
from cairn_common.bus import connect
from cairn_common.clock import FakeClock
from cairn_common.db import Database, pool
from cairn_common.errors import Reason, Unavailable
from cairn_common.ids import new_uid
from cairn_common.migrate import migrate
from cairn_quota import treefile, wire
from cairn_quota.app import Parts
from cairn_quota.plan_checks import plan
from cairn_quota.plan_store import Plan, PlanStore
from cairn_quota.tree_store import Order, TreeStore
from tests.harness import servers
from tests.harness.books import check_books
from tests.harness.problem import problem
from tests.harness.quota import Quota, running

BEGIN = datetime(2026, 1, 30, 23, 7, 13, 250_000, tzinfo=UTC)
HOUR = 3_600_000
Verdict, Job, Kind = plan_pb2.Verdict, job_pb2.Job, ledger_pb2.LedgerEntry


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(BEGIN)


@pytest_asyncio.fixture
async def quota(
    database_url: Callable[[str], str], nats_url: str, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Quota]:
    url = database_url("quota")
    async with running(postgres_url=url, nats_url=nats_url, folder=tmp_path, clock=clock) as service:
        yield service


async def organised(quota: Quota, budget: str) -> str:
    """A new team in a tree with a budget `b-TEAM`."""
    team = f"t{new_uid()}"
    text = (
        "{currency: USD, flavors: {h100: {factor: 2, price: 3.6}, plain: {}}, tree: {organisation: acme,"
        " children: [{team: TEAM, children: [{project: seg}]}]}, budgets: {b-TEAM: {" + budget + "}}}"
    )
    await (await quota.allocation()).ApplyTree(
        allocation_pb2.ApplyTreeRequest(document=text.replace("TEAM", team))
    )
    return team


async def hold(
    quota: Quota, team: str, uid: str, *, gpu: int = 1, n: int = 1, minutes: int = 0
) -> plan_pb2.Verdict:
    one = plan_pb2.Hold(
        name=f"teams/{team}/reservations/{uid}-{n}",
        node=f"{team}/seg",
        project="seg",
        flavor="h100",
        amounts={"gpu": gpu * 1000, "jobs": 1000},
        user="users/ada",
    )
    if minutes:
        one.max_runtime.FromSeconds(60 * minutes)
    scheduler = await quota.allocation(quota.tokens.services["scheduler"])
    return (await scheduler.ApplyPlan(allocation_pb2.ApplyPlanRequest(holds=[one]))).verdicts[0]


def version(
    team: str,
    uid: str,
    revision: int,
    *,
    state: Job.State.ValueType,
    ends: float | None = None,
    gpus: int = 1,
) -> Job:
    made = Job(
        name=f"teams/{team}/jobs/{uid}",
        uid=uid,
        state=state,
        revision=revision,
        admissions=1,
        creator="users/ada",
    )
    made.spec.resources.gpus = gpus
    attempt = made.attempts.add(uid=f"{uid}a", number=1)
    attempt.start_time.FromDatetime(BEGIN)
    if ends is not None:
        attempt.end_time.FromDatetime(BEGIN + timedelta(seconds=ends))
    return made


async def tell(quota: Quota, clock: FakeClock, job: Job) -> None:
    """Another replica hears it."""
    await Parts.over(quota.db, clock).store.settle([wire.job_view(job)], actor="t", now=clock.now())


async def tick(quota: Quota, clock: FakeClock, seconds: float) -> None:
    clock.advance(seconds)
    await Parts.over(quota.db, clock).store.tick(now=clock.now())


async def entries(quota: Quota, team: str, budget: str = "") -> list[ledger_pb2.LedgerEntry]:
    admin = await quota.allocation()
    request = allocation_pb2.ListLedgerEntriesRequest(parent=f"teams/{team}", budget=budget, page_size=1000)
    return list((await admin.ListLedgerEntries(request)).entries)


async def balance(quota: Quota, team: str) -> tuple[int, int, int, int]:
    tree = await (await quota.allocation()).GetTree(allocation_pb2.GetTreeRequest(use=True))
    found = next(one.balance for one in tree.budgets if one.id == f"b-{team}")
    return found.granted, found.held, found.settled, found.available


async def test_a_budget_runs_down_while_the_job_runs_and_over_a_new_month(
    quota: Quota, clock: FakeClock
) -> None:
    team = await organised(quota, "node: TEAM, unit: gpu-hours, amount: 100, window: {calendar: month}")
    uid = new_uid()
    assert (await hold(quota, team, uid, gpu=4)).code == Verdict.HELD
    # Ten minutes ahead of 4 GPUs that count double.
    assert await balance(quota, team) == (100 * HOUR, 8 * HOUR // 6, 0, 100 * HOUR - 8 * HOUR // 6)
    await tell(quota, clock, version(team, uid, 1, state=Job.RUNNING, gpus=4))
    await tick(quota, clock, 61)
    granted, held, settled, left = await balance(quota, team)
    assert (held, settled) == (8 * HOUR // 6, 8 * 61_000)
    assert granted == held + settled + left
    # Nobody ticks for two days: the next one makes up for it, each month what is its own.
    await tick(quota, clock, 2 * 86_400)
    midnight = (datetime(2026, 2, 1, tzinfo=UTC) - BEGIN) // timedelta(milliseconds=1)
    now = (clock.now() - BEGIN) // timedelta(milliseconds=1)
    assert (await balance(quota, team))[2] == 8 * (now - midnight)
    # It had ended before the last tick: what was charged too much is given back.
    ran = 2 * 86_400 - 1_800.5
    await tell(quota, clock, version(team, uid, 2, state=Job.SUCCEEDED, ends=ran, gpus=4))
    rows = await quota.db.fetch(
        "SELECT held, settled FROM balances WHERE budget = $1 ORDER BY period_start", f"b-{team}"
    )
    assert [(row["held"], row["settled"]) for row in rows] == [
        (0, 8 * midnight),
        (0, 8 * (int(ran * 1000) - midnight)),
    ]
    await check_books(quota.db)


async def test_usage_is_the_ledger_to_the_unit(quota: Quota, clock: FakeClock) -> None:
    team = await organised(quota, "node: TEAM, unit: money, amount: 1000, window: {rolling: 30d}")
    for gpu, ran in ((1, 7_777.777), (3, 86_400.001), (2, 0.9)):
        uid = new_uid()
        await hold(quota, team, uid, gpu=gpu)
        await tell(quota, clock, version(team, uid, 1, state=Job.RUNNING, gpus=gpu))
        await tell(quota, clock, version(team, uid, 2, state=Job.FAILED, ends=ran, gpus=gpu))
        # Once more changes nothing.
        await tell(quota, clock, version(team, uid, 2, state=Job.FAILED, ends=ran, gpus=gpu))
    admin = await quota.allocation()
    request = allocation_pb2.QueryUsageRequest(
        parent=f"teams/{team}", group_by=[2, 3, 4], period=1, timezone="Asia/Kathmandu"
    )
    answer = await admin.QueryUsage(request)
    signs = {Kind.SETTLE: 1, Kind.REFUND: -1}
    again: Counter[tuple[str, str, str, int, int]] = Counter()
    for one in await entries(quota, team):
        if not one.budget:
            moment = one.time.ToDatetime(tzinfo=UTC) + timedelta(hours=5, minutes=45)
            again[one.user, one.project, one.flavor, moment.day, one.unit] += signs[one.kind] * one.amount
    for row in answer.rows:
        day = (row.period_start.ToDatetime(tzinfo=UTC) + timedelta(hours=5, minutes=45)).day
        key = row.user, row.project, row.flavor, day
        assert row.gpu_millis == again[*key, 1]
        assert row.money_micros == again[*key, 2]
    assert len(answer.rows) == 2, "two days in Kathmandu"
    whole = (await admin.QueryUsage(allocation_pb2.QueryUsageRequest(parent=f"teams/{team}"))).rows[0]
    assert whole.gpu_millis == 7_777_777 + 3 * 86_400_001 + 2 * 900
    # 3.6 USD an hour is one micro-USD a GPU-millisecond.
    assert (whole.money_micros, whole.jobs) == (whole.gpu_millis, 3)
    assert answer.currency == "USD"
    assert (await balance(quota, team))[2] == whole.money_micros
    await check_books(quota.db)


@pytest.mark.parametrize(
    ("overrun", "new", "again"),
    [
        ("deny_new", Verdict.BUDGET_EXHAUSTED, Verdict.HELD),
        ("drain", Verdict.BUDGET_EXHAUSTED, Verdict.BUDGET_EXHAUSTED),
        ("preempt", Verdict.BUDGET_EXHAUSTED, Verdict.BUDGET_EXHAUSTED),
    ],
)
async def test_a_spent_budget_acts_by_its_rule_and_tells(
    quota: Quota, clock: FakeClock, nats_url: str, overrun: str, new: int, again: int
) -> None:
    rule = f"node: TEAM, unit: gpu-hours, amount: 2, window: {{calendar: year}}, overrun: {overrun}"
    team, uid = await organised(quota, rule), new_uid()
    assert (await hold(quota, team, uid)).code == Verdict.HELD
    await tell(quota, clock, version(team, uid, 1, state=Job.RUNNING))
    for seconds in (2_400, 600, 600):
        await tick(quota, clock, seconds)
    assert (await hold(quota, team, new_uid())).code == new
    refused = await hold(quota, team, new_uid())
    assert refused.budget == f"b-{team}"
    assert f"b-{team}" in refused.message
    # The running job's next attempt.
    await tell(quota, clock, version(team, uid, 2, state=Job.RECOVERING, ends=3_600))
    assert (await hold(quota, team, uid, n=2)).code == again
    told = []
    async with asyncio.timeout(20), connect(nats_url, name="test") as bus:
        facts = bus.tail(stream="QUOTA", subjects=[f"cairn.v1.quota.budget.*.{team}.*"], start_sequence=1)
        async for message in facts:
            event = events_pb2.QuotaEvent.FromString(message.data)
            told.append(event.WhichOneof("event"))
            if told[-1] == "budget_exhausted":
                assert event.budget_exhausted.budget.balance.exhausted
                await facts.aclose()
                break
    assert told == ["budget_warned", "budget_exhausted"]
    await check_books(quota.db)


async def test_a_safe_budget_admits_what_its_longest_run_fits_into(quota: Quota) -> None:
    team = await organised(quota, "node: TEAM, unit: gpu-hours, amount: 2, window: {one_off: {}}, safe: true")
    assert (await hold(quota, team, new_uid())).code == Verdict.BUDGET_UNSAFE
    assert (await hold(quota, team, new_uid(), minutes=61)).code == Verdict.BUDGET_UNSAFE
    assert (await hold(quota, team, new_uid(), minutes=30)).code == Verdict.HELD
    assert await balance(quota, team) == (2 * HOUR, HOUR, 0, HOUR)
    assert (await hold(quota, team, new_uid(), minutes=31)).code == Verdict.BUDGET_UNSAFE


def asked_alone(team: str, *, gpus: int = 1, **more: object) -> quota_pb2.ReserveQuotaRequest:
    """One hold of a new job of the team, outside of any plan."""
    uid = new_uid()
    told = {
        name: value.replace("TEAM", team) if isinstance(value, str) else value for name, value in more.items()
    }
    return quota_pb2.ReserveQuotaRequest(
        parent=f"teams/{team}",
        reservation_id=f"{uid}-1",
        job=f"teams/{team}/jobs/{uid}",
        amounts=team_pb2.Amounts(gpus=gpus, jobs=1),
        flavor="h100",
        **told,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("budget", "payer", "other"),
    [
        ("user: ada, unit: gpu-hours, amount: 1", {"user": "users/ada"}, {"user": "users/bob"}),
        ("node: TEAM/seg, unit: gpu-hours, amount: 1", {"project": "seg"}, {}),
        ("node: TEAM/seg, unit: gpu-hours, amount: 1", {"node": "TEAM/seg"}, {"node": "TEAM"}),
        (
            "user: ada, unit: money, amount: 3",
            {"user": "users/ada", "price_micros_per_hour": 18_000_000},
            {"user": "users/bob", "price_micros_per_hour": 18_000_000},
        ),
    ],
)
async def test_a_hold_asked_for_alone_is_paid_from_every_budget_over_it(
    quota: Quota, budget: str, payer: dict[str, object], other: dict[str, object]
) -> None:
    team = await organised(quota, budget + ", window: {one_off: {}}")
    service = await quota.teams(quota.tokens.services["scheduler"])
    # Ten minutes ahead of three GPUs that count double are all of the hour, or of the money at this price.
    await service.ReserveQuota(asked_alone(team, gpus=3, **payer))
    assert (await balance(quota, team))[3] == 0
    error = await problem(service.ReserveQuota(asked_alone(team, **payer)))
    assert (error.reason, error.metadata["budget"]) == (Reason.QUOTA_EXCEEDED, f"b-{team}")
    await service.ReserveQuota(asked_alone(team, **other))
    await check_books(quota.db)


async def test_a_safe_budget_asks_a_hold_alone_for_its_longest_run(quota: Quota) -> None:
    team = await organised(quota, "node: TEAM, unit: gpu-hours, amount: 2, window: {one_off: {}}, safe: true")
    service = await quota.teams(quota.tokens.services["scheduler"])
    for runtime in ({}, {"max_runtime": timedelta(minutes=61)}):
        error = await problem(service.ReserveQuota(asked_alone(team, **runtime)))
        assert error.metadata["budget"] == f"b-{team}"
    await service.ReserveQuota(asked_alone(team, max_runtime=timedelta(minutes=30)))
    assert await balance(quota, team) == (2 * HOUR, HOUR, 0, HOUR)


async def test_a_hold_alone_of_what_the_tree_does_not_know_is_refused_by_field(quota: Quota) -> None:
    team = await organised(quota, "node: TEAM, unit: gpu-hours, amount: 1, window: {one_off: {}}")
    service = await quota.teams(quota.tokens.services["scheduler"])
    for field, value in (("flavor", "b200"), ("node", "nowhere"), ("priority_class", "royal")):
        request = asked_alone(team)
        setattr(request, field, value)
        error = await problem(service.ReserveQuota(request))
        assert (error.reason, error.metadata["field"]) == (Reason.FIELD_INVALID, field)
        assert value in error.message


@pytest.mark.parametrize("price", [1_800_000, 36_000_000])
async def test_a_price_that_is_known_late_holds_from_the_beginning(
    quota: Quota, clock: FakeClock, price: int
) -> None:
    """Two months' budgets, and usage: what was charged at the flavor's 3.6 becomes what it really cost."""
    team = await organised(quota, "node: TEAM, unit: money, amount: 2000, window: {calendar: month}")
    uid = new_uid()
    await hold(quota, team, uid)
    await tell(quota, clock, version(team, uid, 1, state=Job.RUNNING))
    await tick(quota, clock, 90_000)
    told = version(team, uid, 2, state=Job.RUNNING)
    told.attempts[0].price_micros_per_hour = price
    await tell(quota, clock, told)
    midnight = (datetime(2026, 2, 1, tzinfo=UTC) - BEGIN) // timedelta(milliseconds=1)
    assert (await balance(quota, team))[2] == 25 * price - price * midnight // HOUR
    await tick(quota, clock, 300)
    done = version(team, uid, 3, state=Job.SUCCEEDED, ends=90_100.5)
    done.attempts[0].price_micros_per_hour = price
    await tell(quota, clock, done)
    rows = await quota.db.fetch(
        "SELECT held, settled FROM balances WHERE budget = $1 ORDER BY period_start", f"b-{team}"
    )
    cost = price * 90_100_500 // HOUR
    first = price * midnight // HOUR
    assert [(row["held"], row["settled"]) for row in rows] == [(0, first), (0, cost - first)]
    query = allocation_pb2.QueryUsageRequest(parent=f"teams/{team}")
    used = (await (await quota.allocation()).QueryUsage(query)).rows[0]
    assert (used.money_micros, used.gpu_millis) == (cost, 90_100_500)
    await check_books(quota.db)


async def test_a_rolling_budget_gets_back_what_is_long_ago(quota: Quota, clock: FakeClock) -> None:
    team, uid = (
        await organised(quota, "node: TEAM, unit: gpu-hours, amount: 2, window: {rolling: 1d}"),
        new_uid(),
    )
    await hold(quota, team, uid)
    await tell(quota, clock, version(team, uid, 1, state=Job.RUNNING))
    clock.advance(3_600)
    await tell(quota, clock, version(team, uid, 2, state=Job.SUCCEEDED, ends=3_600))
    assert (await balance(quota, team))[3] == 0
    await tick(quota, clock, 86_400 - 1_800)
    assert 0 < (await balance(quota, team))[3] < 2 * HOUR
    await tick(quota, clock, 3_600)
    assert (await balance(quota, team))[3] == 2 * HOUR
    await check_books(quota.db)


async def test_killed_postgresql_leaves_books_that_add_up(session_folder: Path) -> None:
    """kill -9 of PostgreSQL, five times, while plans and meters run: nothing is half done."""
    server = await asyncio.to_thread(servers.start_postgres, session_folder / "killed", durable=False)
    try:
        server.create_database("killed")
        url = server.create_schema("killed", "quota")
        await migrate(url, "quota", files("cairn_quota") / "migrations")
        async with pool(url, schema="quota", size=4) as db:
            await _worked_on(db, server)
    finally:
        await asyncio.to_thread(server.stop)


async def _worked_on(db: Database, server: servers.Postgres) -> None:
    clock = FakeClock(BEGIN)
    await db.execute("INSERT INTO teams VALUES ('t', 't', '', now(), now(), 1, '')")
    await db.execute("INSERT INTO limits (team, gpus) VALUES ('t', 40)")
    parts = Parts.over(db, clock)
    text = (
        "{flavors: {x: {}}, tree: {organisation: o, children: [{team: t}]},"
        " budgets: {b: {node: t, unit: gpu-hours, amount: 50, window: {calendar: day}}}}"
    )
    tree = treefile.parse(document.read(text, document.TREE))
    await TreeStore(db, parts.authority).apply(Order(tree, "", "users/a", "", clock.now(), False))
    done = asyncio.Event()

    async def work(number: int) -> int:
        counted = 0
        while not done.is_set():
            uid = new_uid()
            try:
                await _one_job(parts, clock, uid)
                counted += 1
            except (Unavailable, aio.AioRpcError):
                await asyncio.sleep(0.02)
        return counted

    workers = [asyncio.create_task(work(number)) for number in range(3)]
    for _ in range(5):
        before: int = await _patient(db, "SELECT count(*) FROM ledger_entries")
        while await _patient(db, "SELECT count(*) FROM ledger_entries") < before + 40:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.restart)
    done.set()
    assert sum(await asyncio.gather(*workers)) > 0
    await check_books(db)
    async with Parts.over(db, clock).authority.reading() as state:
        assert state.shares.over() == []
    row = await db.fetchrow(
        "SELECT held_gpus, (SELECT coalesce(sum(gpus), 0) FROM reservations WHERE state = 1) AS held"
        " FROM limits"
    )
    assert row is not None
    assert row["held_gpus"] == row["held"] <= 40


async def _one_job(parts: Parts, clock: FakeClock, uid: str) -> None:
    request = allocation_pb2.ApplyPlanRequest(
        holds=[plan_pb2.Hold(name=f"teams/t/reservations/{uid}-1", flavor="x", amounts={"gpu": 3000})]
    )
    made: Plan = plan(request, now=clock.now())[0]
    await PlanStore(parts.authority).apply(made, actor="t", now=clock.now())
    running = version("t", uid, 1, state=Job.RUNNING, gpus=3)
    await parts.store.settle([wire.job_view(running)], actor="t", now=clock.now())
    clock.advance(61)
    await parts.store.tick(now=clock.now())
    ended = version("t", uid, 2, state=Job.SUCCEEDED, gpus=3, ends=30)
    await parts.store.settle([wire.job_view(ended)], actor="t", now=clock.now())


async def _patient(db: Database, query: str) -> int:
    while True:
        try:
            found: int = await db.fetchval(query)
            return found
        except Unavailable:
            await asyncio.sleep(0.05)
