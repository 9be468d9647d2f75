"""The tree's versions: reads them, and applies new ones. Each public method is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cairn.quota.v1 import tree_pb2
from cairn_common.db import Connection, Database
from cairn_common.errors import Aborted, FailedPrecondition, NotFound, Reason
from cairn_common.once import reused
from cairn_quota import audit, authority, facts, metering, reservation_rows, tree_wire
from cairn_quota.account import Account, Entry, adjust
from cairn_quota.account import Kind as EntryKind
from cairn_quota.admission import State
from cairn_quota.authority import Authority
from cairn_quota.budget import BEGINNING, period
from cairn_quota.model import Limits, Role
from cairn_quota.plain import Change, changes
from cairn_quota.team_store import insert_team, new_team
from cairn_quota.tree import EMPTY, BudgetUnit, Tree
from cairn_quota.validity import check


@dataclass(frozen=True, slots=True)
class Stored:
    """A version of the tree: 0 where none was ever applied."""

    version: int
    tree: Tree
    actor: str = ""
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a new tree changes. `new_teams`: ids of those that are made with it."""

    stored: Stored
    different: list[Change]
    new_teams: list[str]


@dataclass(frozen=True, slots=True)
class Order:
    """A new tree. `etag` empty: whatever is there is replaced."""

    tree: Tree
    etag: str
    actor: str
    request_id: str
    now: datetime
    # Teams of the tree that are not there yet are made, with the actor as owner.
    makes_teams: bool
    # What tells the request from another one under its request_id.
    digest: bytes = b""


class TreeStore:
    """See the module."""

    def __init__(self, db: Database, authority: Authority) -> None:
        self._db = db
        self._authority = authority

    async def current(self) -> Stored:
        """The tree that was applied last, as it was applied."""
        row = await self._db.fetchrow(
            "SELECT version, tree, actor, time FROM tree_versions ORDER BY version DESC LIMIT 1"
        )
        if row is None:
            return Stored(0, EMPTY)
        tree = tree_wire.tree_value(tree_pb2.QuotaTree.FromString(row["tree"]))
        return Stored(row["version"], tree, row["actor"], row["time"])

    async def versions(self, *, before: int | None, size: int) -> list[tree_pb2.TreeVersion]:
        """Newest first, from behind the version `before`."""
        rows = await self._db.fetch(
            "SELECT version, changes, actor, time, request_id FROM tree_versions"
            " WHERE $1::bigint IS NULL OR version < $1 ORDER BY version DESC LIMIT $2",
            before,
            size,
        )
        found = []
        for row in rows:
            one = tree_pb2.TreeVersion.FromString(row["changes"])
            one.version, one.actor, one.request_id = row["version"], row["actor"], row["request_id"]
            one.time.FromDatetime(row["time"])
            found.append(one)
        return found

    async def outcome(self, order: Order) -> Outcome:
        """What `apply` would do now, and its errors; nothing is changed."""
        check(order.tree)
        stored = await self.current()
        check_etag(order.etag, stored.version)
        missing = await _missing_teams(self._db, order)
        return Outcome(replace(stored, tree=order.tree), changes(stored.tree, order.tree), missing)

    async def apply(self, order: Order) -> Outcome:
        """Makes a tree rule; no new version where nothing changes. What is held stays held.

        Raises TreeInvalid, Aborted/ETAG_MISMATCH, NotFound/TEAM_NOT_FOUND.
        """
        check(order.tree)
        async with self._authority.changing() as (conn, state):
            version, old = await authority.stored_tree(conn)
            if order.request_id and await _applied(conn, order):
                return Outcome(await self.current(), [], [])
            check_etag(order.etag, version)
            different, missing = changes(old, order.tree), await _missing_teams(conn, order)
            if different or not version:
                version += 1
                await _make_teams(conn, order, missing)
                await _insert(conn, version, order, different)
                await self._rule(conn, state)
                await metering.renew(conn, state, now=order.now)
                await facts.tell_tree(conn, version, actor=order.actor, now=order.now)
                await audit.record(
                    conn, "tree.applied", actor=order.actor, now=order.now, resource="tree", version=version
                )
        return Outcome(Stored(version, order.tree, order.actor, order.now), different, missing)

    async def _rule(self, conn: Connection, state: State) -> None:
        """The state becomes that of the new tree; held reservations move to their nodes in it."""
        rows = await conn.fetch(reservation_rows.SELECT + " WHERE state = 1")
        fresh = await authority.load(conn)
        held = [reservation_rows.reservation(row) for row in rows]
        moved = [now for one in held if (now := fresh.resolve(one)) != one]
        await reservation_rows.move(conn, moved)
        state.tree, state.shares, state.version = fresh.tree, fresh.shares, fresh.version

    async def adjust(
        self, budget_id: str, amount: int, *, reason: str, request_id: str, actor: str, now: datetime
    ) -> State:
        """Adds to a budget's period of now, or takes from what is available in it.

        Raises NotFound/BUDGET_NOT_FOUND, FailedPrecondition/STATE_INVALID where more is taken than there is
        or the budget is not there now, InvalidArgument/REQUEST_ID_REUSED where the request_id was another
        request's.
        """
        async with self._authority.changing() as (conn, state):
            budget = next((one for one in state.tree.budgets if one.id == budget_id), None)
            if budget is None:
                raise NotFound(
                    f"There is no budget {budget_id[:80]!r} in the quota tree.",
                    reason=Reason.BUDGET_NOT_FOUND,
                    budget=budget_id[:80],
                )
            now_period = period(budget.window, now)
            made = await conn.fetchval(
                "INSERT INTO adjustments (actor, request_id, budget, amount, time) VALUES"
                " ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING 1",
                actor,
                request_id,
                budget_id,
                amount,
                now,
            )
            if not made:
                await _check_same_adjustment(conn, actor, request_id, (budget_id, amount))
                return state
            balance = state.books.grant(budget, now_period, now=now, actor=actor) if now_period else None
            if (
                now_period is None
                or balance is None
                or balance.available + min(0, amount) < min(0, balance.available)
            ):
                left = 0 if balance is None else balance.available
                raise FailedPrecondition(
                    f"The budget {budget_id} has {left:,} left now; {-amount:,} cannot be taken from it.",
                    reason=Reason.STATE_INVALID,
                    budget=budget_id,
                    available=left,
                )
            given = Entry(
                now, EntryKind.ADJUST, budget_id, BEGINNING, Account.OUTSIDE, Account.AVAILABLE,
                BudgetUnit.NONE, 0, actor=actor, reason=reason,
            )  # fmt: skip
            adjust(state.books, budget, now_period, given, amount=amount)
            await audit.record(
                conn, "budget.adjusted", actor=actor, now=now, resource=f"budgets/{budget_id}",
                amount=amount, reason=reason,
            )  # fmt: skip
        return state


