"""Registered models and their versions in PostgreSQL: artifacts, and what the registry adds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cairn_common.db import Row
from cairn_common.ids import new_uid
from cairn_tracker.keeping import MODEL
from cairn_tracker.manifest import LATEST
from cairn_tracker.registry_search import Search
from cairn_tracker.store.runs import Reads


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a registered model."""

    team: str
    artifact: str
    # The registered model's name.
    model: str
    number: int
    uid: str
    create_time: datetime
    update_time: datetime
    creator: str
    run_uid: str
    description: str
    # Empty: a version that was committed as files, and is where its files are.
    source: str
    location: str
    run_id: str
    run_link: str
    model_id: str
    stage: str
    tags: Mapping[str, str]
    aliases: Sequence[str] = ()
    # Files of its own; else they are where it came from, if anywhere.
    has_files: bool = False


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model, with the version of the highest number in each stage."""

    team: str
    artifact: str
    name: str
    description: str
    tags: Mapping[str, str]
    create_time: datetime
    update_time: datetime
    aliases: Mapping[str, int] = field(default_factory=dict)
    latest: Sequence[ModelVersion] = ()


# Artifacts of kind model, and what was registered without a version yet.
_MODELS = f"""
SELECT a.team, a.id AS artifact, coalesce(r.name, a.id) AS name, coalesce(r.description, '') AS description,
    coalesce(r.tags, '{{}}') AS tags, coalesce(r.create_time, a.create_time) AS create_time,
    greatest(coalesce(r.update_time, a.create_time),
        (SELECT max(v.create_time) FROM versions v WHERE (v.team, v.artifact) = (a.team, a.id)
            AND v.kind = {MODEL} AND v.delete_time IS NULL)) AS update_time,
    coalesce((SELECT jsonb_object_agg(n.alias, n.number) FROM aliases n
        WHERE (n.team, n.artifact) = (a.team, a.id) AND n.alias <> '{LATEST}'), '{{}}') AS aliases
FROM artifacts a LEFT JOIN registered_models r ON (r.team, r.artifact) = (a.team, a.id)
WHERE a.team = $1 AND a.kind = {MODEL} AND (r.name IS NOT NULL OR EXISTS (SELECT FROM versions v
    WHERE (v.team, v.artifact) = (a.team, a.id) AND v.kind = {MODEL} AND v.delete_time IS NULL))
"""  # noqa: S608

_MODEL_COLUMNS = "team, artifact, name, description, tags, create_time, update_time, aliases"

_VERSIONS = f"""
SELECT v.team, v.artifact, coalesce(r.name, v.artifact) AS model, v.number, v.uid, v.create_time, v.creator,
    greatest(v.create_time, m.update_time) AS update_time, v.run_uid,
    coalesce(m.description, '') AS description,
    coalesce(m.source, '') AS source, coalesce(m.location, '') AS location,
    coalesce(m.run_id, v.run_uid) AS run_id, coalesce(m.run_link, '') AS run_link,
    coalesce(m.model_id, '') AS model_id, coalesce(m.stage, 'None') AS stage,
    coalesce(m.tags, '{{}}') AS tags,
    ARRAY(SELECT n.alias FROM aliases n WHERE (n.team, n.artifact, n.number) = (v.team, v.artifact, v.number)
        AND n.alias <> '{LATEST}' ORDER BY n.alias) AS aliases,
    coalesce(r.tags, '{{}}') AS model_tags,
    EXISTS (SELECT FROM entries e WHERE e.version_uid = v.uid) AS has_files
