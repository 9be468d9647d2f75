"""Who did what: one row for each change, written in the transaction that makes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cairn_common.db import Connection, Database
from cairn_common.rpc import caller, origin

NO_TEAM = ""
"""Of what belongs to no team."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What somebody did."""

    seq: int
    time: datetime
    actor: str
    token_uid: str
    request_id: str
    address: str
    peer: str
    action: str
    team: str
    resource: str
    # JSON
    detail: str


@dataclass(frozen=True, slots=True)
class Fact:
    """What somebody did at a neighbour."""

    id: str
    time: datetime
    actor: str
    address: str
    action: str
    team: str
    resource: str
    # JSON
    detail: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries; what is empty or None narrows nothing."""

    # None: of all teams, and of none.
    team: str | None
    actor: str = ""
    # An action, or the beginning of some: `member.`
    action: str = ""
    since: datetime | None = None
    until: datetime | None = None


async def record(
    conn: Connection,
    action: str,
    *,
    actor: str,
    now: datetime,
    resource: str,
    team: str = NO_TEAM,
    **detail: str | int | None,
) -> None:
    """Notes a change. Nothing of `detail` may be a secret."""
    where = origin()
    await conn.execute(
        "INSERT INTO audit_entries (time, actor, token_uid, request_id, address, peer, action, team,"
        " resource, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        now,
        actor,
        _token_uid(actor),
        where.request_id,
        where.address,
        where.peer,
        action,
        team,
        resource,
        json.dumps({key: value for key, value in detail.items() if value is not None}),
    )


async def note(db: Database, facts: Sequence[Fact]) -> None:
    """Writes what facts tell, each once, however often it is told."""
    await db.execute(
        "INSERT INTO audit_entries (time, actor, token_uid, request_id, address, peer, action, team,"
        " resource, detail, fact_id) SELECT t, actor, '', '', address, '', action, team, resource,"
        " detail::jsonb, id FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[],"
        " $6::text[], $7::text[], $8::text[])"
        " AS told (t, actor, action, team, resource, id, detail, address) ON CONFLICT (fact_id) DO NOTHING",
        [fact.time for fact in facts],
        [fact.actor for fact in facts],
        [fact.action for fact in facts],
        [fact.team for fact in facts],
        [fact.resource for fact in facts],
        [fact.id for fact in facts],
        [fact.detail for fact in facts],
        [fact.address for fact in facts],
    )


async def entries(db: Database, wanted: Wanted, *, before: int | None, size: int) -> list[Entry]:
    """Newest first, from behind the entry `before`."""
    rows = await db.fetch(
        "SELECT seq, time, actor, token_uid, request_id, address, peer, action, team, resource, detail"
        " FROM audit_entries WHERE ($1::text IS NULL OR team = $1) AND ($2 = '' OR actor = $2)"
        " AND ($3 = '' OR starts_with(action, $3)) AND ($4::timestamptz IS NULL OR time >= $4)"
        " AND ($5::timestamptz IS NULL OR time < $5) AND ($6::bigint IS NULL OR seq < $6)"
        " ORDER BY seq DESC LIMIT $7",
        wanted.team,
        wanted.actor,
        wanted.action,
        wanted.since,
        wanted.until,
        before,
        size,
    )
    return [Entry(**dict(row)) for row in rows]


def _token_uid(actor: str) -> str:
    """Of the token that the actor called with; empty where somebody else called for them."""
    try:
        who = caller()
    except LookupError:
        return ""
    return who.token_uid if who.subject == actor else ""
