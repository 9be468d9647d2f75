"""Runs of a team that an expression holds for, in any order, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker.expression import Operand, Tree
from cairn_tracker.model import Run
from cairn_tracker.search import Key, Parameters, Part, Place, after, conditions, kinds, order, parts
from cairn_tracker.store.runs import LISTED, MOST_SUMMARIES_IN_LISTS, Filter, whole

_MILLISECONDS: Final = 5_000
# Newest first; also between runs that are equal in what they are sorted by.
_NEWEST: Final = (
    Key("create_time", "timestamptz", True, required=True),
    Key("uid", "text", True, required=True),
)
# The planner cannot know how many runs an expression leaves, and knows less without its values; compiling
# costs more than it wins. What a search reads is in memory: any row costs about what the next one does.
_SETTINGS: Final = f"""
SET LOCAL statement_timeout = {_MILLISECONDS};
SET LOCAL jit = off;
SET LOCAL random_page_cost = 1.1;
SET LOCAL plan_cache_mode = force_custom_plan
"""


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
    return [*([] if by is None else kinds(by)), *(key.kind for key in _NEWEST)]


async def search(db: Database, wanted: Search, *, limit: int) -> list[Found]:
    """The next runs. Raises InvalidArgument for a bad pattern, and for what takes more than 5 s."""
    async with db.transaction() as conn:
        await conn.execute(_SETTINGS)
        try:
            rows = await _rows(conn, wanted, limit)
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
        # The place is what a row ends with.
        kept = -len(key_kinds(wanted.by))
        runs = await whole(
            conn,
            wanted.where.team,
            [dict(list(row.items())[:kept]) for row in rows],
            most_metrics=MOST_SUMMARIES_IN_LISTS,
        )
    return [Found(run, tuple(row.values())[kept:]) for run, row in zip(runs, rows, strict=True)]


async def _rows(conn: Connection, wanted: Search, limit: int) -> list[Row]:
    """Of one part of the listing after the other until they are enough."""
    rows: list[Row] = []
    place = wanted.place
    count = len(_parts(wanted, Parameters()))
    # Who has not what it is sorted by is in the last part.
    for number in range(count - 1 if place and place[0] is None else 0, count):
        statement, values = _statement(wanted, number, place, limit - len(rows))
        rows += await conn.fetch(statement, *values)
        if len(rows) >= limit:
            break
        place = ()
    return rows


def _parts(wanted: Search, given: Parameters) -> list[Part]:
    return [Part("", "", [])] if wanted.by is None else parts(wanted.by, wanted.falling, given)


def _statement(wanted: Search, number: int, place: Place, limit: int) -> tuple[str, list[object]]:
    """The SQL of a part, in which only parameters are from outside, and those."""
    where, given = wanted.where, Parameters()
    team = given.add(where.team, "text")
    part = _parts(wanted, given)[number]
    columns = [*part.keys, *_NEWEST]
    sorted_by = [key for key in columns if key is not None]
    tests = [f"team = {team}", "delete_time IS NULL"]
    if part.test:
        tests.append(part.test)
    if where.experiment:
        tests.append(f"experiment = {given.add(where.experiment, 'text')}")
    if where.sweep:
        tests.append(f"sweep = {given.add(where.sweep, 'text')}")
    if where.states:
        tests.append(f"state = ANY({given.add(list(where.states), 'smallint[]')})")
    if wanted.tree is not None:
        tests += conditions(wanted.tree, given)
    if place:
        tests.append(after(sorted_by, place[len(columns) - len(sorted_by) :], given))
    places = ", ".join(
        f"{'NULL::float8' if key is None else key.sql} AS place_{at}" for at, key in enumerate(columns)
    )
    join, tests = part.joined(tests)
    return (
        f"SELECT {LISTED}, {places} FROM runs {join} WHERE {' AND '.join(tests)}"  # noqa: S608
        f" ORDER BY {order(sorted_by)} LIMIT {given.add(limit, 'integer')}",
        given.values,
    )
