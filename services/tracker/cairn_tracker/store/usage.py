"""How many bytes a team's versions have, and how many of them lie in the store, in PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass

from cairn_tracker.store.runs import Reads

BY = ("kind", "experiment", "user")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of versions with one kind, experiment or user (`key`), or of all: bytes as they count them, and bytes
    of their parts, each once."""

    key: str
    versions: int
    logical: int
    stored: int


_USAGE = """
WITH living AS (
    SELECT v.uid, v.size, CASE $2
        WHEN 'kind' THEN v.kind::text
        WHEN 'experiment' THEN coalesce(r.experiment, '')
        WHEN 'user' THEN CASE WHEN v.creator LIKE 'runs/%' THEN coalesce(r.creator, '') ELSE v.creator END
        ELSE '' END AS key
    FROM versions v LEFT JOIN runs r ON (r.team, r.uid) = (v.team, v.run_uid)
    WHERE v.team = $1 AND v.delete_time IS NULL),
logical AS (SELECT key, count(*) AS versions, sum(size)::bigint AS logical FROM living GROUP BY key),
parts AS (
    SELECT DISTINCT l.key, h.digest FROM living l JOIN holdings h ON h.team = $1 AND h.holder = l.uid),
stored AS (
    SELECT p.key, sum(b.size)::bigint AS stored
    FROM parts p JOIN blobs b ON (b.team, b.digest) = ($1, p.digest)
    GROUP BY p.key)
SELECT l.key, l.versions, l.logical, coalesce(s.stored, 0) AS stored
FROM logical l LEFT JOIN stored s USING (key) ORDER BY stored DESC, l.key
"""


async def usage(db: Reads, team: str, by: str) -> list[Usage]:
    """By one of `BY`, the largest first; with "" as `by` one for all, or none."""
    return [Usage(**dict(row)) for row in await db.fetch(_USAGE, team, by)]


async def code_bytes(db: Reads, team: str) -> int:
    """Bytes of the code that runs keep, each archive once."""
    rows = await db.fetch(
        "SELECT coalesce(sum(size), 0)::bigint AS size FROM ("
        " SELECT DISTINCT ON (code_digest) code_size AS size FROM runs WHERE team = $1 AND code_digest <> ''"
        ") AS archives",
        team,
    )
    return int(rows[0]["size"])
