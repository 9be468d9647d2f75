"""Charges attempts to the ledger: while they run, and exactly up to their end. In a change's transaction.

What is charged follows from an attempt's start and end alone (`account.advance`), so time that passed while
quota was away is made up for by whoever charges next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cairn_common.db import Connection
from cairn_quota import account, ledger, ledger_rows, reservation_rows
from cairn_quota.account import Payer
from cairn_quota.admission import ACTOR, State
from cairn_quota.budget import BEGINNING, millis
from cairn_quota.budget import period as period_at
from cairn_quota.model import Amounts, AttemptTimes, JobView, Meter, Reservation, ReservationState

OFTEN = timedelta(minutes=1)
"""How often a young attempt is charged while it runs; an older one every `SELDOM`."""
YOUNG = timedelta(minutes=10)
SELDOM = timedelta(minutes=5)
BATCH = 500
PRICED_IN = "USD"
"""The currency of the places' own prices."""


async def charge(
    conn: Connection, state: State, jobs: Sequence[JobView], reservations: Sequence[Reservation]
) -> None:
    """Begins the meters of attempts that have started, and charges those that have ended up to their end."""
    known = await ledger_rows.meters(conn, [attempt.uid for job in jobs for attempt in job.attempts])
    await ledger_rows.read_holdings(conn, state.books, [one.uid for one in reservations])
    changed: list[Meter] = []
    of_job: dict[tuple[str, str], list[Reservation]] = {}
    for one in reservations:
        of_job.setdefault((one.job_uid, one.team), []).append(one)
    for job in jobs:
        mine = of_job.get((job.uid, job.team), [])
        for attempt in job.attempts:
            if attempt.start_time is not None:
                changed.extend(_charged(state, job, mine, attempt, known.get(attempt.uid)))
    await ledger_rows.save_meters(conn, changed)


def _charged(
    state: State, job: JobView, mine: Sequence[Reservation], attempt: AttemptTimes, meter: Meter | None
) -> list[Meter]:
    assert attempt.start_time is not None
    end = attempt.end_time
    if meter is None:
        owner = ledger.owner_of(attempt.start_time, mine)
        start = attempt.start_time
        meter = Meter(attempt.uid, owner.uid if owner else "", start, None, start, attempt.price)
    elif meter.end == end and meter.price == attempt.price:
        return []
    hold = next((one for one in mine if one.uid == meter.reservation_uid), None) or _loose(job)
    before = _payer(state, hold, meter)
    meter = replace(meter, price=attempt.price)
    payer = _payer(state, hold, meter)
    account.reprice(state.books, before, payer, meter, actor=ACTOR)
    if end is not None:
        until = max(meter.start, end)
        meter = replace(account.advance(state.books, payer, meter, until=until, actor=ACTOR), end=until)
    return [meter]


def _payer(state: State, hold: Reservation, meter: Meter) -> Payer:
    """Who pays for an attempt, and how much: its own price where that is known, and in the tree's money."""
    at = state.resolve(hold)
    own = meter.price and state.tree.currency in ("", PRICED_IN)
    return state.payer(replace(at, price=meter.price) if own else at)


def _loose(job: JobView) -> Reservation:
    """Stands for the reservation of an attempt that ran under none: what it used is kept all the same."""
    resources = {"gpu": job.gpus * 1000, "cpu": job.cpu_milli}
    return Reservation(
        team=job.team, id="", uid="", job_uid=job.uid, admission=0, amounts=Amounts(),
        state=ReservationState.RELEASED, create_time=BEGINNING, ask_time=BEGINNING, end_time=BEGINNING,
        resources=resources, user=job.creator.removeprefix("users/"),
    )  # fmt: skip


async def due(conn: Connection, now: datetime) -> list[Meter]:
    """Running attempts that are to be charged again, those first that wait for it longest."""
    rows = await conn.fetch(
        f"SELECT {ledger_rows.METER_COLUMNS} FROM meters"  # noqa: S608
        " WHERE end_time IS NULL AND reservation_uid <> '' AND metered_until <="
        " $1::timestamptz - CASE WHEN $1 - start_time < $2::interval THEN $3::interval ELSE $4::interval END"
        " ORDER BY metered_until LIMIT $5",
        now,
        YOUNG,
        OFTEN,
        SELDOM,
        BATCH,
    )
    return [ledger_rows.meter(row) for row in rows]


async def tick(conn: Connection, state: State, *, now: datetime) -> int:
    """Charges running attempts up to now and renews what their holds hold ahead; returns how many."""
    meters = await due(conn, now)
    uids = [one.reservation_uid for one in meters]
    holds = await _holds(conn, uids)
    await ledger_rows.read_holdings(conn, state.books, uids)
    changed = []
    for meter in meters:
        payer = _payer(state, holds[meter.reservation_uid], meter)
        changed.append(account.advance(state.books, payer, meter, until=now, actor=ACTOR))
        if payer.hold.state is ReservationState.HELD:
            ran = millis(meter.start, now)
            account.rehold(state.books, payer, ran=ran, now=now, actor=ACTOR)
    await ledger_rows.save_meters(conn, changed)
    return len(meters)


async def renew(conn: Connection, state: State, *, now: datetime) -> None:
    """Begins the budgets' periods of now, and grants rolling ones anew what left their window."""
    for budget in state.tree.budgets:
        period = period_at(budget.window, now)
        if period is not None:
            state.books.grant(budget, period, now=now, actor=ACTOR)
        if budget.window.rolling is not None:
            before = await conn.fetchval(
                "SELECT coalesce(sum(CASE kind WHEN 3 THEN amount ELSE -amount END), 0)::bigint"
                " FROM ledger_entries WHERE budget = $1 AND kind IN (3, 5) AND time < $2",
                budget.id,
                now - timedelta(milliseconds=budget.window.rolling),
            )
            account.roll(state.books, budget, before=before, now=now, actor=ACTOR)


async def _holds(conn: Connection, uids: Sequence[str]) -> Mapping[str, Reservation]:
    rows = await conn.fetch(reservation_rows.SELECT + " WHERE uid = ANY($1::text[])", list(uids))
    return {row["uid"]: reservation_rows.reservation(row) for row in rows}