def check_etag(etag: str, version: int) -> None:
    """Raises Aborted/ETAG_MISMATCH where the tree has changed since it was read."""
    if etag and etag != str(version):
        raise Aborted(
            f"The quota tree has changed since it was read: its etag is {version}, not {etag[:40]}."
            " Read it again (cairn quota export) and repeat the change.",
            reason=Reason.ETAG_MISMATCH,
            etag=version,
        )


async def _check_same_adjustment(
    conn: Connection, actor: str, request_id: str, wanted: tuple[str, int]
) -> None:
    row = await conn.fetchrow(
        "SELECT budget, amount FROM adjustments WHERE actor = $1 AND request_id = $2", actor, request_id
    )
    if row is not None and (row["budget"], row["amount"]) != wanted:
        raise reused(request_id)


async def _applied(conn: Connection, order: Order) -> bool:
    """Whether this very request made a version before. Raises InvalidArgument/REQUEST_ID_REUSED where
    another one did under its id."""
    row = await conn.fetchrow(
        "SELECT request_digest FROM tree_versions WHERE actor = $1 AND request_id = $2",
        order.actor,
        order.request_id,
    )
    if row is not None and row["request_digest"] not in (None, order.digest):
        raise reused(order.request_id)
    return row is not None


async def _insert(conn: Connection, version: int, order: Order, different: Sequence[Change]) -> None:
    recorded = tree_pb2.TreeVersion(changes=tree_wire.change_messages(different))
    await conn.execute(
        "INSERT INTO tree_versions (version, tree, changes, actor, time, request_id, request_digest)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        version,
        tree_wire.tree_message(order.tree).SerializeToString(deterministic=True),
        recorded.SerializeToString(deterministic=True),
        order.actor,
        order.now,
        order.request_id,
        order.digest,
    )


async def _missing_teams(db: Database | Connection, order: Order) -> list[str]:
    """The teams of the tree that are not there yet. Raises NotFound where the actor cannot make them."""
    there = {row["id"] for row in await db.fetch("SELECT id FROM teams")}
    missing = sorted(set(order.tree.by_team) - there)
    if missing and not order.makes_teams:
        path = f"nodes.{order.tree.by_team[missing[0]].id}.team"
        raise NotFound(
            f"{path}: there is no team {missing[0]!r}, or you are no member of it."
            " An admin of the organisation makes teams.",
            reason=Reason.TEAM_NOT_FOUND,
            team=missing[0],
            path=path,
        )
    return missing


async def _make_teams(conn: Connection, order: Order, missing: Sequence[str]) -> None:
    for team in missing:
        name = order.tree.by_team[team].display_name or team
        made = new_team(id=team, display_name=name, limits=Limits(), now=order.now)
        await insert_team(conn, made, creator=order.actor, request_id="", owner_role=Role.OWNER)
