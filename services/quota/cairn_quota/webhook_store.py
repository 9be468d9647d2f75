"""All SQL about webhooks and what they were told. Each public method is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import NotFound, Reason, ResourceExhausted
from cairn_common.ids import new_uid
from cairn_quota import audit
from cairn_quota.webhook import DeliveryState, Format, Told, Webhook, body

MOST_OF_TEAM = 20
MOST_WAITING = 10_000
"""Deliveries of one webhook that wait; what comes behind them is not told."""
KEPT = timedelta(days=30)
LEASE = timedelta(minutes=2)
"""Longer than any try: for so long nobody else sends it."""
_COLUMNS = "uid, team, display_name, host, events, format, creator, create_time"
_SELECT = f"SELECT {_COLUMNS} FROM webhooks"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Delivery:
    """A fact for a webhook, and how telling it went."""

    uid: str
    event: str
    resource: str
    state: DeliveryState
    attempts: int
    status: int
    error: str
    create_time: datetime
    try_time: datetime | None
    next_time: datetime | None


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be sent now."""

    uid: str
    webhook: str
    sealed: bytes
    event: str
    body: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a try went; `next_time` None: it was the last."""

    state: DeliveryState
    status: int
    error: str
    next_time: datetime | None


class WebhookStore:
    """Webhooks and their history."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, webhook: Webhook, *, sealed: bytes) -> None:
        """Writes a new one. Raises ResourceExhausted where the team has many."""
        async with self._db.transaction() as conn:
            await conn.execute("SELECT id FROM teams WHERE id = $1 FOR UPDATE", webhook.team)
            count = await conn.fetchval("SELECT count(*) FROM webhooks WHERE team = $1", webhook.team)
            if count >= MOST_OF_TEAM:
                raise ResourceExhausted(f"A team has at most {MOST_OF_TEAM} webhooks; delete one first.")
            await conn.execute(
                "INSERT INTO webhooks (uid, team, display_name, sealed, host, events, format, creator,"
                " create_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                webhook.uid, webhook.team, webhook.display_name, sealed, webhook.host, list(webhook.events),
                int(webhook.format), webhook.creator, webhook.create_time,
            )  # fmt: skip
            await _record(conn, "webhook.created", webhook, actor=webhook.creator, now=webhook.create_time)

    async def webhooks(self, team: str) -> list[Webhook]:
        """A team's, oldest first."""
        rows = await self._db.fetch(_SELECT + " WHERE team = $1 ORDER BY uid", team)
        return [_webhook(row) for row in rows]

    async def delete(self, team: str, uid: str, *, actor: str, now: datetime) -> None:
        """Ends one, with its history. Raises NotFound/WEBHOOK_NOT_FOUND."""
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(
                f"DELETE FROM webhooks WHERE team = $1 AND uid = $2 RETURNING {_COLUMNS}",  # noqa: S608
                team,
                uid,
            )
            if row is None:
                raise webhook_not_found(team, uid)
            await _record(conn, "webhook.deleted", _webhook(row), actor=actor, now=now)

    async def deliveries(self, team: str, uid: str, *, before: str | None, size: int) -> list[Delivery]:
        """Newest first, from behind the uid `before`. Raises NotFound/WEBHOOK_NOT_FOUND."""
        if not await self._db.fetchval("SELECT true FROM webhooks WHERE team = $1 AND uid = $2", team, uid):
            raise webhook_not_found(team, uid)
        rows = await self._db.fetch(
            "SELECT uid, event, resource, state, attempts, status, error, create_time, try_time, next_time"
            " FROM webhook_deliveries WHERE webhook_uid = $1 AND ($2::text IS NULL OR uid < $2)"
            " ORDER BY uid DESC LIMIT $3",
            uid,
            before,
            size,
        )
        return [Delivery(**{**dict(row), "state": DeliveryState(row["state"])}) for row in rows]

    async def teams(self) -> set[str]:
        """Those that have any."""
        return {row["team"] for row in await self._db.fetch("SELECT DISTINCT team FROM webhooks")}

    async def enqueue(self, told: Sequence[Told], *, now: datetime) -> int:
        """Notes facts for the webhooks that want them, each once, however often it is heard; how many."""
        teams = {one.team for one in told}
        hooks = [
            _webhook(row)
            for row in await self._db.fetch(_SELECT + " WHERE team = ANY($1::text[])", list(teams))
        ]
        wanted = [
            (one, hook)
            for one in told
            for hook in hooks
            # What happened before it was there is none of its business.
            if hook.team == one.team and hook.wants(one.event) and one.time >= hook.create_time
        ]
        for one, hook in wanted:
            await self._db.execute(
                "INSERT INTO webhook_deliveries (uid, webhook_uid, fact_id, event, resource, body, state,"
                " create_time, next_time)"
                " SELECT $1, uid, $3, $4, $5, $6, 1, $7::timestamptz, $7 FROM webhooks"
                " WHERE uid = $2 AND $8 > (SELECT count(*) FROM webhook_deliveries"
                "  WHERE webhook_uid = $2 AND state = 1) ON CONFLICT (webhook_uid, fact_id) DO NOTHING",
                new_uid(), hook.uid, one.id, one.event, one.resource, body(one, hook.format), now,
                MOST_WAITING,
            )  # fmt: skip
        return len(wanted)

    async def take(self, *, now: datetime, most: int) -> list[Due]:
        """What is due, which nobody else then sends for a while: one of each webhook, so that a slow one
        holds up itself more than others."""
        rows = await self._db.fetch(
            "UPDATE webhook_deliveries d SET next_time = $1 + $3::interval, attempts = attempts + 1,"
            " try_time = $1 FROM webhooks w WHERE w.uid = d.webhook_uid AND d.uid IN (SELECT uid FROM"
            " webhook_deliveries WHERE uid IN (SELECT DISTINCT ON (webhook_uid) uid FROM webhook_deliveries"
            " WHERE state = 1 AND next_time <= $1 ORDER BY webhook_uid, next_time)"
            " ORDER BY random() LIMIT $2 FOR UPDATE SKIP LOCKED)"
            " RETURNING d.uid, w.uid AS webhook, w.sealed, d.event, d.body, d.attempts",
            now,
            most,
            LEASE,
        )
        return [Due(**dict(row)) for row in rows]

    async def tried(self, uid: str, outcome: Outcome) -> None:
        """Notes how a try went."""
        await self._db.execute(
            "UPDATE webhook_deliveries SET state = $2, status = $3, error = $4, next_time = $5"
            " WHERE uid = $1",
            uid,
            int(outcome.state),
            outcome.status,
            outcome.error[:200],
            outcome.next_time,
        )

    async def soonest(self) -> datetime | None:
        """When the next try is due."""
        found: datetime | None = await self._db.fetchval(
            "SELECT min(next_time) FROM webhook_deliveries WHERE state = 1"
        )
        return found

    async def forget_old(self, *, now: datetime) -> None:
        """Drops history."""
        await self._db.execute("DELETE FROM webhook_deliveries WHERE create_time < $1", now - KEPT)


async def _record(conn: Connection, action: str, webhook: Webhook, *, actor: str, now: datetime) -> None:
    await audit.record(
        conn, action, actor=actor, now=now, team=webhook.team,
        resource=f"teams/{webhook.team}/webhooks/{webhook.uid}", host=webhook.host,
    )  # fmt: skip


def webhook_not_found(team: str, uid: str) -> NotFound:
    """No such webhook in this team."""
    return NotFound(f"There is no webhook {uid[:80]!r} in team {team}.", reason=Reason.WEBHOOK_NOT_FOUND)


def _webhook(row: Row) -> Webhook:
    return Webhook(**{**dict(row), "events": tuple(row["events"]), "format": Format(row["format"])})
