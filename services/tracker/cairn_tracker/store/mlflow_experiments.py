"""Experiments in PostgreSQL, by the numbers and names that MLflow's clients know them by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cairn_common.db import Row
from cairn_common.ids import new_uid
from cairn_tracker.changes import experiment_id
from cairn_tracker.mlflow import search
from cairn_tracker.mlflow.grammar import Clause, Sorting
from cairn_tracker.model import DEFAULT_EXPERIMENT
from cairn_tracker.search import Parameters
from cairn_tracker.store.runs import Reads, ensure_experiment

#: Views: what is there, what was deleted, and both.
ACTIVE, DELETED, ALL = 0, 1, 2
_COLUMNS: Final = "id, number, display_name, create_time, update_time, delete_time, labels"
VIEWS: Final = {ACTIVE: "delete_time IS NULL", DELETED: "delete_time IS NOT NULL", ALL: "true"}
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Experiment:
    """A named group of runs."""

    id: str
    number: int
    name: str
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None
    labels: Mapping[str, str]


async def by_number(db: Reads, team: str, number: int) -> Experiment | None:
    """The experiment of a number."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM experiments WHERE team = $1 AND number = $2",  # noqa: S608
        *(team, number),
    )
    return _experiment(rows[0]) if rows else None


async def by_name(db: Reads, team: str, name: str) -> Experiment | None:
    """The experiment of a name."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM experiments WHERE team = $1 AND display_name = $2",  # noqa: S608
        *(team, name),
    )
    return _experiment(rows[0]) if rows else None


async def numbers(db: Reads, team: str, wanted: Sequence[int]) -> list[str]:
    """The ids of the experiments of these numbers, of those that exist."""
    rows = await db.fetch(
        "SELECT id FROM experiments WHERE team = $1 AND number = ANY($2::bigint[])", team, list(wanted)
    )
    return [row["id"] for row in rows]


async def ensure_default(db: Any, team: str, now: datetime) -> None:
    """Makes the team's default experiment, if it has none yet."""
    await ensure_experiment(db, team, DEFAULT_EXPERIMENT, now)


async def create(conn: Any, team: str, name: str, labels: Mapping[str, str], now: datetime) -> int | None:
    """Makes an experiment; its number. None: the name is in use."""
    wanted = experiment_id(name)
    if wanted == DEFAULT_EXPERIMENT:
        wanted = "experiment"
    for attempt in range(1, _TRIES + 1):
        id = wanted if attempt == 1 else f"{wanted[:55].rstrip('-')}-{attempt}"
        if attempt == _TRIES:
            id = f"e{new_uid()}"
        number: int | None = await conn.fetchval(
            "INSERT INTO experiments (team, id, uid, create_time, update_time, display_name, labels)"
            " VALUES ($1, $2, $3, $4, $4, $5, $6::jsonb) ON CONFLICT DO NOTHING RETURNING number",
            *(team, id, new_uid(), now, name, json.dumps(dict(labels))),
        )
        if number is not None:
            return number
        if await by_name(conn, team, name) is not None:
            return None
    return None


async def rename(conn: Any, team: str, number: int, name: str, now: datetime) -> bool:
    """Gives another name, unless it is in use; whether it did."""
    taken = await by_name(conn, team, name)
    if taken is not None:
        return taken.number == number
    await conn.execute(
        "UPDATE experiments SET display_name = $3, update_time = $4 WHERE team = $1 AND number = $2",
        *(team, number, name, now),
    )
    return True


async def delete(conn: Any, team: str, experiment: Experiment, now: datetime) -> None:
    """Deletes an experiment with its runs."""
    await conn.execute(
        "UPDATE experiments SET delete_time = $3, update_time = $3 WHERE team = $1 AND id = $2",
        *(team, experiment.id, now),
    )
    await conn.execute(
        "UPDATE runs SET delete_time = $3, revision = revision + 1, update_time = $3"
        " WHERE team = $1 AND experiment = $2 AND delete_time IS NULL",
        *(team, experiment.id, now),
    )


async def restore(conn: Any, team: str, experiment: Experiment, now: datetime) -> None:
    """Brings an experiment and its runs back."""
    await conn.execute(
        "UPDATE experiments SET delete_time = NULL, update_time = $3 WHERE team = $1 AND id = $2",
        *(team, experiment.id, now),
    )
    await conn.execute(
        "UPDATE runs SET delete_time = NULL, revision = revision + 1, update_time = $3"
        " WHERE team = $1 AND experiment = $2 AND delete_time IS NOT NULL",
        *(team, experiment.id, now),
    )


async def label(
    conn: Any, team: str, number: int, added: Mapping[str, str], removed: Sequence[str], now: datetime
) -> None:
    """Adds tags, and takes others away."""
    await conn.execute(
        "UPDATE experiments SET labels = (labels || $3::jsonb) - $4::text[], update_time = $5"
        " WHERE team = $1 AND number = $2",
        *(team, number, json.dumps(dict(added)), list(removed), now),
    )


async def find(
    db: Reads,
    team: str,
    *,
    clauses: Sequence[Clause],
    order: Sequence[Sorting],
    view: int,
    offset: int,
    limit: int,
) -> list[Experiment]:
    """The experiments for which all comparisons hold."""
    given = Parameters()
    tests = [f"team = {given.add(team, 'text')}", VIEWS[view]]
    tests += [search.experiment_test(clause, given) for clause in clauses]
    sql = (
        f"SELECT {_COLUMNS} FROM experiments WHERE {' AND '.join(tests)}"  # noqa: S608
        f" ORDER BY {search.experiment_order(order)}"
        f" OFFSET {given.add(offset, 'bigint')} LIMIT {given.add(limit, 'bigint')}"
    )
    return [_experiment(row) for row in await db.fetch(sql, *given.values)]


def _experiment(row: Row) -> Experiment:
    return Experiment(
        id=row["id"],
        number=row["number"],
        name=row["display_name"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        delete_time=row["delete_time"],
        labels=json.loads(row["labels"]),
    )
