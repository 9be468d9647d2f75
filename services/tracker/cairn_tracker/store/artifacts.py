"""Artifacts, versions, aliases, lineage and blobs in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cairn_common.db import Row
from cairn_common.ids import new_uid
from cairn_tracker.manifest import LATEST, Entry, Part
from cairn_tracker.model import Json
from cairn_tracker.store.runs import Reads


@dataclass(frozen=True, slots=True)
class Artifact:
    """A name under which versions are kept."""

    team: str
    id: str
    uid: str
    kind: int
    create_time: datetime
    latest_version: int
    aliases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """A set of files under one number. Lists leave `entries` empty."""

    team: str
    artifact: str
    number: int
    uid: str
    kind: int
    create_time: datetime
    creator: str
    run_uid: str
    step: int | None
    metadata: Mapping[str, Json]
    size: int
    digest: str
    request_id: str = ""
    # Who pinned it; empty: nobody.
    pinner: str = ""
    # The order of commits in the whole database.
    seq: int = 0
    entries: Sequence[Entry] = ()
    aliases: Sequence[str] = ()
    # Names of versions, in the order given.
    sources: Sequence[str] = ()

    @property
    def name(self) -> str:
        return version_name(self.team, self.artifact, self.number)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which versions of a team (empty, 0: all), and after which one (its `seq`) the page begins."""

    team: str
    artifact: str = ""
    run_uid: str = ""
    kind: int = 0
    after: int | None = None


_COLUMNS = """
v.team, v.artifact, v.number, v.uid, v.kind, v.create_time, v.creator, v.run_uid, v.step, v.metadata, v.size,
v.digest, v.request_id, v.pinner, v.seq,
ARRAY(SELECT a.alias FROM aliases a
      WHERE (a.team, a.artifact, a.number) = (v.team, v.artifact, v.number) ORDER BY a.alias) AS aliases,
ARRAY(SELECT format('teams/%s/artifacts/%s/versions/%s', o.team, o.artifact, o.number)
      FROM sources s JOIN versions o ON o.uid = s.source_uid
      WHERE s.version_uid = v.uid ORDER BY s.position) AS sources
"""

# What was deleted is nowhere found but by the request that made it.
_BY_NUMBER = f"""
SELECT {_COLUMNS} FROM versions v
WHERE v.team = $1 AND v.artifact = $2 AND v.number = $3 AND v.delete_time IS NULL
"""  # noqa: S608

_BY_ALIAS = f"""
SELECT {_COLUMNS} FROM versions v
JOIN aliases n ON (n.team, n.artifact, n.number) = (v.team, v.artifact, v.number)
WHERE n.team = $1 AND n.artifact = $2 AND n.alias = $3 AND v.delete_time IS NULL
"""  # noqa: S608

_BY_REQUEST = f"SELECT {_COLUMNS} FROM versions v WHERE v.team = $1 AND v.request_id = $2"  # noqa: S608

_LIST = f"""
SELECT {_COLUMNS} FROM versions v
WHERE v.team = $1 AND ($2 = '' OR v.artifact = $2) AND ($3 = '' OR v.run_uid = $3) AND ($4 = 0 OR v.kind = $4)
  AND ($5::bigint IS NULL OR v.seq < $5) AND v.delete_time IS NULL
ORDER BY v.seq DESC LIMIT $6
"""  # noqa: S608

# The last one committed, whatever its step: after a resume an earlier step can be the newer checkpoint.
_CHECKPOINT = f"""
SELECT {_COLUMNS} FROM versions v
WHERE v.team = $1 AND v.run_uid = $2 AND v.kind = $3 AND v.delete_time IS NULL
ORDER BY v.seq DESC LIMIT 1
"""  # noqa: S608

_ARTIFACTS = """
SELECT a.team, a.id, a.uid, a.kind, a.create_time, a.latest_version,
    coalesce((SELECT jsonb_object_agg(n.alias, n.number) FROM aliases n
              WHERE n.team = a.team AND n.artifact = a.id), '{}') AS aliases
FROM artifacts a WHERE a.team = $1 AND a.id > $2 AND ($3 = 0 OR a.kind = $3)
  AND EXISTS (SELECT FROM versions v
              WHERE (v.team, v.artifact) = (a.team, a.id) AND v.delete_time IS NULL)
ORDER BY a.id LIMIT $4
"""