FROM versions v JOIN artifacts a ON (a.team, a.id) = (v.team, v.artifact)
LEFT JOIN registered_models r ON (r.team, r.artifact) = (v.team, v.artifact)
LEFT JOIN model_versions m ON m.version_uid = v.uid
WHERE v.team = $1 AND a.kind = {MODEL} AND v.kind = {MODEL} AND v.delete_time IS NULL
"""  # noqa: S608

_VERSION_COLUMNS = (
    "team, artifact, model, number, uid, create_time, creator, update_time, run_uid, description, source,"
    " location, run_id, run_link, model_id, stage, tags, aliases, has_files"
)


# By the two indices there are for it; whether it is shown is for the queries above to say.
_ARTIFACT = f"""(
    SELECT r.artifact FROM registered_models r WHERE r.team = $1 AND r.name = $2
    UNION ALL
    SELECT a.id FROM artifacts a WHERE a.team = $1 AND a.id = $2 AND a.kind = {MODEL} AND NOT EXISTS (
        SELECT FROM registered_models r WHERE (r.team, r.artifact) = (a.team, a.id))
    LIMIT 1)"""  # noqa: S608


async def model(db: Reads, team: str, name: str) -> RegisteredModel | None:
    """A model by its name."""
    rows = await db.fetch(
        f"SELECT {_MODEL_COLUMNS} FROM ({_MODELS}) x WHERE artifact = {_ARTIFACT}",  # noqa: S608
        *(team, name),
    )
    return (await _with_latest(db, team, rows))[0] if rows else None


async def search_models(db: Reads, wanted: Search) -> list[RegisteredModel]:
    """The models that a search finds, from its place on."""
    found = await db.fetch(wanted.statement(_MODEL_COLUMNS, _MODELS), *wanted.values)
    return await _with_latest(db, str(wanted.values[0]), found)


async def version(db: Reads, team: str, model: str, number: int) -> ModelVersion | None:
    """A version of a model by its number."""
    rows = await db.fetch(
        f"SELECT {_VERSION_COLUMNS} FROM ({_VERSIONS}) x WHERE artifact = {_ARTIFACT} AND number = $3",  # noqa: S608
        *(team, model, number),
    )
    return _version(rows[0]) if rows else None


async def newest(db: Reads, team: str, model: str) -> ModelVersion | None:
    """The version of a model with the highest number."""
    rows = await db.fetch(
        f"SELECT {_VERSION_COLUMNS} FROM ({_VERSIONS}) x WHERE artifact = {_ARTIFACT}"  # noqa: S608
        " ORDER BY number DESC LIMIT 1",
        *(team, model),
    )
    return _version(rows[0]) if rows else None


async def versions(db: Reads, team: str, artifact: str) -> list[ModelVersion]:
    """All versions of the artifact behind a model, by number."""
    rows = await db.fetch(
        f"SELECT {_VERSION_COLUMNS} FROM ({_VERSIONS}) x WHERE artifact = $2 ORDER BY number",  # noqa: S608
        *(team, artifact),
    )
    return [_version(row) for row in rows]


async def search_versions(db: Reads, wanted: Search) -> list[ModelVersion]:
    """The versions that a search finds, from its place on."""
    found = await db.fetch(wanted.statement(_VERSION_COLUMNS, _VERSIONS), *wanted.values)
    return [_version(row) for row in found]


async def kind_of(db: Reads, team: str, artifact: str) -> int | None:
    """The kind of the artifact of an id, where there is one."""
    rows = await db.fetch("SELECT kind FROM artifacts WHERE team = $1 AND id = $2", team, artifact)
    return int(rows[0]["kind"]) if rows else None


async def register(conn: Any, made: RegisteredModel) -> None:
    """Writes down a model, over an artifact that is made where there is none.

    Raises asyncpg.UniqueViolationError where the name is taken.
    """
    await conn.execute(
        "INSERT INTO artifacts (team, id, uid, kind, create_time) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (team, id) DO NOTHING",
        *(made.team, made.artifact, new_uid(), MODEL, made.create_time),
    )
    await conn.execute(
        "INSERT INTO registered_models (team, artifact, name, description, tags, create_time, update_time)"
        " VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7)",
        *(made.team, made.artifact, made.name, made.description, json.dumps(dict(made.tags))),
        *(made.create_time, made.update_time),
    )


async def change_model(conn: Any, value: RegisteredModel) -> None:
    """Writes what the registry keeps of a model, which may have had no row of its own so far."""
    await conn.execute(
        "INSERT INTO registered_models (team, artifact, name, description, tags, create_time, update_time)"
        " VALUES ($1, $2, $3, $4, $5::jsonb, $6, $7) ON CONFLICT (team, artifact) DO UPDATE SET name = $3,"
        " description = $4, tags = $5::jsonb, update_time = $7",
        *(value.team, value.artifact, value.name, value.description, json.dumps(dict(value.tags))),
        *(value.create_time, value.update_time),
    )


async def touch_model(conn: Any, team: str, artifact: str, now: datetime) -> None:
    """Notes that the set of a model's versions changed."""
    await conn.execute(
        "UPDATE registered_models SET update_time = $3 WHERE team = $1 AND artifact = $2", team, artifact, now
    )


