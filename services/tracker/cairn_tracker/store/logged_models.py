"""Logged models in PostgreSQL: what runs made and measured before anybody registers it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any

from cairn_common.db import Row
from cairn_tracker.logged_model_search import Search
from cairn_tracker.store.runs import Reads


@dataclass(frozen=True, slots=True)
class Metric:
    """One value that a run measured of a model."""

    key: str
    value: float
    # Milliseconds since 1970.
    timestamp: int
    step: int
    run_id: str
    dataset_name: str = ""
    dataset_digest: str = ""


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A model that a run logged."""

    team: str
    model_id: str
    experiment_id: str
    name: str
    model_type: str
    source_run_id: str
    # The numbers of `cairn.tracker.v1.LoggedModel.Status`.
    status: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    creator: str
    create_time: datetime
    update_time: datetime
    metrics: Sequence[Metric] = ()


COLUMNS = (
    "team, model_id, experiment_id, name, model_type, source_run_id, status, params, tags, creator,"
    " create_time, update_time"
)


async def get(db: Reads, team: str, model_id: str, *, deleted: bool = False) -> LoggedModel | None:
    """A model by its id; one that was deleted where that is asked for."""
    rows = await db.fetch(
        f"SELECT {COLUMNS} FROM logged_models WHERE team = $1 AND model_id = $2"  # noqa: S608
        " AND ($3 OR delete_time IS NULL)",
        *(team, model_id, deleted),
    )
    return (await _whole(db, team, rows))[0] if rows else None


async def lock(conn: Any, team: str, model_id: str) -> bool:
    """Holds a model to the end of the transaction; whether there is one, deleted or not."""
    found = await conn.fetchval(
        "SELECT 1 FROM logged_models WHERE team = $1 AND model_id = $2 FOR NO KEY UPDATE", team, model_id
    )
    return found is not None


async def search(db: Reads, wanted: Search) -> list[LoggedModel]:
    """The models that a search finds, from its place on."""
    rows = await db.fetch(wanted.statement(COLUMNS), *wanted.values)
    return await _whole(db, str(wanted.values[0]), rows)


async def add(conn: Any, made: LoggedModel) -> None:
    """Writes a new model."""
    await conn.execute(
        "INSERT INTO logged_models (team, model_id, experiment_id, name, model_type, source_run_id, status,"
        " params, tags, creator, create_time, update_time)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9::jsonb, $10, $11, $12)",
        *(made.team, made.model_id, made.experiment_id, made.name, made.model_type, made.source_run_id),
        *(made.status, json.dumps(dict(made.params)), json.dumps(dict(made.tags)), made.creator),
        *(made.create_time, made.update_time),
    )


async def change(conn: Any, value: LoggedModel) -> None:
    """Writes what can change of a model, under its lock."""
    await conn.execute(
        "UPDATE logged_models SET status = $3, params = $4::jsonb, tags = $5::jsonb, update_time = $6"
        " WHERE team = $1 AND model_id = $2",
        *(value.team, value.model_id, value.status, json.dumps(dict(value.params))),
        *(json.dumps(dict(value.tags)), value.update_time),
    )


async def bury(conn: Any, team: str, model_id: str, now: datetime) -> None:
    """Marks a model deleted; its files stay."""
    await conn.execute(
        "UPDATE logged_models SET delete_time = coalesce(delete_time, $3), update_time = $3"
        " WHERE team = $1 AND model_id = $2",
        *(team, model_id, now),
    )


async def add_metrics(conn: Any, team: str, model_id: str, metrics: Sequence[Metric]) -> None:
    """Notes what was measured; what is known already stays as it is."""
    await conn.executemany(
        "INSERT INTO logged_model_metrics (team, model_id, key, value, timestamp, step, run_id, dataset_name,"
        " dataset_digest) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
        [(team, model_id, *astuple(one)) for one in metrics],
    )


async def _whole(db: Reads, team: str, rows: Sequence[Row]) -> list[LoggedModel]:
    found = await db.fetch(
        "SELECT model_id, key, value, timestamp, step, run_id, dataset_name, dataset_digest"
        " FROM logged_model_metrics WHERE team = $1 AND model_id = ANY($2::text[])"
        " ORDER BY key, timestamp, step, run_id",
        *(team, [row["model_id"] for row in rows]),
    )
    metrics: dict[str, list[Metric]] = {}
    for row in found:
        values = dict(row)
        metrics.setdefault(values.pop("model_id"), []).append(Metric(**values))
    return [
        LoggedModel(
            **{**dict(row), "params": json.loads(row["params"]), "tags": json.loads(row["tags"])},
            metrics=metrics.get(row["model_id"], ()),
        )
        for row in rows
    ]
