"""Traces and their spans in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cairn_common.db import Row
from cairn_tracker.store.runs import Reads
from cairn_tracker.trace_search import Search


@dataclass(frozen=True, slots=True)
class Trace:
    """What an application did for one request."""

    team: str
    trace_id: str
    experiment_id: str
    # Milliseconds since 1970.
    request_time: int
    # The numbers of `cairn.tracker.v1.Trace.State`.
    state: int
    # Milliseconds; None: it is not over.
    execution_duration: int | None = None
    client_request_id: str = ""
    request_preview: str = ""
    response_preview: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    has_spans: bool = False


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A span, and its place among those of its trace."""

    trace_id: str
    # Hexadecimal.
    span_id: str
    # Nanoseconds since 1970.
    start_time: int
    # A serialized `cairn.tracker.v1.Span`.
    content: bytes


COLUMNS = (
    "team, trace_id, experiment_id, request_time, state, execution_duration, client_request_id,"
    " request_preview, response_preview, metadata, tags, has_spans"
)

# What the client says holds, whatever of its spans arrives when.
_TELL = f"""
INSERT INTO traces ({COLUMNS}, told)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11::jsonb, $12, true)
ON CONFLICT (team, trace_id) DO UPDATE SET experiment_id = $3, request_time = $4, state = $5,
    execution_duration = $6, client_request_id = $7, request_preview = $8, response_preview = $9,
    metadata = traces.metadata || $10::jsonb, tags = traces.tags || $11::jsonb, told = true
"""  # noqa: S608

_HEAR = f"""
INSERT INTO traces AS t ({COLUMNS}, told)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11::jsonb, true, false)
ON CONFLICT (team, trace_id) DO UPDATE SET has_spans = true, metadata = $10::jsonb || t.metadata,
    tags = $11::jsonb || t.tags,
    request_time = CASE WHEN t.told THEN t.request_time ELSE least(t.request_time, $4) END,
    execution_duration = CASE WHEN t.told THEN t.execution_duration ELSE
        greatest(t.request_time + coalesce(t.execution_duration, 0), $4 + coalesce($6::bigint, 0))
        - least(t.request_time, $4) END,
    state = CASE WHEN t.told OR $5 = 3 THEN t.state ELSE $5 END
"""  # noqa: S608


async def tell(conn: Any, trace: Trace) -> None:
    """Writes what a client says of a trace."""
    await conn.execute(_TELL, *_values(trace), trace.has_spans)


async def hear(conn: Any, trace: Trace) -> None:
    """Writes what follows from some spans of a trace."""
    await conn.execute(_HEAR, *_values(trace))


async def add_spans(conn: Any, team: str, spans: Sequence[StoredSpan]) -> None:
    """Writes spans; one that is there is replaced."""
    await conn.executemany(
        "INSERT INTO spans (team, trace_id, span_id, start_time, content) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (team, trace_id, span_id) DO UPDATE SET start_time = $4, content = $5",
        [(team, span.trace_id, span.span_id, span.start_time, span.content) for span in spans],
    )


async def get(db: Reads, team: str, trace_ids: Sequence[str]) -> list[Trace]:
    """Those of these traces that are there, in this order."""
    rows = await db.fetch(
        f"SELECT {COLUMNS} FROM traces WHERE team = $1 AND trace_id = ANY($2::text[])",  # noqa: S608
        *(team, list(trace_ids)),
    )
    found = {row["trace_id"]: _trace(row) for row in rows}
    return [found[trace_id] for trace_id in dict.fromkeys(trace_ids) if trace_id in found]


async def experiment_of(db: Reads, team: str, run_uid: str) -> int | None:
    """The number of a run's experiment; None: there is no such run, or it was deleted."""
    rows = await db.fetch(
        "SELECT e.number FROM runs r JOIN experiments e ON e.team = r.team AND e.id = r.experiment"
        " WHERE r.team = $1 AND r.uid = $2 AND r.delete_time IS NULL",
        *(team, run_uid),
    )
    return rows[0]["number"] if rows else None


async def spans(
    db: Reads, team: str, trace_ids: Sequence[str], *, after: tuple[str, int, str], limit: int
) -> list[StoredSpan]:
    """The next spans of traces, by trace, start and id."""
    rows = await db.fetch(
        "SELECT trace_id, span_id, start_time, content FROM spans"
        " WHERE team = $1 AND trace_id = ANY($2::text[]) AND (trace_id, start_time, span_id) > ($3, $4, $5)"
        " ORDER BY trace_id, start_time, span_id LIMIT $6",
        *(team, list(trace_ids), *after, limit),
    )
    return [StoredSpan(**dict(row)) for row in rows]


async def search(db: Reads, wanted: Search) -> list[Trace]:
    """The traces that a search finds, from its place on."""
    return [_trace(row) for row in await db.fetch(wanted.statement(COLUMNS), *wanted.values)]


async def lock(conn: Any, team: str, trace_id: str) -> Trace | None:
    """A trace, held to the end of the transaction."""
    rows = await conn.fetch(
        f"SELECT {COLUMNS} FROM traces WHERE team = $1 AND trace_id = $2 FOR UPDATE",  # noqa: S608
        *(team, trace_id),
    )
    return _trace(rows[0]) if rows else None


async def set_tags(conn: Any, team: str, trace_id: str, tags: Mapping[str, str]) -> None:
    """Replaces the tags of a trace."""
    await conn.execute(
        "UPDATE traces SET tags = $3::jsonb WHERE team = $1 AND trace_id = $2",
        *(team, trace_id, json.dumps(dict(tags))),
    )


async def delete(db: Any, team: str, experiment_id: str, trace_ids: Sequence[str]) -> int:
    """Deletes traces of an experiment with their spans; how many there were."""
    done: str = await db.execute(
        "DELETE FROM traces WHERE team = $1 AND experiment_id = $2 AND trace_id = ANY($3::text[])",
        *(team, experiment_id, list(trace_ids)),
    )
    return int(done.rpartition(" ")[2])


async def delete_until(db: Any, team: str, experiment_id: str, time: int, *, most: int) -> int:
    """Deletes the oldest traces that began up to a time (milliseconds); how many there were."""
    done: str = await db.execute(
        "DELETE FROM traces WHERE (team, trace_id) IN (SELECT team, trace_id FROM traces"
        " WHERE team = $1 AND experiment_id = $2 AND request_time <= $3"
        " ORDER BY request_time, trace_id LIMIT $4)",
        *(team, experiment_id, time, most),
    )
    return int(done.rpartition(" ")[2])


def _values(trace: Trace) -> tuple[Any, ...]:
    return (
        *(trace.team, trace.trace_id, trace.experiment_id, trace.request_time, trace.state),
        *(trace.execution_duration, trace.client_request_id, trace.request_preview, trace.response_preview),
        *(json.dumps(dict(trace.metadata)), json.dumps(dict(trace.tags))),
    )


def _trace(row: Row) -> Trace:
    return Trace(**{**dict(row), "metadata": json.loads(row["metadata"]), "tags": json.loads(row["tags"])})
