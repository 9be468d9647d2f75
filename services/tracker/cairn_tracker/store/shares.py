"""Links by which anybody reads certain runs, in PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cairn_tracker.store.runs import Reads


@dataclass(frozen=True, slots=True)
class Share:
    """A link, without its secret."""

    team: str
    uid: str
    run_uids: tuple[str, ...]
    creator: str
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None = None


_COLUMNS = "team, uid, run_uids, creator, create_time, expire_time, revoke_time"
_BY_HASH = f"SELECT {_COLUMNS} FROM shares WHERE hash = $1"  # noqa: S608
_GET = f"SELECT {_COLUMNS} FROM shares WHERE team = $1 AND uid = $2"  # noqa: S608
_LIST = f"""
SELECT {_COLUMNS} FROM shares WHERE team = $1 AND ($2::text IS NULL OR uid < $2) ORDER BY uid DESC LIMIT $3
"""  # noqa: S608
_REVOKE = f"""
UPDATE shares SET revoke_time = $3 WHERE team = $1 AND uid = $2 AND revoke_time IS NULL RETURNING {_COLUMNS}
"""  # noqa: S608


async def by_hash(db: Reads, hash: str) -> Share | None:
    """The one whose secret has this hash, whatever its state."""
    return _first(await db.fetch(_BY_HASH, hash))


async def get(db: Reads, team: str, uid: str) -> Share | None:
    """One of a team's."""
    return _first(await db.fetch(_GET, team, uid))


async def page(db: Reads, team: str, *, before: str | None, size: int) -> list[Share]:
    """A team's, newest first, from behind the uid `before`."""
    rows = await db.fetch(_LIST, team, before, size)
    return [_share(row) for row in rows]


async def insert(conn: Any, share: Share, *, hash: str) -> None:
    """Writes a new one."""
    await conn.execute(
        "INSERT INTO shares (uid, hash, team, run_uids, creator, create_time, expire_time)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        share.uid, hash, share.team, list(share.run_uids), share.creator, share.create_time,
        share.expire_time,
    )  # fmt: skip


async def revoke(conn: Any, team: str, uid: str, *, now: datetime) -> Share | None:
    """Ends one; None where it had ended."""
    return _first(await conn.fetch(_REVOKE, team, uid, now))


def _first(rows: Any) -> Share | None:
    return _share(rows[0]) if rows else None


def _share(row: Any) -> Share:
    values = dict(row)
    return Share(**{**values, "run_uids": tuple(values["run_uids"])})
