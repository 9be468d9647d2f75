"""Promotions, and the aliases that need them, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from cairn_tracker.store.artifacts import Version, version_name
from cairn_tracker.store.runs import Reads


class PromotionState(IntEnum):
    """The numbers of `cairn.tracker.v1.Promotion.State`."""

    PENDING = 1
    APPROVED = 2
    REJECTED = 3


@dataclass(frozen=True, slots=True)
class Promotion:
    """A wish that an alias names a version."""

    team: str
    uid: str
    seq: int
    artifact: str
    number: int
    alias: str
    state: PromotionState
    requester: str
    decider: str
    note: str
    decision: str
    create_time: datetime
    decide_time: datetime | None

    @property
    def version(self) -> str:
        """The version's name."""
        return version_name(self.team, self.artifact, self.number)


_COLUMNS = """team, uid, seq, artifact, number, alias, state, requester, decider, note, decision, create_time,
decide_time"""
_GET = f"SELECT {_COLUMNS} FROM promotions WHERE team = $1 AND uid = $2"  # noqa: S608
_PENDING = f"""
SELECT {_COLUMNS} FROM promotions
WHERE team = $1 AND artifact = $2 AND alias = $3 AND number = $4 AND state = 1
"""  # noqa: S608
_LIST = f"""
SELECT {_COLUMNS} FROM promotions
WHERE team = $1 AND ($2 = 0 OR state = $2) AND ($3::bigint IS NULL OR seq < $3) ORDER BY seq DESC LIMIT $4
"""  # noqa: S608


async def approved_aliases(db: Reads, team: str) -> list[str]:
    """Aliases of the team that need a second person's consent."""
    rows = await db.fetch("SELECT approved_aliases FROM promotion_rules WHERE team = $1", team)
    return list(rows[0]["approved_aliases"]) if rows else []


async def set_approved_aliases(db: Any, team: str, aliases: Collection[str]) -> None:
    """Writes them down."""
    await db.execute(
        "INSERT INTO promotion_rules (team, approved_aliases) VALUES ($1, $2::text[])"
        " ON CONFLICT (team) DO UPDATE SET approved_aliases = EXCLUDED.approved_aliases",
        *(team, sorted(set(aliases))),
    )


async def pending(conn: Any, version: Version, alias: str) -> Promotion | None:
    """The same wish, where it waits."""
    rows = await conn.fetch(_PENDING, version.team, version.artifact, alias, version.number)
    return _promotion(rows[0]) if rows else None


async def add(
    conn: Any, version: Version, alias: str, *, uid: str, requester: str, note: str, done: bool, now: datetime
) -> None:
    """Writes a wish; `done`: it was fulfilled at once."""
    state = PromotionState.APPROVED if done else PromotionState.PENDING
    await conn.execute(
        "INSERT INTO promotions (team, uid, artifact, number, alias, state, requester, decider, note,"
        " create_time, decide_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        *(version.team, uid, version.artifact, version.number, alias, int(state), requester),
        *(requester if done else "", note, now, now if done else None),
    )


async def find(db: Reads, team: str, uid: str, *, lock: bool = False) -> Promotion | None:
    """A promotion of the team; `lock`: it stands still to the end of the transaction."""
    rows = await db.fetch(_GET + (" FOR UPDATE" if lock else ""), team, uid)
    return _promotion(rows[0]) if rows else None


async def decide(
    conn: Any, promotion: Promotion, state: PromotionState, *, decider: str, decision: str, now: datetime
) -> None:
    """Writes what became of it."""
    await conn.execute(
        "UPDATE promotions SET state = $3, decider = $4, decision = $5, decide_time = $6"
        " WHERE team = $1 AND seq = $2",
        *(promotion.team, promotion.seq, int(state), decider, decision, now),
    )


async def note_approver(conn: Any, version: Version, alias: str, approver: str) -> None:
    """Writes into the history who consented to the alias's last move, under the artifact's lock."""
    await conn.execute(
        "UPDATE alias_moves SET approver = $4 WHERE team = $1 AND artifact = $2 AND seq = ("
        " SELECT max(seq) FROM alias_moves WHERE team = $1 AND artifact = $2 AND alias = $3)",
        *(version.team, version.artifact, alias, approver),
    )


async def listing(db: Reads, team: str, *, state: int, before: int | None, limit: int) -> list[Promotion]:
    """Promotions of a team (state 0: all), newest first."""
    return [_promotion(row) for row in await db.fetch(_LIST, team, state, before, limit)]


def _promotion(row: Any) -> Promotion:
    return Promotion(**{**dict(row), "state": PromotionState(row["state"])})
