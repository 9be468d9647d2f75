"""Runs in PostgreSQL as MLflow's clients see them: one row each, its metrics beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cairn_common.db import Row
from cairn_common.ids import new_uid
from cairn_tracker.batch import RunKey
from cairn_tracker.mlflow import search
from cairn_tracker.mlflow.grammar import Clause, Sorting
from cairn_tracker.model import Json, RunState
from cairn_tracker.search import Parameters
from cairn_tracker.store.mlflow_experiments import VIEWS
from cairn_tracker.store.runs import Reads

_COLUMNS: Final = f"""
r.uid, r.display_name, e.number AS experiment, {search.USER} AS user_id, r.state, r.has_job,
coalesce(r.start_time, r.create_time) AS start_time, r.end_time, r.delete_time, r.params, r.labels, r.tags,
r.notes, r.command, r.git_commit, r.git_branch
"""
_FROM: Final = "FROM runs r JOIN experiments e ON e.team = r.team AND e.id = r.experiment"
_METRICS: Final = """
LEFT JOIN LATERAL (
    SELECT array_agg(s.key) AS keys, array_agg(s.last) AS points, array_agg(s.last_step) AS steps,
        array_agg(s.last_time / 1000) AS times
    FROM summaries s WHERE s.team = r.team AND s.run_uid = r.uid) m ON true
"""
# The same as MLflow's JSON has it, written here: a page has ten thousands of them.
_WRITTEN_METRICS: Final = """
LEFT JOIN LATERAL (
    SELECT string_agg('{"key":' || to_json(s.key) || ',"value":' || CASE s.last WHEN 'NaN' THEN '"NaN"'
            WHEN 'Infinity' THEN '1.7976931348623157e308' WHEN '-Infinity' THEN '-1.7976931348623157e308'
            ELSE s.last::text END
        || ',"timestamp":' || s.last_time / 1000 || ',"step":' || s.last_step || '}', ',') AS metrics
    FROM summaries s WHERE s.team = r.team AND s.run_uid = r.uid) m ON true
