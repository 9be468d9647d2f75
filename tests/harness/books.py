"""What has to be true of quota's books, read from its tables."""

from __future__ import annotations

from cairn_common.db import Database
from cairn_quota import ledger_rows
from cairn_quota.account import Entry, derived


async def check_books(db: Database) -> None:
    """Every balance is the sum of its entries, and what is held is what the holdings say."""
    async with db.transaction() as conn:
        rows = await conn.fetch(f"SELECT {ledger_rows.ENTRY_COLUMNS} FROM ledger_entries ORDER BY seq")
        told: list[Entry] = [ledger_rows.entry(row) for row in rows]
        balances = await ledger_rows.balances(conn)
        held = await conn.fetch(
            "SELECT budget, period_start, sum(held)::bigint AS held FROM holdings GROUP BY 1, 2"
        )
    assert balances
    sums = {(row["budget"], row["period_start"]): row["held"] for row in held}
    for key, one in balances.items():
        again = derived(one, told)
        assert (again.granted, again.held, again.settled) == (one.granted, one.held, one.settled), key
        assert sums.get(key, 0) == one.held
