"""Which bytes lie in the store, who keeps them, and which are on their way out, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cairn_tracker.store.runs import Reads


@dataclass(frozen=True, slots=True)
class Idle:
    """Bytes of a team that nobody keeps: how many blobs, and bytes."""

    # Their grace is over; given up are those that no version was made of.
    due: int = 0
    due_bytes: int = 0
    given_up: int = 0
    given_up_bytes: int = 0
    # Their grace is not over.
    waiting: int = 0
    waiting_bytes: int = 0


_UNHELD = "NOT EXISTS (SELECT FROM holdings h WHERE (h.team, h.digest) = (i.team, i.digest))"

# Of what somebody keeps nothing is noted: whoever lets go of it last does that.
_ASK = """
INSERT INTO idle_blobs AS i (team, digest, size, since)
SELECT $1, t.digest, t.size, $4 FROM unnest($2::text[], $3::bigint[]) AS t (digest, size)
WHERE NOT EXISTS (SELECT FROM holdings h WHERE (h.team, h.digest) = ($1, t.digest))
ORDER BY t.digest
ON CONFLICT (team, digest) DO UPDATE SET since = EXCLUDED.since, size = EXCLUDED.size WHERE NOT i.doomed
"""

_RELEASE = """
WITH parts AS (SELECT DISTINCT unnest(part_digests) AS digest FROM entries WHERE version_uid = $2),
gone AS (
    DELETE FROM holdings h USING parts p WHERE h.team = $1 AND h.digest = p.digest AND h.holder = $2
    RETURNING h.digest)
INSERT INTO idle_blobs AS i (team, digest, size, since, committed)
SELECT $1, b.digest, b.size, $3, true FROM gone g JOIN blobs b ON b.team = $1 AND b.digest = g.digest
ORDER BY b.digest
ON CONFLICT (team, digest) DO UPDATE SET since = EXCLUDED.since, committed = true WHERE NOT i.doomed
"""

# What is held again, or still, leaves the list: it comes back when it is let go.
_DOOM = f"""
WITH due AS (
    SELECT i.digest, NOT {_UNHELD} AS held FROM idle_blobs i
    WHERE i.team = $1 AND i.since < $2 AND NOT i.doomed ORDER BY i.since, i.digest LIMIT $3 FOR UPDATE),
kept AS (DELETE FROM idle_blobs i USING due d WHERE i.team = $1 AND i.digest = d.digest AND d.held),
doomed AS (
    UPDATE idle_blobs i SET doomed = true FROM due d WHERE i.team = $1 AND i.digest = d.digest AND NOT d.held
    RETURNING i.digest),
unknown AS (DELETE FROM blobs b USING doomed d WHERE b.team = $1 AND b.digest = d.digest)
SELECT digest FROM doomed
"""  # noqa: S608

_IDLE = f"""
SELECT count(*) FILTER (WHERE i.since < $2 OR i.doomed) AS due,
    coalesce(sum(i.size) FILTER (WHERE i.since < $2 OR i.doomed), 0)::bigint AS due_bytes,
    count(*) FILTER (WHERE (i.since < $2 OR i.doomed) AND NOT i.committed) AS given_up,
    coalesce(sum(i.size) FILTER (WHERE (i.since < $2 OR i.doomed) AND NOT i.committed), 0)::bigint
        AS given_up_bytes,
    count(*) FILTER (WHERE i.since >= $2 AND NOT i.doomed) AS waiting,
    coalesce(sum(i.size) FILTER (WHERE i.since >= $2 AND NOT i.doomed), 0)::bigint AS waiting_bytes
