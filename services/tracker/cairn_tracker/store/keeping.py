"""What holds versions, who moved aliases, and the lock that both stand under, in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from cairn_tracker.manifest import LATEST
from cairn_tracker.store import blobs
from cairn_tracker.store.artifacts import Version
from cairn_tracker.store.runs import Reads

PROTECTED = ("production",)

# Of the space of advisory locks: one for each team's artifacts.
_LOCK = 0x6B656570

# Each model under a protected alias, with all that it and the runs on the way were made from.
_ANCESTRY = """
WITH RECURSIVE promoted (model, uid, run_uid) AS (
    SELECT v.artifact || ':v' || v.number, v.uid, v.run_uid FROM versions v
    WHERE v.team = $1 AND v.kind = $2 AND v.delete_time IS NULL AND EXISTS (
        SELECT FROM aliases a WHERE (a.team, a.artifact, a.number) = (v.team, v.artifact, v.number)
        AND a.alias = ANY($3::text[]))
    UNION
    SELECT p.model, o.uid, o.run_uid FROM promoted p JOIN LATERAL (
        SELECT s.source_uid AS uid FROM sources s WHERE s.version_uid = p.uid
        UNION ALL
        SELECT u.version_uid FROM uses u WHERE u.team = $1 AND p.run_uid <> '' AND u.run_uid = p.run_uid
    ) f ON true JOIN versions o ON o.uid = f.uid
)
"""

_MODELS = f"{_ANCESTRY} SELECT DISTINCT model FROM promoted WHERE uid = $4 ORDER BY model LIMIT $5"  # noqa: S608

# Runs that are not over: those that read it, and the one that would resume from it.
_RUNS = """
SELECT r.uid FROM runs r JOIN uses u ON (u.team, u.run_uid) = (r.team, r.uid)
WHERE r.team = $1 AND u.version_uid = $2 AND r.state < 4
UNION
SELECT r.uid FROM runs r WHERE r.team = $1 AND r.state < 4 AND (
    SELECT v.uid FROM versions v
    WHERE v.team = r.team AND v.run_uid = r.uid AND v.kind = $3 AND v.delete_time IS NULL
    ORDER BY v.seq DESC LIMIT 1) = $2
    AND r.uid = $4
ORDER BY 1 LIMIT $5
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which versions of a kind stay: all those for which one of the amounts holds; 0: it says nothing."""

    kind: int
    # Empty: runs of experiments without a rule of their own, and what no run made.
    experiment: str = ""
    # So many of each artifact, by their commits.
    keep_last: int = 0
    # So many of each artifact, by a metric that they, or their runs, have.
    keep_best: int = 0
    metric: str = ""
    lowest: bool = False
    # Seconds since the commit.
    keep_for: float = 0.0


@dataclass(frozen=True, slots=True)
class RecordRule:
    """For how many seconds after a run was over and last heard of its points, or its lines, stay."""

    record: int
    # Empty: of experiments without a rule of their own.
    experiment: str = ""
    keep_for: float = 0.0


@dataclass(frozen=True, slots=True)
class Rules:
    """How a team keeps its artifacts, and what its runs logged."""

    protected_aliases: Sequence[str] = PROTECTED
    retention: Sequence[Rule] = ()
    records: Sequence[RecordRule] = ()
    # Grows with each change; 0: nobody changed anything yet.
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """An alias came to name a version; None: it was removed."""

    seq: int
    alias: str
    number: int | None
    actor: str
    time: datetime
    # Who consented; empty: nobody was asked.
    approver: str


async def enter(conn: Any, team: str) -> None:
    """To the end of the transaction nothing of the team is deleted: for commits, uses and moves of aliases.

    The order of locks is this one, then an artifact's row, then rows of versions.
    """
    await conn.execute("SELECT pg_advisory_xact_lock_shared($1, hashtext($2))", _LOCK, team)


async def enter_alone(conn: Any, team: str) -> None:
    """To the end of the transaction nobody else is in `enter`: for whoever deletes."""
    await conn.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK, team)


async def gone(conn: Any, uids: Sequence[str]) -> bool:
    """Whether one of these versions was deleted."""
    return bool(
        await conn.fetchval(
            "SELECT EXISTS (SELECT FROM versions WHERE uid = ANY($1::text[]) AND delete_time IS NOT NULL)",
            list(uids),
        )
    )


async def protected_aliases(db: Reads, team: str) -> list[str]:
    """Aliases of the team that only admins move."""
    return list((await rules(db, team)).protected_aliases)


async def rules(db: Reads, team: str) -> Rules:
    """How a team keeps its artifacts."""
    rows = await db.fetch(
        "SELECT protected_aliases, retention, records, revision FROM keeping WHERE team = $1", team
    )
    if not rows:
        return Rules()
    (row,) = rows
    retention = [Rule(**rule) for rule in json.loads(row["retention"])]
    records = [RecordRule(**rule) for rule in json.loads(row["records"])]
    return Rules(list(row["protected_aliases"]), retention, records, row["revision"])


async def set_rules(conn: Any, team: str, wanted: Rules) -> None:
    """Writes them down, under the team's lock."""
    await conn.execute(
        "INSERT INTO keeping AS k (team, protected_aliases, retention, records)"
        " VALUES ($1, $2::text[], $3::jsonb, $4::jsonb)"
        " ON CONFLICT (team) DO UPDATE SET protected_aliases = EXCLUDED.protected_aliases,"
        " retention = EXCLUDED.retention, records = EXCLUDED.records, revision = k.revision + 1",
        *(team, sorted(set(wanted.protected_aliases))),
        json.dumps([asdict(rule) for rule in wanted.retention]),
        json.dumps([asdict(rule) for rule in wanted.records]),
    )


