"""Runs of a team that an expression holds for, in any order, page by page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker.expression import Operand, Tree
from cairn_tracker.model import Run
from cairn_tracker.search import Key, Parameters, Place, after, condition, keys, order
from cairn_tracker.store.runs import COLUMNS, MOST_SUMMARIES_IN_LISTS, Filter, whole

_MILLISECONDS: Final = 5_000
# Newest first; also between runs that are equal in what they are sorted by.
_NEWEST: Final = (Key("create_time", "timestamptz", True), Key("uid", "text", True))


@dataclass(frozen=True, slots=True)
class Search:
    """Which runs (`where.after` is not looked at), in which order, and where the page begins."""

    where: Filter
    tree: Tree | None = None
    by: Operand | None = None
    falling: bool = False
    place: Place = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A run, and the place after which the next page begins."""

    run: Run
    place: Place


def key_kinds(by: Operand | None) -> list[str]:
    """The types of a place's values."""
    return [key.kind for key in _keys(by, False, Parameters())[1]]


async def search(db: Database, wanted: Search, *, limit: int) -> list[Found]:
    """The next runs. Raises InvalidArgument for a bad pattern, and for what takes more than 5 s."""
    statement, values = _statement(wanted, limit)
    async with db.transaction() as conn:
        # The planner cannot know how many runs an expression leaves; compiling costs more than it wins.
        await conn.execute(f"SET LOCAL statement_timeout = {_MILLISECONDS}; SET LOCAL jit = off")
        try:
            rows = await conn.fetch(statement, *values)
        except asyncpg.InvalidRegularExpressionError as error:
            raise InvalidArgument(
                f"filter: a pattern cannot be read: {error}", reason=Reason.FIELD_INVALID, field="filter"
            ) from None
        except asyncpg.QueryCanceledError:
            raise InvalidArgument(
                "filter: this takes more than 5 s; name an experiment, or leave out what is costly",
                reason=Reason.FIELD_INVALID,
                field="filter",
            ) from None
        count = len(_keys(wanted.by, wanted.falling, Parameters())[1])
        places = [tuple(row[f"place_{number}"] for number in range(count)) for row in rows]
        runs = await whole(
            conn,
            wanted.where.team,
            [{name: value for name, value in row.items() if not name.startswith("place_")} for row in rows],
            most_metrics=MOST_SUMMARIES_IN_LISTS,
        )
    return [Found(run, place) for run, place in zip(runs, places, strict=True)]


def _keys(by: Operand | None, falling: bool, given: Parameters) -> tuple[str, Sequence[Key]]:
    join, sorted_by = ("", []) if by is None else keys(by, falling, given)
    return join, [*sorted_by, *_NEWEST]


def _statement(wanted: Search, limit: int) -> tuple[str, list[object]]:
    """The SQL, in which only parameters are from outside, and those."""
    where, given = wanted.where, Parameters()
    team = given.add(where.team, "text")
    join, sorted_by = _keys(wanted.by, wanted.falling, given)
    tests = [f"team = {team}", "delete_time IS NULL"]
    if where.experiment:
        tests.append(f"experiment = {given.add(where.experiment, 'text')}")
    if where.sweep:
        tests.append(f"sweep = {given.add(where.sweep, 'text')}")
    if where.states:
        tests.append(f"state = ANY({given.add(list(where.states), 'smallint[]')})")
    if wanted.tree is not None:
        tests.append(condition(wanted.tree, given))
    if wanted.place:
        tests.append(after(sorted_by, wanted.place, given))
    places = ", ".join(f"{key.sql} AS place_{number}" for number, key in enumerate(sorted_by))
    return (
        f"SELECT {COLUMNS}, {places} FROM runs {join} WHERE {' AND '.join(tests)}"  # noqa: S608
        f" ORDER BY {order(sorted_by)} LIMIT {given.add(limit, 'integer')}",
        given.values,
    )
