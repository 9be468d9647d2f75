"""The one place where what is held and owed changes: a transaction under one lock, over remembered state.

Every change locks the row of `tree_state` first, so changes come one after the other, whoever makes them.
Its `seq` says whether what this process remembers is still true; if not, it is read anew. A change that
fails leaves nothing remembered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

from cairn.quota.v1 import tree_pb2
from cairn_common.db import Connection, Database
from cairn_quota import account, facts, ledger_rows, tree_wire
from cairn_quota.admission import ACTOR, State, ruling
from cairn_quota.budget import BEGINNING
from cairn_quota.model import Amounts, Reservation, ReservationState
from cairn_quota.shares import Shares
from cairn_quota.team_store import limits_of
from cairn_quota.tree import EMPTY, Tree


class Authority:
    """Gives out the state to change, one change at a time."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = asyncio.Lock()
        self._known: tuple[int, State] | None = None

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[tuple[Connection, State]]:
        """A transaction with the state as it stands; what was changed in it is written at the end."""
        async with self._lock:
            known, self._known = self._known, None
            async with self._db.transaction() as conn:
                seq: int = await conn.fetchval("SELECT seq FROM tree_state FOR UPDATE")
                state = known[1] if known is not None and known[0] == seq else await load(conn)
                yield conn, state
                await _write(conn, state)
                await conn.execute("UPDATE tree_state SET seq = $1", seq + 1)
            self._known = seq + 1, state

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[State]:
        """The state as it stands, not to be changed."""
        async with self._lock:
            seq: int = await self._db.fetchval("SELECT seq FROM tree_state")
            if self._known is None or self._known[0] != seq:
                async with self._db.transaction() as conn:
                    seq = await conn.fetchval("SELECT seq FROM tree_state FOR SHARE")
                    self._known = seq, await load(conn)
            yield self._known[1]


async def load(conn: Connection) -> State:
    """The state by the database alone."""
    version, tree = await stored_tree(conn)
    rows = await conn.fetch("SELECT team, gpus, cpu_milli, jobs FROM limits ORDER BY team")
    ruled = ruling(tree, [(row["team"], limits_of(row)) for row in rows])
    state = State(ruled, Shares(ruled), account.Books(), version)
    state.counters = {
        row["node"]: row["counter"] for row in await conn.fetch("SELECT node, counter FROM node_counters")
    }
    state.books.balances = await ledger_rows.balances(conn)
    await _count_held(conn, state)
    state.grown.clear()
    return state


async def stored_tree(conn: Connection) -> tuple[int, Tree]:
    """The tree that was applied last, as it was applied, and its version; 0: none was."""
    row = await conn.fetchrow("SELECT version, tree FROM tree_versions ORDER BY version DESC LIMIT 1")
    if row is None:
        return 0, EMPTY
    return row["version"], tree_wire.tree_value(tree_pb2.QuotaTree.FromString(row["tree"]))


async def _count_held(conn: Connection, state: State) -> None:
    """Counts what is held, those that hold alike together."""
    rows = await conn.fetch(
        "SELECT team, node, flavor, resources::text AS resources, usr, project, count(*) AS times"
        " FROM reservations WHERE state = 1 GROUP BY team, node, flavor, resources, usr, project"
    )
    for row in rows:
        amounts = {name: amount * row["times"] for name, amount in json.loads(row["resources"]).items()}
        state.take(
            state.resolve(
                Reservation(
                    team=row["team"], id="", uid="", job_uid="", admission=1, amounts=Amounts(),
                    state=ReservationState.HELD, create_time=BEGINNING, ask_time=BEGINNING, end_time=None,
                    node=row["node"], flavor=row["flavor"], resources=amounts, user=row["usr"],
                    project=row["project"],
                )
            )
        )  # fmt: skip


async def _write(conn: Connection, state: State) -> None:
    """What was changed in the state since it was given out."""
    books = state.books
    await ledger_rows.insert(conn, books.entries)
    await _raise_alarms(conn, state)
    await ledger_rows.save_balances(conn, [books.balances[key] for key in books.changed])
    await ledger_rows.save_holdings(conn, [books.holdings[uid][budget] for uid, budget in books.moved])
    await grow(conn, state, sorted(state.grown))
    books.entries.clear()
    books.changed.clear()
    books.moved.clear()
    # Only those of the holds at hand were read.
    books.holdings.clear()
    state.grown.clear()


async def grow(conn: Connection, state: State, nodes: Sequence[str]) -> None:
    """Counts one more growth of each node's use."""
    if not nodes:
        return
    await conn.execute(
        "INSERT INTO node_counters AS known (node, counter) SELECT *, 1 FROM unnest($1::text[])"
        " ON CONFLICT (node) DO UPDATE SET counter = known.counter + 1",
        list(nodes),
    )
    for node in nodes:
        state.counters[node] = state.counters.get(node, 0) + 1


async def _raise_alarms(conn: Connection, state: State) -> None:
    """Tells once of each budget that is nearly, or all, spent; anew after there was more again."""
    known = {budget.id: budget for budget in state.tree.budgets}
    now: datetime | None = None
    for key in sorted(state.books.changed):
        balance = state.books.balances[key]
        warned, exhausted = account.alarms(balance)
        if (warned, exhausted) == (balance.warned, balance.exhausted):
            continue
        state.books.balances[key] = replace(balance, warned=warned, exhausted=exhausted)
        budget = known.get(balance.budget)
        if budget is None:
            continue
        now = now or await conn.fetchval("SELECT now()")
        assert now is not None
        if exhausted and not balance.exhausted:
            await facts.tell_budget(conn, state, budget, balance, exhausted=True, actor=ACTOR, now=now)
        elif warned and not balance.warned:
            await facts.tell_budget(conn, state, budget, balance, exhausted=False, actor=ACTOR, now=now)
