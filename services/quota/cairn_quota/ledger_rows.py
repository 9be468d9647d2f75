"""SQL of the double-entry ledger's tables, set by set, in somebody else's transaction."""

from __future__ import annotations

from collections.abc import Sequence

from cairn_common.db import Connection, Row
from cairn_quota.account import Account, Balance, BookKey, Books, Entry, Holding, Kind
from cairn_quota.model import Meter
from cairn_quota.tree import BudgetUnit

ENTRY_COLUMNS = (
    "time, kind, budget, period_start, debit, credit, unit, amount, reservation, job_uid, attempt_uid, node,"
    " team, project, usr, flavor, actor, reason"
)


async def insert(conn: Connection, entries: Sequence[Entry]) -> None:
    """Appends entries, in their order."""
    if not entries:
        return
    await conn.execute(
        f"INSERT INTO ledger_entries ({ENTRY_COLUMNS}) SELECT * FROM unnest($1::timestamptz[],"  # noqa: S608
        " $2::smallint[], $3::text[], $4::timestamptz[], $5::smallint[], $6::smallint[], $7::smallint[],"
        " $8::bigint[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[],"
        " $15::text[], $16::text[], $17::text[], $18::text[])",
        [one.time for one in entries],
        [int(one.kind) for one in entries],
        [one.budget for one in entries],
        [one.period_start for one in entries],
        [int(one.debit) for one in entries],
        [int(one.credit) for one in entries],
        [int(one.unit) for one in entries],
        [one.amount for one in entries],
        [one.reservation for one in entries],
        [one.job_uid for one in entries],
        [one.attempt_uid for one in entries],
        [one.node for one in entries],
        [one.team for one in entries],
        [one.project for one in entries],
        [one.user for one in entries],
        [one.flavor for one in entries],
        [one.actor for one in entries],
        [one.reason for one in entries],
    )


def entry(row: Row) -> Entry:
    """An entry by its row."""
    return Entry(
        time=row["time"],
        kind=Kind(row["kind"]),
        budget=row["budget"],
        period_start=row["period_start"],
        debit=Account(row["debit"]),
        credit=Account(row["credit"]),
        unit=BudgetUnit(row["unit"]),
        amount=row["amount"],
        reservation=row["reservation"],
        job_uid=row["job_uid"],
        attempt_uid=row["attempt_uid"],
        node=row["node"],
        team=row["team"],
        project=row["project"],
        user=row["usr"],
        flavor=row["flavor"],
        actor=row["actor"],
        reason=row["reason"],
    )


async def balances(conn: Connection) -> dict[BookKey, Balance]:
    """Every balance."""
    rows = await conn.fetch(
        "SELECT budget, period_start, period_end, unit, base, rolled, granted, held, settled, warned,"
        " exhausted FROM balances"
    )
    found = [
        Balance(
            budget=row["budget"],
            start=row["period_start"],
            end=row["period_end"],
            unit=BudgetUnit(row["unit"]),
            base=row["base"],
            rolled=row["rolled"],
            granted=row["granted"],
            held=row["held"],
            settled=row["settled"],
            warned=row["warned"],
            exhausted=row["exhausted"],
        )
        for row in rows
    ]
    return {one.key: one for one in found}


async def save_balances(conn: Connection, changed: Sequence[Balance]) -> None:
    """Writes balances as they are now."""
    if not changed:
        return
    await conn.execute(
        "INSERT INTO balances (budget, period_start, period_end, unit, base, rolled, granted, held, settled,"
        " warned, exhausted) SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[],"
        " $4::smallint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],"
        " $10::boolean[], $11::boolean[]) ON CONFLICT (budget, period_start) DO UPDATE SET"
        " period_end = excluded.period_end, base = excluded.base, rolled = excluded.rolled,"
        " granted = excluded.granted, held = excluded.held, settled = excluded.settled,"
        " warned = excluded.warned, exhausted = excluded.exhausted",
        [one.budget for one in changed],
        [one.start for one in changed],
        [one.end for one in changed],
        [int(one.unit) for one in changed],
        [one.base for one in changed],
        [one.rolled for one in changed],
        [one.granted for one in changed],
        [one.held for one in changed],
        [one.settled for one in changed],
        [one.warned for one in changed],
        [one.exhausted for one in changed],
    )


async def read_holdings(conn: Connection, books: Books, uids: Sequence[str]) -> None:
    """Puts what these reservations hold of budgets into the books."""
    rows = await conn.fetch(
        "SELECT reservation_uid, budget, period_start, held FROM holdings"
        " WHERE reservation_uid = ANY($1::text[])",
        list(uids),
    )
    for row in rows:
        one = Holding(row["reservation_uid"], row["budget"], row["period_start"], row["held"])
        books.holdings.setdefault(one.reservation_uid, {}).setdefault(one.budget, one)


async def save_holdings(conn: Connection, moved: Sequence[Holding]) -> None:
    """Writes what is held of budgets now; what holds nothing any more has no row."""
    empty = [one for one in moved if not one.held]
    if empty:
        await conn.execute(
            "DELETE FROM holdings USING unnest($1::text[], $2::text[]) AS gone (uid, budget)"
            " WHERE holdings.reservation_uid = gone.uid AND holdings.budget = gone.budget",
            [one.reservation_uid for one in empty],
            [one.budget for one in empty],
        )
    full = [one for one in moved if one.held]
    if full:
        await conn.execute(
            "INSERT INTO holdings (reservation_uid, budget, period_start, held) SELECT * FROM"
            " unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[]) ON CONFLICT"
            " (reservation_uid, budget) DO UPDATE SET period_start = excluded.period_start,"
            " held = excluded.held",
            [one.reservation_uid for one in full],
            [one.budget for one in full],
            [one.start for one in full],
            [one.held for one in full],
        )


METER_COLUMNS = "attempt_uid, reservation_uid, start_time, end_time, metered_until, price_micros"


async def meters(conn: Connection, attempts: Sequence[str]) -> dict[str, Meter]:
    """The meters of attempts that have one."""
    rows = await conn.fetch(
        f"SELECT {METER_COLUMNS} FROM meters WHERE attempt_uid = ANY($1::text[])",  # noqa: S608
        list(attempts),
    )
    return {row["attempt_uid"]: meter(row) for row in rows}


def meter(row: Row) -> Meter:
    """A meter by its row."""
    return Meter(
        attempt_uid=row["attempt_uid"],
        reservation_uid=row["reservation_uid"],
        start=row["start_time"],
        end=row["end_time"],
        until=row["metered_until"],
        price=row["price_micros"],
    )


async def save_meters(conn: Connection, changed: Sequence[Meter]) -> None:
    """Writes meters as they are now."""
    if not changed:
        return
    await conn.execute(
        f"INSERT INTO meters ({METER_COLUMNS}) SELECT * FROM unnest($1::text[], $2::text[],"  # noqa: S608
        " $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])"
        " ON CONFLICT (attempt_uid) DO UPDATE SET end_time = excluded.end_time,"
        " metered_until = excluded.metered_until, price_micros = excluded.price_micros",
        [one.attempt_uid for one in changed],
        [one.reservation_uid for one in changed],
        [one.start for one in changed],
        [one.end for one in changed],
        [one.until for one in changed],
        [one.price for one in changed],
    )
