"""Applies the scheduler's plans: ends and holds by the thousand, each judged for itself, in one go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cairn_common.db import Connection
from cairn_common.errors import FailedPrecondition, Reason
from cairn_quota import admission, facts, reservation_rows
from cairn_quota.admission import Code, State, Verdict
from cairn_quota.authority import Authority
from cairn_quota.model import Reservation, ReservationState
from cairn_quota.shares import keys_of
from cairn_quota.store import TURN, end

Name = tuple[str, str]
"""Team and id of a reservation."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to end, then what to hold, and the versions that it was decided on (0: not compared)."""

    ends: Sequence[Name]
    holds: Sequence[Reservation]
    tree_version: int = 0
    expected: Mapping[str, int] | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """A verdict for each item, and the versions of the nodes concerned as they are now."""

    verdicts: Sequence[Verdict]
    versions: Mapping[str, int]
    tree_version: int


class PlanStore:
    """See the module."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def apply(self, plan: Plan, *, actor: str, now: datetime) -> Applied:
        """Ends and holds what can be. Raises FailedPrecondition/EPOCH_OLD, and nothing is changed then."""
        async with self._authority.changing() as (conn, state):
            await _pass_epoch(conn, plan.epoch)
            known = await reservation_rows.by_name(
                conn, [*plan.ends, *((one.team, one.id) for one in plan.holds)]
            )
            stale = _stale(state, plan)
            verdicts = await _end(conn, state, plan.ends, known, now=now)
            ended = [known[name] for name, one in zip(plan.ends, verdicts, strict=True) if _new(one)]
            held, judged = await _hold(conn, state, plan, known, stale=stale, now=now)
            await reservation_rows.insert(conn, held)
            await facts.tell_plan(
                conn,
                held=[f"teams/{one.team}/reservations/{one.id}" for one in held],
                ended=[f"teams/{one.team}/reservations/{one.id}" for one in ended],
                actor=actor,
                now=now,
            )
        nodes = {node.id for one in held for node in state.shares.path(one.node)}
        nodes |= {one.node for one in judged if one.node} | set(plan.expected or ())
        return Applied(
            [*verdicts, *judged], {node: state.node_version(node) for node in nodes}, state.version
        )


def _new(verdict: Verdict) -> bool:
    return verdict.code is Code.ENDED and not verdict.message


async def _pass_epoch(conn: Connection, epoch: int) -> None:
    if not epoch:
        return
    seen: int = await conn.fetchval("SELECT epoch FROM tree_state")
    if epoch < seen:
        raise FailedPrecondition(
            f"This plan is of epoch {epoch}; one of epoch {seen} was seen: another scheduler decides now.",
            reason=Reason.EPOCH_OLD,
            epoch=seen,
        )
    if epoch > seen:
        await conn.execute("UPDATE tree_state SET epoch = $1", epoch)


def _stale(state: State, plan: Plan) -> set[str]:
    """Nodes whose use grew, or whose quota changed, since the plan was decided."""
    if plan.tree_version and plan.tree_version != state.version:
        return set(state.tree.by_id)
    return {node for node, version in (plan.expected or {}).items() if state.node_version(node) != version}


async def _end(
    conn: Connection,
    state: State,
    names: Sequence[Name],
    known: dict[Name, Reservation],
    *,
    now: datetime,
) -> list[Verdict]:
    """A verdict for each; what was held and is ended is in `known` as it is now."""
    held = {name: known[name] for name in names if name in known and known[name].state is _HELD}
    verdicts = []
    for name in names:
        if name not in known:
            verdicts.append(Verdict(name[1], Code.UNKNOWN, "there is no such reservation"))
        elif name in held:
            verdicts.append(Verdict(name[1], Code.ENDED))
        else:
            verdicts.append(Verdict(name[1], Code.ENDED, "it had ended before"))
    known |= {(one.team, one.id): one for one in await end(conn, state, list(held.values()), now=now)}
    return verdicts


_HELD = ReservationState.HELD


async def _hold(
    conn: Connection,
    state: State,
    plan: Plan,
    known: dict[Name, Reservation],
    *,
    stale: set[str],
    now: datetime,
) -> tuple[list[Reservation], list[Verdict]]:
    """What is newly held, and a verdict for each hold of the plan."""
    again = [one.job_uid for one in plan.holds if one.admission > 1]
    attempted = await reservation_rows.attempted(conn, again) if again else set()
    held: list[Reservation] = []
    verdicts: list[Verdict] = []
    for number, hold in enumerate(plan.holds, start=1):
        if number % TURN == 0:
            # Tokens are checked here too: nobody waits for the whole of a large plan.
            await asyncio.sleep(0)
        old = known.get((hold.team, hold.id))
        if old is not None:
            verdicts.append(_again(hold, old))
            continue
        behind = _behind(state, hold, stale)
        if behind is not None:
            verdicts.append(behind)
            continue
        verdict, made = admission.admit(state, hold, attempted=hold.job_uid in attempted, now=now)
        verdicts.append(verdict)
        if verdict.code is Code.HELD:
            held.append(made)
            known[hold.team, hold.id] = made
    return held, verdicts


def _again(hold: Reservation, old: Reservation) -> Verdict:
    """The same hold as before: held, used up, or another one under its name."""
    if old.state is not _HELD:
        return Verdict(hold.id, Code.USED_UP, f"it has ended ({old.state.name}); hold under the next number")
    asked = replace(
        hold, uid=old.uid, create_time=old.create_time, ask_time=old.ask_time, price=old.price,
        node=hold.node or old.node, flavor=hold.flavor or old.flavor, user=hold.user or old.user,
        amounts=old.amounts,
    )  # fmt: skip
    if asked != old:
        return Verdict(hold.id, Code.INVALID, "another hold was made under this name")
    return Verdict(hold.id, Code.HELD, node=old.node, flavor=old.flavor)


def _behind(state: State, hold: Reservation, stale: set[str]) -> Verdict | None:
    """STALE, with the numbers of now, where the plan was decided on others."""
    if not stale:
        return None
    placed = hold if hold.node in state.tree.by_id else state.resolve(hold)
    node = next((one.id for one in state.shares.path(placed.node) if one.id in stale), None)
    if node is None:
        return None
    told = f"{node} has changed since the plan was made"
    over = state.shares.excess(placed.node, keys_of(hold.flavor, hold.resources))
    if over is None:
        return Verdict(hold.id, Code.STALE, told, node, hold.flavor)
    return Verdict(
        hold.id, Code.STALE, told, node, over.flavor, over.resource, over.limit, over.used, over.requested
    )