def version_name(team: str, artifact: str, number: int) -> str:
    """The resource name of a version."""
    return f"teams/{team}/artifacts/{artifact}/versions/{number}"


async def next_number(conn: Any, team: str, artifact: str, kind: int, now: datetime) -> int:
    """The number of the next version. The artifact is made on first use, and held to the end of the
    transaction: versions of one artifact commit one after the other."""
    number: int = await conn.fetchval(
        "INSERT INTO artifacts (team, id, uid, kind, create_time, latest_version)"
        " VALUES ($1, $2, $3, $4, $5, 1)"
        " ON CONFLICT (team, id) DO UPDATE SET latest_version = artifacts.latest_version + 1"
        " RETURNING latest_version",
        *(team, artifact, new_uid(), kind, now),
    )
    return number


async def add_version(conn: Any, version: Version) -> None:
    """Writes a version and its entries."""
    await conn.execute(
        "INSERT INTO versions (team, artifact, number, uid, kind, create_time, creator, run_uid, step,"
        " metadata, size, digest, request_id)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11, $12, $13)",
        version.team,
        version.artifact,
        version.number,
        version.uid,
        version.kind,
        version.create_time,
        version.creator,
        version.run_uid,
        version.step,
        json.dumps(dict(version.metadata)),
        version.size,
        version.digest,
        version.request_id,
    )
    await conn.copy_records_to_table(
        "entries",
        columns=("version_uid", "path", "size", "digest", "part_digests", "part_sizes"),
        records=[
            (
                version.uid,
                entry.path,
                entry.size,
                entry.digest,
                [part.digest for part in entry.parts],
                [part.size for part in entry.parts],
            )
            for entry in version.entries
        ],
    )


async def entries_of(db: Reads, version_uid: str, *, after: str, limit: int) -> list[Entry]:
    """Files of a version by path (byte by byte), from the one after `after`."""
    found = await db.fetch(
        "SELECT path, size, digest, part_digests, part_sizes FROM entries"
        ' WHERE version_uid = $1 AND path COLLATE "C" > $2 ORDER BY path COLLATE "C" LIMIT $3',
        *(version_uid, after, limit),
    )
    return [_entry(item) for item in found]


async def add_sources(conn: Any, version_uid: str, sources: Sequence[str]) -> None:
    """Notes the versions (uids) that a version was made from."""
    await conn.executemany(
        "INSERT INTO sources (version_uid, position, source_uid) VALUES ($1, $2, $3)",
        [(version_uid, place, source) for place, source in enumerate(sources)],
    )


async def move_aliases(
    conn: Any,
    team: str,
    artifact: str,
    aliases: Collection[str],
    number: int,
    *,
    actor: str,
    now: datetime,
) -> None:
    """Lets aliases name this version from here on, under the artifact's lock; all but `latest` are noted."""
    await conn.execute(
        "INSERT INTO aliases (team, artifact, alias, number)"
        " SELECT $1, $2, alias, $4 FROM unnest($3::text[]) AS t (alias)"
        " ON CONFLICT (team, artifact, alias) DO UPDATE SET number = EXCLUDED.number",
        *(team, artifact, sorted(aliases), number),
    )
    await note_moves(conn, team, artifact, aliases, number, actor=actor, now=now)


async def note_moves(
    conn: Any,
    team: str,
    artifact: str,
    aliases: Collection[str],
    number: int | None,
    *,
    actor: str,
    now: datetime,
) -> None:
    """Writes into the history that these aliases name this version, or None, from now on."""
    await conn.execute(
        "INSERT INTO alias_moves (team, artifact, alias, number, actor, time)"
        " SELECT $1, $2, alias, $4, $5, $6 FROM unnest($3::text[]) AS t (alias)",
        *(team, artifact, sorted(set(aliases) - {LATEST}), number, actor, now),
    )


async def lock_artifact(conn: Any, team: str, artifact: str) -> None:
    """Holds an artifact to the end of the transaction, as a commit does: aliases and versions stand still."""
    await conn.execute(
        "SELECT 1 FROM artifacts WHERE team = $1 AND id = $2 FOR NO KEY UPDATE", team, artifact
    )


