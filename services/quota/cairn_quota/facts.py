"""The facts that quota tells: each goes to the outbox in the transaction that makes it true."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cairn.quota.v1 import events_pb2
from cairn_common import outbox
from cairn_common.db import Connection
from cairn_common.ids import new_uid
from cairn_common.subjects import subject
from cairn_quota import people_wire, tree_wire, wire
from cairn_quota.account import Balance
from cairn_quota.admission import State
from cairn_quota.model import Reservation, ReservationState, Team, Token
from cairn_quota.people import Membership
from cairn_quota.tree import Budget

NO_TEAM = "-"
"""Stands in the subject of a fact about what belongs to no team."""
PLAN_PART = 4000


async def tell_reservations(
    conn: Connection, reservations: Sequence[Reservation], *, actor: str, now: datetime
) -> None:
    """reservation.held or reservation.ended of each, by its state."""
    told = []
    for one in reservations:
        event = _event(actor=actor, now=now)
        message = wire.reservation_message(one)
        if one.state is ReservationState.HELD:
            name = "held"
            event.reservation_held.reservation.CopyFrom(message)
        else:
            name = "ended"
            event.reservation_ended.reservation.CopyFrom(message)
        told.append((event, ("reservation", name, one.team, one.uid)))
    await _add_many(conn, told)


async def tell_team(conn: Connection, team: Team, *, actor: str, now: datetime) -> None:
    """team.updated, also for a new team."""
    event = _event(actor=actor, now=now)
    event.team_updated.team.CopyFrom(wire.team_message(team))
    await _add(conn, event, ("team", "updated", team.id, team.uid))


async def tell_token_revoked(conn: Connection, token: Token, *, actor: str, now: datetime) -> None:
    """token.revoked: every cache of who-is-who drops it."""
    await tell_tokens_revoked(conn, [token], actor=actor, now=now)


async def tell_tokens_revoked(
    conn: Connection, tokens: Sequence[Token], *, actor: str, now: datetime
) -> None:
    """token.revoked of each."""
    told = []
    for token in tokens:
        event = _event(actor=actor, now=now)
        event.token_revoked.token.CopyFrom(wire.token_message(token))
        told.append((event, ("token", "revoked", token.team or NO_TEAM, token.uid)))
    await _add_many(conn, told)


async def tell_member(conn: Connection, name: str, member: Membership, *, actor: str, now: datetime) -> None:
    """member.added, member.updated or member.removed: whoever remembers roles forgets them."""
    event = _event(actor=actor, now=now)
    getattr(event, f"member_{name}").membership.CopyFrom(people_wire.membership_message(member))
    uid = member.user.uid if member.user is not None else event.id
    await _add(conn, event, ("member", name, member.team, uid))


async def tell_tree(conn: Connection, version: int, *, actor: str, now: datetime) -> None:
    """tree.updated"""
    event = _event(actor=actor, now=now)
    event.tree_updated.version = version
    await _add(conn, event, ("tree", "updated", NO_TEAM, "tree"))


async def tell_plan(
    conn: Connection, *, held: Sequence[str], ended: Sequence[str], actor: str, now: datetime
) -> None:
    """plan.applied: names of reservations, so many at a time that a fact stays small."""
    for at in range(0, max(len(held), len(ended)), PLAN_PART):
        event = _event(actor=actor, now=now)
        event.plan_applied.held.extend(held[at : at + PLAN_PART])
        event.plan_applied.ended.extend(ended[at : at + PLAN_PART])
        await _add(conn, event, ("plan", "applied", NO_TEAM, event.id))


async def tell_budget(
    conn: Connection,
    state: State,
    budget: Budget,
    balance: Balance,
    *,
    exhausted: bool,
    actor: str,
    now: datetime,
) -> None:
    """budget.exhausted, or budget.warned."""
    event = _event(actor=actor, now=now)
    arm = event.budget_exhausted if exhausted else event.budget_warned
    arm.budget.CopyFrom(tree_wire.budget_message(budget, balance))
    team = state.tree.team_of(budget.node) if budget.node in state.tree.by_id else ""
    name = "exhausted" if exhausted else "warned"
    await _add(conn, event, ("budget", name, team or NO_TEAM, budget.id))


def _event(*, actor: str, now: datetime) -> events_pb2.QuotaEvent:
    return events_pb2.QuotaEvent(id=new_uid(), time=wire.timestamp(now), actor=actor)


async def _add(conn: Connection, event: events_pb2.QuotaEvent, where: tuple[str, str, str, str]) -> None:
    resource, name, team, uid = where
    to = subject("quota", resource, name, team, uid)
    await outbox.add(conn, subject=to, payload=event.SerializeToString(), id=event.id)


async def _add_many(
    conn: Connection, told: Sequence[tuple[events_pb2.QuotaEvent, tuple[str, str, str, str]]]
) -> None:
    added = [
        (subject("quota", resource, name, team, uid), event.SerializeToString(), event.id)
        for event, (resource, name, team, uid) in told
    ]
    if added:
        await outbox.add_many(conn, added)