async def teams_with_rules(db: Reads) -> list[str]:
    """Teams that let versions go by themselves."""
    rows = await db.fetch("SELECT team FROM keeping WHERE retention <> '[]' ORDER BY team")
    return [row["team"] for row in rows]


async def models_from(
    db: Reads, version: Version, *, protected: Sequence[str], kind: int, limit: int
) -> list[str]:
    """Promoted models (`name:v3`, at most `limit`) that a version is, or that were made from it."""
    rows = await db.fetch(_MODELS, version.team, kind, list(protected), version.uid, limit)
    return [row["model"] for row in rows]


async def runs_on(db: Reads, version: Version, *, kind: int, limit: int) -> list[str]:
    """Uids of runs (at most `limit`) that are not over and read a version, or would resume from it;
    `kind` is that of checkpoints."""
    rows = await db.fetch(_RUNS, version.team, version.uid, kind, version.run_uid, limit)
    return [row["uid"] for row in rows]


async def bury(conn: Any, version: Version, *, actor: str, now: datetime) -> None:
    """Marks a version deleted, under the artifact's lock; `latest` goes to the newest one that is left."""
    await conn.execute(
        "UPDATE versions SET delete_time = $2, deleter = $3 WHERE uid = $1", version.uid, now, actor
    )
    await blobs.release(conn, version.team, version.uid, now)
    where = (version.team, version.artifact, version.number, LATEST)
    await conn.execute(
        "DELETE FROM aliases WHERE team = $1 AND artifact = $2 AND number = $3 AND alias = $4", *where
    )
    await conn.execute(
        "INSERT INTO aliases (team, artifact, alias, number)"
        " SELECT $1, $2, $3, max(number) FROM versions"
        " WHERE team = $1 AND artifact = $2 AND delete_time IS NULL HAVING max(number) IS NOT NULL"
        " ON CONFLICT DO NOTHING",
        *(version.team, version.artifact, LATEST),
    )


async def pin(conn: Any, version: Version, pinner: str) -> None:
    """Notes who pins a version (empty: nobody any more). Who pinned it first stays."""
    await conn.execute(
        "UPDATE versions SET pinner = CASE WHEN $2 = '' OR pinner = '' THEN $2 ELSE pinner END"
        " WHERE uid = $1",
        *(version.uid, pinner),
    )


async def remove_alias(conn: Any, version: Version, alias: str) -> bool:
    """Whether the version had the alias, which it has no more."""
    done = await conn.execute(
        "DELETE FROM aliases WHERE team = $1 AND artifact = $2 AND number = $3 AND alias = $4",
        *(version.team, version.artifact, version.number, alias),
    )
    return bool(done == "DELETE 1")


async def moves(db: Reads, team: str, artifact: str, *, before: int | None, limit: int) -> list[Move]:
    """What the aliases of an artifact named, newest first."""
    rows = await db.fetch(
        "SELECT seq, alias, number, actor, time, approver FROM alias_moves"
        " WHERE team = $1 AND artifact = $2 AND ($3::bigint IS NULL OR seq < $3)"
        " ORDER BY seq DESC LIMIT $4",
        *(team, artifact, before, limit),
    )
    return [Move(**dict(row)) for row in rows]