async def find(
    db: Reads, team: str, artifact: str, which: int | str, *, entries: bool = True
) -> Version | None:
    """A version by its number or an alias."""
    by_number = isinstance(which, int)
    rows = await db.fetch(_BY_NUMBER if by_number else _BY_ALIAS, team, artifact, which)
    return await _whole(db, rows[0], entries=entries) if rows else None


async def by_request(db: Reads, team: str, request_id: str) -> Version | None:
    """The version that was committed with this request_id."""
    rows = await db.fetch(_BY_REQUEST, team, request_id) if request_id else []
    return await _whole(db, rows[0], entries=True) if rows else None


async def latest_checkpoint(db: Reads, team: str, run_uid: str, kind: int) -> Version | None:
    """The checkpoint that a run committed last."""
    rows = await db.fetch(_CHECKPOINT, team, run_uid, kind)
    return await _whole(db, rows[0], entries=True) if rows else None


async def list_versions(db: Reads, which: Filter, *, limit: int) -> list[Version]:
    """Versions without their entries, newest first."""
    rows = await db.fetch(_LIST, which.team, which.artifact, which.run_uid, which.kind, which.after, limit)
    return [_version(row) for row in rows]


async def list_artifacts(db: Reads, team: str, *, kind: int, after: str, limit: int) -> list[Artifact]:
    """Artifacts by id, from the one after `after`."""
    rows = await db.fetch(_ARTIFACTS, team, after, kind, limit)
    return [Artifact(**{**dict(row), "aliases": json.loads(row["aliases"])}) for row in rows]


async def kind(db: Reads, team: str, artifact: str) -> int | None:
    """The kind of the team's artifact of this id; None where there is none."""
    found = await db.fetch("SELECT kind FROM artifacts WHERE team = $1 AND id = $2", team, artifact)
    return int(found[0]["kind"]) if found else None


async def add_use(db: Any, team: str, run_uid: str, version_uid: str, now: datetime) -> None:
    """Notes that a run read a version."""
    await db.execute(
        "INSERT INTO uses (team, run_uid, version_uid, create_time) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT DO NOTHING",
        *(team, run_uid, version_uid, now),
    )


async def used_by(db: Reads, team: str, version_uid: str) -> list[str]:
    """Uids of the runs that read a version."""
    rows = await db.fetch(
        "SELECT run_uid FROM uses WHERE team = $1 AND version_uid = $2 ORDER BY create_time, run_uid",
        *(team, version_uid),
    )
    return [row["run_uid"] for row in rows]


async def inputs(db: Reads, team: str, run_uid: str) -> list[str]:
    """Names of the versions that a run read."""
    rows = await db.fetch(
        "SELECT v.team, v.artifact, v.number FROM uses u JOIN versions v ON v.uid = u.version_uid"
        " WHERE u.team = $1 AND u.run_uid = $2 ORDER BY u.create_time, v.uid",
        *(team, run_uid),
    )
    return [version_name(row["team"], row["artifact"], row["number"]) for row in rows]


async def first_read(db: Reads, team: str, run_uid: str, artifact: str) -> int | None:
    """The number of the version of an artifact that a run read first; None: it read none."""
    rows = await db.fetch(
        "SELECT v.number FROM uses u JOIN versions v ON v.uid = u.version_uid"
        " WHERE u.team = $1 AND u.run_uid = $2 AND v.team = $1 AND v.artifact = $3"
        " ORDER BY u.create_time, v.number LIMIT 1",
        *(team, run_uid, artifact),
    )
    return rows[0]["number"] if rows else None


async def _whole(db: Reads, row: Row, *, entries: bool) -> Version:
    found = await db.fetch(
        "SELECT path, size, digest, part_digests, part_sizes FROM entries WHERE version_uid = $1 AND $2"
        " ORDER BY path",
        *(row["uid"], entries),
    )
    return _version(row, [_entry(item) for item in found])


def _entry(row: Row) -> Entry:
    parts = [Part(digest, size) for digest, size in zip(row["part_digests"], row["part_sizes"], strict=True)]
    return Entry(row["path"], row["size"], row["digest"], parts)


def _version(row: Row, entries: Sequence[Entry] = ()) -> Version:
    return Version(**{**dict(row), "metadata": json.loads(row["metadata"])}, entries=entries)
