"""What is said of traces, in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cairn_common.db import Row
from cairn_tracker.model import Json
from cairn_tracker.store.runs import Reads


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a person, a judge or a program says of a trace."""

    trace_id: str
    assessment_id: str
    name: str
    source_type: str
    # Milliseconds since 1970.
    create_time: int
    update_time: int
    # What should have come; otherwise what somebody thinks of what came.
    expected: bool
    content: Mapping[str, Json]
    span_id: str = ""
    source_id: str = ""
    rationale: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    overrides: str = ""
    valid: bool = True


_COLUMNS: Final = (
    "trace_id, assessment_id, name, source_type, create_time, update_time, expected, content, span_id,"
    " source_id, rationale, metadata, overrides, valid"
)


async def of_traces(db: Reads, team: str, trace_ids: Sequence[str]) -> dict[str, list[Assessment]]:
    """By trace, the oldest first."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM assessments WHERE team = $1 AND trace_id = ANY($2::text[])"  # noqa: S608
        " ORDER BY trace_id, create_time, assessment_id",
        *(team, list(trace_ids)),
    )
    found: dict[str, list[Assessment]] = {}
    for row in rows:
        found.setdefault(row["trace_id"], []).append(_assessment(row))
    return found


async def get(db: Reads, team: str, trace_id: str, assessment_id: str) -> Assessment | None:
    """One of them."""
    rows = await db.fetch(
        f"SELECT {_COLUMNS} FROM assessments"  # noqa: S608
        " WHERE team = $1 AND trace_id = $2 AND assessment_id = $3",
        *(team, trace_id, assessment_id),
    )
    return _assessment(rows[0]) if rows else None


async def add(conn: Any, team: str, made: Assessment, *, most: int) -> bool:
    """Writes a new one; what it takes the place of is not valid from now on. False: its trace has `most`."""
    done: str = await conn.execute(
        f"INSERT INTO assessments (team, {_COLUMNS})"  # noqa: S608
        " SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12, $13::jsonb, $14, $15"
        " WHERE (SELECT count(*) FROM assessments WHERE team = $1 AND trace_id = $2) < $16",
        *(team, *_values(made), most),
    )
    if made.overrides:
        await set_valid(conn, team, made.trace_id, made.overrides, valid=False)
    return done.endswith(" 1")


async def change(conn: Any, team: str, made: Assessment) -> None:
    """Writes what of one can change."""
    await conn.execute(
        "UPDATE assessments SET name = $4, update_time = $5, content = $6::jsonb, rationale = $7,"
        " metadata = $8::jsonb WHERE team = $1 AND trace_id = $2 AND assessment_id = $3",
        *(team, made.trace_id, made.assessment_id, made.name, made.update_time),
        *(json.dumps(dict(made.content)), made.rationale, json.dumps(dict(made.metadata))),
    )


async def remove(conn: Any, team: str, gone: Assessment) -> None:
    """Deletes one; what it took the place of is valid again."""
    await conn.execute(
        "DELETE FROM assessments WHERE team = $1 AND trace_id = $2 AND assessment_id = $3",
        *(team, gone.trace_id, gone.assessment_id),
    )
    if gone.overrides:
        await set_valid(conn, team, gone.trace_id, gone.overrides, valid=True)


async def set_valid(conn: Any, team: str, trace_id: str, assessment_id: str, *, valid: bool) -> None:
    """Whether no other one has taken its place."""
    await conn.execute(
        "UPDATE assessments SET valid = $4 WHERE team = $1 AND trace_id = $2 AND assessment_id = $3",
        *(team, trace_id, assessment_id, valid),
    )


def _values(made: Assessment) -> tuple[Any, ...]:
    return (
        *(made.trace_id, made.assessment_id, made.name, made.source_type, made.create_time),
        *(made.update_time, made.expected, json.dumps(dict(made.content)), made.span_id, made.source_id),
        *(made.rationale, json.dumps(dict(made.metadata)), made.overrides, made.valid),
    )


def _assessment(row: Row) -> Assessment:
    given = {**dict(row), "content": json.loads(row["content"]), "metadata": json.loads(row["metadata"])}
    return Assessment(**given)