async def touch_versions(conn: Any, team: str, artifact: str, now: datetime) -> None:
    """Notes that all versions of a model changed, as they do with its name."""
    await conn.execute(
        "INSERT INTO model_versions (version_uid, run_id, update_time)"
        " SELECT uid, run_uid, $3 FROM versions WHERE team = $1 AND artifact = $2 AND delete_time IS NULL"
        " ON CONFLICT (version_uid) DO UPDATE SET update_time = $3",
        *(team, artifact, now),
    )


async def move_artifact(conn: Any, team: str, artifact: str, other: str) -> None:
    """Gives an artifact another id, with all that belongs to it, under its lock."""
    await conn.execute("UPDATE artifacts SET id = $3 WHERE team = $1 AND id = $2", team, artifact, other)
    await conn.execute(
        "UPDATE alias_moves SET artifact = $3 WHERE team = $1 AND artifact = $2", team, artifact, other
    )


async def forget_model(conn: Any, team: str, artifact: str) -> None:
    """Takes a model without versions out of the registry. Its artifact goes on under an id that nobody can
    choose, for lineage: the name is free for another."""
    await conn.execute("DELETE FROM registered_models WHERE team = $1 AND artifact = $2", team, artifact)
    await move_artifact(conn, team, artifact, new_uid())


async def change_version(conn: Any, value: ModelVersion) -> None:
    """Writes what the registry keeps of a version, which may have had no row of its own so far."""
    await conn.execute(
        "INSERT INTO model_versions (version_uid, source, location, run_id, run_link, model_id, description,"
        " stage, tags, update_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10)"
        " ON CONFLICT (version_uid) DO UPDATE SET description = $7, stage = $8, tags = $9::jsonb,"
        " update_time = $10",
        *(value.uid, value.source, value.location, value.run_id, value.run_link, value.model_id),
        *(value.description, value.stage, json.dumps(dict(value.tags)), value.update_time),
    )


async def archive(conn: Any, team: str, artifact: str, stage: str, *, but: int, now: datetime) -> None:
    """Archives the versions of a stage, but for one number."""
    await conn.execute(
        "UPDATE model_versions m SET stage = 'Archived', update_time = $5 FROM versions v"
        " WHERE v.uid = m.version_uid AND v.team = $1 AND v.artifact = $2 AND m.stage = $3 AND v.number <> $4"
        " AND v.delete_time IS NULL",
        *(team, artifact, stage, but, now),
    )


async def drop_aliases(conn: Any, team: str, artifact: str, aliases: Sequence[str]) -> None:
    """Takes these aliases away, whatever they name."""
    await conn.execute(
        "DELETE FROM aliases WHERE team = $1 AND artifact = $2 AND alias = ANY($3::text[])",
        *(team, artifact, list(aliases)),
    )


async def _with_latest(db: Reads, team: str, rows: Sequence[Row]) -> list[RegisteredModel]:
    found = await db.fetch(
        f"SELECT DISTINCT ON (artifact, stage) {_VERSION_COLUMNS} FROM ({_VERSIONS}) x"  # noqa: S608
        " WHERE artifact = ANY($2::text[]) ORDER BY artifact, stage, number DESC",
        *(team, [row["artifact"] for row in rows]),
    )
    latest: dict[str, list[ModelVersion]] = {}
    for row in sorted(found, key=lambda row: int(row["number"])):
        latest.setdefault(row["artifact"], []).append(_version(row))
    return [
        RegisteredModel(
            **{**dict(row), "tags": json.loads(row["tags"]), "aliases": json.loads(row["aliases"])},
            latest=latest.get(row["artifact"], ()),
        )
        for row in rows
    ]


def _version(row: Row) -> ModelVersion:
    return ModelVersion(**{**dict(row), "tags": json.loads(row["tags"])})
