"""What single ranks have committed of checkpoints that are not whole yet, in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cairn_tracker.manifest import Entry, Part
from cairn_tracker.model import Json

# Of the space of advisory locks: one for each run's shards.
_LOCK = 0x73686172


@dataclass(frozen=True, slots=True)
class Whole:
    """The checkpoint that shards belong to."""

    team: str
    run_uid: str
    artifact: str
    attempt: int
    step: int
    ranks: int
    round: int = 0


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank has of it."""

    rank: int
    entries: Sequence[Entry]
    metadata: dict[str, Json]


async def enter(conn: Any, whole: Whole) -> None:
    """To the end of the transaction no other rank of the run is here: the last one sees all the others."""
    await conn.execute(
        "SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK, f"{whole.team}/{whole.run_uid}"
    )


async def put(conn: Any, whole: Whole, shard: Shard, now: datetime) -> None:
    """Writes what a rank has; what it had said of it before is written over."""
    entries = [
        {
            "path": entry.path,
            "size": entry.size,
            "digest": entry.digest,
            "parts": [[part.digest, part.size] for part in entry.parts],
        }
        for entry in shard.entries
    ]
    await conn.execute(
        "INSERT INTO shards"
        " (team, run_uid, artifact, attempt, step, ranks, round, rank, entries, metadata, create_time)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10::jsonb, $11)"
        " ON CONFLICT (team, run_uid, artifact, attempt, step, ranks, round, rank)"
        " DO UPDATE SET entries = EXCLUDED.entries, metadata = EXCLUDED.metadata",
        *(*_key(whole), shard.rank, json.dumps(entries), json.dumps(shard.metadata), now),
    )


async def all_of(conn: Any, whole: Whole) -> list[Shard]:
    """The shards that there are, by rank."""
    rows = await conn.fetch(
        "SELECT rank, entries, metadata FROM shards WHERE team = $1 AND run_uid = $2 AND artifact = $3"
        " AND attempt = $4 AND step = $5 AND ranks = $6 AND round = $7 ORDER BY rank",
        *_key(whole),
    )
    return [Shard(row["rank"], _entries(row["entries"]), json.loads(row["metadata"])) for row in rows]


async def forget(db: Any, whole: Whole) -> None:
    """Removes the shards of a checkpoint that is whole, and of those before it that never will be."""
    await db.execute(
        "DELETE FROM shards WHERE team = $1 AND run_uid = $2 AND artifact = $3"
        " AND (attempt < $4 OR (attempt = $4 AND (step, round) <= ($5, $6)))",
        *(whole.team, whole.run_uid, whole.artifact, whole.attempt, whole.step, whole.round),
    )


async def forget_attempts_before(conn: Any, whole: Whole) -> None:
    """Removes what earlier attempts left unfinished: no rank of theirs runs any more. And of any run what
    has waited for the other ranks for a week."""
    await conn.execute(
        "DELETE FROM shards WHERE (team = $1 AND run_uid = $2 AND attempt < $3)"
        " OR create_time < now() - interval '7 days'",
        *(whole.team, whole.run_uid, whole.attempt),
    )


def _key(whole: Whole) -> tuple[str, str, str, int, int, int, int]:
    return (
        whole.team,
        whole.run_uid,
        whole.artifact,
        whole.attempt,
        whole.step,
        whole.ranks,
        whole.round,
    )


def _entries(text: str) -> list[Entry]:
    return [
        Entry(
            each["path"], each["size"], each["digest"], [Part(digest, size) for digest, size in each["parts"]]
        )
        for each in json.loads(text)
    ]