FROM idle_blobs i WHERE i.team = $1 AND {_UNHELD}
"""  # noqa: S608


async def sizes(db: Reads, team: str, digests: Collection[str]) -> dict[str, int]:
    """The sizes of those blobs that versions are, or were, made of, and that are in the store and sound."""
    rows = await db.fetch(
        "SELECT digest, size FROM blobs b WHERE team = $1 AND digest = ANY($2::text[]) AND NOT EXISTS"
        " (SELECT FROM rotten_blobs r WHERE (r.team, r.digest) = (b.team, b.digest))",
        *(team, list(digests)),
    )
    return {row["digest"]: row["size"] for row in rows}


async def doomed(db: Reads, team: str, digests: Collection[str]) -> set[str]:
    """Those that are being deleted: whatever the store says, they are not there."""
    rows = await db.fetch(
        "SELECT digest FROM idle_blobs WHERE team = $1 AND digest = ANY($2::text[]) AND doomed",
        *(team, list(digests)),
    )
    return {row["digest"] for row in rows}


async def ask(db: Any, team: str, wanted: Mapping[str, int], now: datetime) -> None:
    """Notes that somebody is about to use these bytes (sizes by digest): their grace begins anew."""
    if wanted:
        await db.execute(_ASK, team, list(wanted), list(wanted.values()), now)


async def add(conn: Any, team: str, wanted: Mapping[str, int], *, holder: str, now: datetime) -> None:
    """Notes what a version is made of, with its true sizes, and that the version keeps it."""
    if not wanted:
        return
    # In one order, so that two commits of the same parts wait for each other and not crosswise.
    digests = sorted(wanted)
    await conn.execute(
        "INSERT INTO blobs (team, digest, size, create_time, check_time)"
        " SELECT $1, digest, size, $4, $4 FROM unnest($2::text[], $3::bigint[]) AS t (digest, size)"
        " ORDER BY digest ON CONFLICT (team, digest) DO NOTHING",
        *(team, digests, [wanted[digest] for digest in digests], now),
    )
    # They were just read, and are right.
    await conn.execute("DELETE FROM rotten_blobs WHERE team = $1 AND digest = ANY($2::text[])", team, digests)
    await hold(conn, team, digests, holder=holder)


async def hold(conn: Any, team: str, digests: Collection[str], *, holder: str) -> None:
    """Keeps bytes in the store, for a version or a run."""
    if digests:
        await conn.execute(
            "INSERT INTO holdings (team, digest, holder) SELECT $1, digest, $3"
            " FROM unnest($2::text[]) AS t (digest) ON CONFLICT DO NOTHING",
            *(team, sorted(digests), holder),
        )


async def release(conn: Any, team: str, version_uid: str, now: datetime) -> None:
    """Lets go of what a version is made of: the grace of what nobody else keeps begins."""
    await conn.execute(_RELEASE, team, version_uid, now)


async def epoch(db: Any, team: str) -> int:
    """How often something of the team was collected: what was looked up in an earlier epoch may be gone."""
    found: int | None = await db.fetchval("SELECT epoch FROM collections WHERE team = $1", team)
    return found or 0


async def due_teams(db: Reads, before: datetime, *, limit: int) -> list[str]:
    """Teams with bytes that were idle since before that time, of the oldest `limit` of them."""
    rows = await db.fetch(
        "SELECT DISTINCT team FROM (SELECT team FROM idle_blobs WHERE since < $1 AND NOT doomed"
        " ORDER BY since LIMIT $2) AS oldest ORDER BY team",
        *(before, limit),
    )
    return [row["team"] for row in rows]


async def doom(conn: Any, team: str, before: datetime, *, limit: int) -> int:
    """Gives up what nobody keeps since before that time, at most `limit` blobs; the team's lock is held
    alone. From here on they are missing. Returns how many there are."""
    found = await conn.fetch(_DOOM, team, before, limit)
    if found:
        await conn.execute(
            "INSERT INTO collections AS c (team, epoch) VALUES ($1, 1)"
            " ON CONFLICT (team) DO UPDATE SET epoch = c.epoch + 1",
            team,
        )
    return len(found)


async def claim(
    db: Any, who: str, *, team: str, now: datetime, expired: datetime, limit: int
) -> list[tuple[str, str, int]]:
    """Teams, digests and sizes of what `who` is to delete from the store now, of one team or all. Claims from
    before `expired` are those of processes that died."""
    rows = await db.fetch(
        "UPDATE idle_blobs i SET claim = $1, claim_time = $3 FROM ("
        " SELECT team, digest FROM idle_blobs WHERE doomed AND ($2 = '' OR team = $2)"
        "  AND (claim_time IS NULL OR claim_time < $4) ORDER BY team, digest LIMIT $5 FOR UPDATE SKIP LOCKED"
        ") AS free WHERE (i.team, i.digest) = (free.team, free.digest) RETURNING i.team, i.digest, i.size",
        *(who, team, now, expired, limit),
    )
    return [(row["team"], row["digest"], row["size"]) for row in rows]


async def forget(db: Any, who: str, deleted: Collection[tuple[str, str]]) -> None:
    """These (teams and digests) are deleted from the store."""
    await db.execute(
        "DELETE FROM idle_blobs i USING unnest($2::text[], $3::text[]) AS d (team, digest)"
        " WHERE (i.team, i.digest) = (d.team, d.digest) AND i.claim = $1",
        *(who, [team for team, _ in deleted], [digest for _, digest in deleted]),
    )


async def idle(db: Reads, team: str, before: datetime) -> Idle:
    """What of a team's bytes nobody keeps; due is what was idle since before that time."""
    (row,) = await db.fetch(_IDLE, team, before)
    return Idle(**dict(row))
