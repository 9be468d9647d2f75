"""Files of MLflow's clients in PostgreSQL: a row each, by team and path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cairn_common.db import Row
from cairn_common.ids import new_uid
from cairn_tracker.manifest import Entry, Part
from cairn_tracker.store import blobs
from cairn_tracker.store.runs import Reads

_COLUMNS: Final = "path, size, digest, part_digests, part_sizes"

# Of the space of advisory locks: one for each path.
_LOCK: Final = 0x66696C65

# Everything in a folder: `0` comes right behind `/`.
_INSIDE: Final = "team = $1 AND path > $2 || '/' AND path < $2 || '0'"

_LISTED: Final = f"""
SELECT name, is_folder, CASE WHEN is_folder THEN 0 ELSE max(size) END AS size FROM (
    SELECT split_part(rest, '/', 1) AS name, strpos(rest, '/') > 0 AS is_folder, size FROM (
        SELECT substr(path, CASE WHEN $2 = '' THEN 1 ELSE length($2) + 2 END) AS rest, size FROM mlflow_files
        WHERE $2 = '' AND team = $1 OR {_INSIDE}) inside) named
WHERE name COLLATE "C" > $3 GROUP BY name, is_folder ORDER BY name COLLATE "C" LIMIT $4
"""  # noqa: S608

_RELEASE: Final = """
WITH gone AS (
    DELETE FROM holdings h USING unnest($2::text[], $3::text[]) AS d (holder, digest)
    WHERE h.team = $1 AND h.digest = d.digest AND h.holder = d.holder RETURNING h.digest)
INSERT INTO idle_blobs AS i (team, digest, size, since, committed)
SELECT DISTINCT $1, b.digest, b.size, $4::timestamptz, true
FROM gone g JOIN blobs b ON b.team = $1 AND b.digest = g.digest ORDER BY b.digest
ON CONFLICT (team, digest) DO UPDATE SET since = EXCLUDED.since, committed = true WHERE NOT i.doomed
"""


@dataclass(frozen=True, slots=True)
class Item:
    """What lies in a folder."""

    name: str
    is_folder: bool
    size: int


async def get(db: Reads, team: str, path: str) -> Entry | None:
    """The file of a path."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM mlflow_files WHERE team = $1 AND path = $2",  # noqa: S608
        *(team, path),
    )
    return _entry(rows[0]) if rows else None


async def inside(db: Reads, team: str, folder: str, *, limit: int) -> list[Entry]:
    """The files in a folder and all that is below it, by path; with their whole paths."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM mlflow_files WHERE {_INSIDE} ORDER BY path LIMIT $3",  # noqa: S608
        *(team, folder, limit),
    )
    return [_entry(row) for row in rows]


async def listed(db: Reads, team: str, folder: str, *, after: str, limit: int) -> list[Item]:
    """What lies in a folder itself, by name, from the one behind `after`."""
    return [Item(**dict(row)) for row in await db.fetch(_LISTED, team, folder, after, limit)]


async def crossed(db: Reads, team: str, path: str) -> bool:
    """Whether a path is a folder already, or leads through a file."""
    above = [path[:place] for place, letter in enumerate(path) if letter == "/"]
    rows = await db.fetch(
        f"SELECT EXISTS (SELECT FROM mlflow_files WHERE {_INSIDE}) OR EXISTS ("  # noqa: S608
        "SELECT FROM mlflow_files WHERE team = $1 AND path = ANY($3::text[])) AS crossed",
        *(team, path, above),
    )
    return bool(rows[0]["crossed"])


async def put(conn: Any, team: str, entry: Entry, now: datetime) -> None:
    """Writes a file in place of the one that is there, and keeps its parts."""
    # Two who write the same file do so one after the other.
    await conn.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", _LOCK, f"{team}/{entry.path}")
    old = await conn.fetch(
        "DELETE FROM mlflow_files WHERE team = $1 AND path = $2 RETURNING uid, part_digests", team, entry.path
    )
    uid = new_uid()
    sizes = {part.digest: part.size for part in entry.parts}
    await blobs.add(conn, team, sizes, holder=uid, now=now)
    await conn.execute(
        "INSERT INTO mlflow_files (team, path, uid, size, digest, part_digests, part_sizes, create_time)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        *(team, entry.path, uid, entry.size, entry.digest),
        *([part.digest for part in entry.parts], [part.size for part in entry.parts], now),
    )
    await _release(conn, team, old, now)


async def delete(conn: Any, team: str, path: str, now: datetime) -> int:
    """Deletes a file, or all that is in a folder; how many there were."""
    old = await conn.fetch(
        f"DELETE FROM mlflow_files WHERE team = $1 AND path = $2 OR {_INSIDE}"  # noqa: S608
        " RETURNING uid, part_digests",
        *(team, path),
    )
    await _release(conn, team, old, now)
    return len(old)


async def _release(conn: Any, team: str, rows: Sequence[Row], now: datetime) -> None:
    """Lets go of the parts of files that are gone."""
    pairs = [(row["uid"], digest) for row in rows for digest in row["part_digests"]]
    if pairs:
        holders, digests = zip(*pairs, strict=True)
        await conn.execute(_RELEASE, team, holders, digests, now)


def _entry(row: Row) -> Entry:
    parts = [Part(*part) for part in zip(row["part_digests"], row["part_sizes"], strict=True)]
    return Entry(path=row["path"], size=row["size"], digest=row["digest"], parts=parts)
