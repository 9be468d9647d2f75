"""When bytes were last read, and which of them are rotten, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cairn_tracker.store.runs import Reads


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob that versions are made of. `create_time` tells it from one that was collected and came again."""

    team: str
    digest: str
    size: int
    create_time: datetime


async def unread(db: Reads, before: datetime, *, limit: int) -> list[Stored]:
    """What was not read since before that time, that which waits longest first."""
    rows = await db.fetch(
        "SELECT team, digest, size, create_time FROM blobs WHERE check_time < $1"
        " ORDER BY check_time LIMIT $2",
        *(before, limit),
    )
    return [Stored(**dict(row)) for row in rows]


async def stored(db: Reads, team: str, digests: Collection[str]) -> list[Stored]:
    """Those of these blobs that versions are made of."""
    rows = await db.fetch(
        "SELECT team, digest, size, create_time FROM blobs WHERE team = $1 AND digest = ANY($2::text[])",
        *(team, list(digests)),
    )
    return [Stored(**dict(row)) for row in rows]


async def sound(db: Any, blob: Stored, now: datetime) -> None:
    """Its bytes were read and are right."""
    await db.execute(
        "WITH whole AS (DELETE FROM rotten_blobs WHERE team = $1 AND digest = $2)"
        " UPDATE blobs SET check_time = $3 WHERE team = $1 AND digest = $2",
        *(blob.team, blob.digest, now),
    )


async def rotten(conn: Any, blob: Stored, now: datetime, *, missing: bool) -> list[tuple[str, int]]:
    """Notes rot. Artifacts and numbers of the versions that have it; none where that was known, or where
    the blob was collected in between."""
    new = await conn.fetchval(
        "WITH read AS (UPDATE blobs SET check_time = $3 WHERE (team, digest, create_time) = ($1, $2, $5)"
        " RETURNING team, digest)"
        " INSERT INTO rotten_blobs (team, digest, missing, time) SELECT team, digest, $4, $3 FROM read"
        " ON CONFLICT (team, digest) DO NOTHING RETURNING true",
        *(blob.team, blob.digest, now, missing, blob.create_time),
    )
    if not new:
        return []
    rows = await conn.fetch(
        "SELECT v.artifact, v.number FROM holdings h JOIN versions v ON v.team = h.team AND v.uid = h.holder"
        " WHERE h.team = $1 AND h.digest = $2 AND v.delete_time IS NULL ORDER BY v.seq LIMIT 1000",
        *(blob.team, blob.digest),
    )
    return [(row["artifact"], row["number"]) for row in rows]


async def known(db: Reads, team: str, digests: Collection[str]) -> dict[str, bool]:
    """Those of these blobs that are rotten, and whether nothing at all is there."""
    rows = await db.fetch(
        "SELECT digest, missing FROM rotten_blobs WHERE team = $1 AND digest = ANY($2::text[])",
        *(team, list(digests)),
    )
    return {row["digest"]: row["missing"] for row in rows}