"""
_INPUTS = """
SELECT i.run_uid, i.labels, d.name, d.digest, d.source_type, d.source, d.schema, d.profile
FROM run_inputs i JOIN described_datasets d ON d.team = i.team AND d.uid = i.dataset_uid
WHERE i.team = $1 AND i.run_uid = ANY($2::text[]) ORDER BY i.seq
"""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Data that a run read, described."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str
    profile: str


@dataclass(frozen=True, slots=True)
class Input:
    """A dataset as a run read it."""

    dataset: Dataset
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelUse:
    """A model that a run made, or read."""

    model_id: str
    step: int
    made: bool


@dataclass(frozen=True, slots=True)
class MlflowRun:
    """A run, each metric's last point in parallel columns or (`metrics`) as JSON without its brackets."""

    uid: str
    display_name: str
    # The experiment's number.
    experiment: int
    user_id: str
    state: RunState
    has_job: bool
    start_time: datetime
    end_time: datetime | None
    delete_time: datetime | None
    params: Mapping[str, Json]
    labels: Mapping[str, str]
    keys: Sequence[str] = ()
    points: Sequence[float] = ()
    steps: Sequence[int] = ()
    # Milliseconds since 1970.
    times: Sequence[int] = ()
    metrics: str = ""
    inputs: Sequence[Input] = ()
    models: Sequence[ModelUse] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """Which runs of a team, in which order."""

    team: str
    # Ids of experiments.
    experiments: Sequence[str]
    clauses: Sequence[Clause] = ()
    order: Sequence[Sorting] = ()
    view: int = 0
    offset: int = 0
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that is to be made."""

    key: RunKey
    display_name: str
    creator: str
    user_id: str
    # An id.
    experiment: str
    start_time: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    git_commit: str = ""


async def get(db: Reads, key: RunKey, *, written: bool = False) -> MlflowRun | None:
    """A run, whole; `written`: its metrics as JSON."""
    metrics = _WRITTEN_METRICS if written else _METRICS
    sql = f"SELECT {_COLUMNS}, m.* {_FROM} {metrics} WHERE r.team = $1 AND r.uid = $2"
    found = await _whole(db, key.team, await db.fetch(sql, key.team, key.uid), written=written)
    return found[0] if found else None


async def find(db: Reads, wanted: Search, *, written: bool) -> list[MlflowRun]:
    """The runs for which all comparisons hold. Only the rows of the page are read whole.

    They are numbered once they are sorted and cut: whatever numbers rows by an order has to sort all of them.
    """
    given = Parameters()
    tests = [f"r.team = {given.add(wanted.team, 'text')}"]
    if len(wanted.experiments) == 1:
        # An index has the runs of one in the usual order.
        tests.append(f"r.experiment = {given.add(wanted.experiments[0], 'text')}")
    else:
        tests.append(f"r.experiment = ANY({given.add(list(wanted.experiments), 'text[]')})")
    tests.append(f"r.{VIEWS[wanted.view]}" if wanted.view in (0, 1) else "true")
    tests += [search.run_test(clause, given) for clause in wanted.clauses]
    joins, order = search.run_order(wanted.order, given)
    page = (
        f"SELECT r.uid FROM runs r {' '.join(joins)} WHERE {' AND '.join(tests)}"  # noqa: S608
        f" ORDER BY {', '.join(order)}"
        f" OFFSET {given.add(wanted.offset, 'bigint')} LIMIT {given.add(wanted.limit, 'bigint')}"
    )
    sql = (
        f"SELECT {_COLUMNS}, m.*"  # noqa: S608
        f" FROM (SELECT s.uid, row_number() OVER () AS place FROM ({page}) s) p"
        " JOIN runs r ON r.team = $1 AND r.uid = p.uid"
        " JOIN experiments e ON e.team = r.team AND e.id = r.experiment"
        f" {_WRITTEN_METRICS if written else _METRICS} ORDER BY p.place"
    )
    return await _whole(db, wanted.team, await db.fetch(sql, *given.values), written=written)


async def create(conn: Any, run: NewRun, now: datetime) -> None:
    """Makes a running run without a job."""
    await conn.execute(
        "INSERT INTO runs (team, uid, display_name, create_time, update_time, state, creator, experiment,"
        " has_job, start_time, user_id, labels, notes, git_commit)"
        " VALUES ($1, $2, $3, $4, $4, $5, $6, $7, false, $8, $9, $10::jsonb, $11, $12)",
        *run.key,
        run.display_name,
        now,
        int(RunState.RUNNING),
        run.creator,
        run.experiment,
        run.start_time,
        run.user_id,
        json.dumps(dict(run.labels)),
        run.notes,
        run.git_commit,
    )


async def hold(conn: Any, key: RunKey) -> tuple[bool, bool, dict[str, Json], dict[str, str]] | None:
    """Holds a run to the end of the transaction; whether it was deleted, whether it has a job, its params
    and its labels. None: there is none."""
    row = await conn.fetchrow(
        "SELECT delete_time IS NOT NULL AS deleted, has_job, params, labels FROM runs"
        " WHERE team = $1 AND uid = $2 FOR UPDATE",
        *key,
    )
    if row is None:
        return None
    return row["deleted"], row["has_job"], json.loads(row["params"]), json.loads(row["labels"])


async def describe(
    conn: Any,
    key: RunKey,
    now: datetime,
    *,
    params: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    removed: Sequence[str] = (),
    display_name: str | None = None,
    notes: str | None = None,
) -> None:
    """Adds params and labels, takes labels away, and changes what is not None."""
    await conn.execute(
        "UPDATE runs SET params = params || $4::jsonb, labels = (labels || $5::jsonb) - $6::text[],"
        " display_name = coalesce($7, display_name), notes = coalesce($8, notes),"
        " revision = revision + 1, update_time = $3 WHERE team = $1 AND uid = $2",
        *key,
        now,
        json.dumps(dict(params or {})),
        json.dumps(dict(labels or {})),
        list(removed),
        display_name,
        notes,
    )


async def end(
    conn: Any, key: RunKey, now: datetime, *, state: RunState | None, end_time: datetime | None
) -> None:
    """Changes state and end of a run without a job; one that goes on has no end."""
    await conn.execute(
        "UPDATE runs SET state = coalesce($4::smallint, state),"
        " end_time = CASE WHEN $4::smallint < 4 THEN $5 ELSE coalesce($5, end_time) END,"
        " complete = coalesce($4::smallint, state) >= 4, revision = revision + 1, update_time = $3"
        " WHERE team = $1 AND uid = $2 AND NOT has_job",
        *(*key, now, state, end_time),
    )


async def mark(conn: Any, key: RunKey, now: datetime, *, deleted: bool) -> None:
    """Deletes a run, or brings it back."""
    await conn.execute(
        "UPDATE runs SET delete_time = $4, revision = revision + 1, update_time = $3"
        " WHERE team = $1 AND uid = $2 AND (delete_time IS NULL) = $5",
        *(*key, now, now if deleted else None, deleted),
    )


async def add_inputs(conn: Any, key: RunKey, inputs: Sequence[Input]) -> None:
    """Notes datasets that a run read; one that it is known to have read stays as it is."""
    for item in inputs:
        data = item.dataset
        await conn.execute(
            "INSERT INTO described_datasets"
            " (team, uid, experiment, name, digest, source_type, source, schema, profile)"
            " SELECT $1, $3, experiment, $4, $5, $6, $7, $8, $9 FROM runs WHERE team = $1 AND uid = $2"
            " ON CONFLICT (team, experiment, name, digest) DO NOTHING",
            *(*key, new_uid(), data.name, data.digest),
            *(data.source_type, data.source, data.schema, data.profile),
        )
        await conn.execute(
            "INSERT INTO run_inputs (team, run_uid, dataset_uid, labels)"
            " SELECT r.team, r.uid, d.uid, $5::jsonb FROM runs r JOIN described_datasets d"
            " ON d.team = r.team AND d.experiment = r.experiment AND d.name = $3 AND d.digest = $4"
            " WHERE r.team = $1 AND r.uid = $2 ON CONFLICT DO NOTHING",
            *(*key, data.name, data.digest, json.dumps(dict(item.labels))),
        )


async def add_models(conn: Any, key: RunKey, models: Sequence[ModelUse]) -> None:
    """Notes models that a run made or read, each once."""
    for item in models:
        await conn.execute(
            "INSERT INTO run_models (team, run_uid, model_id, made, step) VALUES ($1, $2, $3, $4, $5)"
            " ON CONFLICT DO NOTHING",
            *(*key, item.model_id, item.made, item.step),
        )


async def _whole(db: Reads, team: str, rows: Sequence[Row], *, written: bool) -> list[MlflowRun]:
    uids = [row["uid"] for row in rows]
    inputs: dict[str, list[Input]] = {}
    models: dict[str, list[ModelUse]] = {}
    if uids:
        for row in await db.fetch(_INPUTS, team, uids):
            run_uid, labels, *dataset = row
            inputs.setdefault(run_uid, []).append(Input(Dataset(*dataset), json.loads(labels)))
        found = await db.fetch(
            "SELECT run_uid, model_id, step, made FROM run_models"
            " WHERE team = $1 AND run_uid = ANY($2::text[]) ORDER BY seq",
            *(team, uids),
        )
        for row in found:
            models.setdefault(row["run_uid"], []).append(ModelUse(row["model_id"], row["step"], row["made"]))
    return [
        _run(row, inputs.get(row["uid"], ()), models.get(row["uid"], ()), written=written) for row in rows
    ]


def _run(row: Row, inputs: Sequence[Input], models: Sequence[ModelUse], *, written: bool) -> MlflowRun:
    metrics = ("metrics",) if written else ("keys", "points", "steps", "times")
    return MlflowRun(
        uid=row["uid"],
        display_name=row["display_name"],
        experiment=row["experiment"],
        user_id=row["user_id"],
        state=RunState(row["state"]),
        has_job=row["has_job"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        delete_time=row["delete_time"],
        params=json.loads(row["params"]),
        labels=_labels(row),
        inputs=inputs,
        models=models,
        **{name: row[name] for name in metrics if row[name]},
    )


def _labels(row: Row) -> dict[str, str]:
    """A run's labels, and what stands in fields of its own, by the names that MLflow has for it."""
    found = {
        "mlflow.source.git.commit": row["git_commit"],
        "mlflow.source.git.branch": row["git_branch"],
        "mlflow.source.name": row["command"],
        "cairn.tags": ", ".join(row["tags"]),
        **json.loads(row["labels"]),
        "mlflow.runName": row["display_name"],
        "mlflow.note.content": row["notes"],
    }
    fields = {*search.FIELDS, *search.FALLBACKS, "cairn.tags"}
    return {key: text for key, text in found.items() if text or key not in fields}
