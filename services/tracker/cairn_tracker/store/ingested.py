"""What was taken in of each run, in PostgreSQL: marks, summaries, counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from cairn_tracker.batch import MetricKey, RunKey
from cairn_tracker.marks import LineKey, Marks, SegmentKey
from cairn_tracker.model import Summary, Tail
from cairn_tracker.store.runs import Reads

# Where the tail's columns begin in a summary's.
_TAIL: Final = 7

_MARKS = """
SELECT m.team, m.run_uid, m.writer, m.segment, m.ranges FROM marks m
JOIN unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS k (team, run_uid, writer, segment)
  ON (m.team, m.run_uid, m.writer, m.segment) = (k.team, k.run_uid, k.writer, k.segment)
"""

_LINE_MARKS = """
SELECT m.team, m.run_uid, m.attempt, m.rank, m.writer, m.ranges FROM line_marks m
JOIN unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::text[])
    AS k (team, run_uid, attempt, rank, writer)
  ON (m.team, m.run_uid, m.attempt, m.rank, m.writer) = (k.team, k.run_uid, k.attempt, k.rank, k.writer)
"""

# What is known of a metric as far as its points are settled.
_SUMMARIES = """
SELECT s.team, s.run_uid, s.key, s.last, coalesce(s.settled_step, s.last_step) AS last_step, s.count,
    s.min, s.min_step, s.max, s.max_step,
    s.tail_first, s.tail_count, s.tail_min, s.tail_min_step, s.tail_max, s.tail_max_step
FROM summaries s JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (team, run_uid, key)
  ON (s.team, s.run_uid, s.key) = (k.team, k.run_uid, k.key)
WHERE s.count > 0
"""

_ADD_MARKS = """
INSERT INTO marks (team, run_uid, writer, segment, ranges)
SELECT team, run_uid, writer, segment, range_agg(int8range(low, high))
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS t (team, run_uid, writer, segment, low, high)
GROUP BY team, run_uid, writer, segment
ON CONFLICT (team, run_uid, writer, segment) DO UPDATE SET ranges = marks.ranges + EXCLUDED.ranges
"""

_ADD_LINE_MARKS = """
INSERT INTO line_marks (team, run_uid, attempt, rank, writer, ranges)
SELECT team, run_uid, attempt, rank, writer, range_agg(int8range(low, high))
FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::text[], $6::bigint[], $7::bigint[])
    AS t (team, run_uid, attempt, rank, writer, low, high)
GROUP BY team, run_uid, attempt, rank, writer
ON CONFLICT (team, run_uid, attempt, rank, writer) DO UPDATE SET ranges = line_marks.ranges + EXCLUDED.ranges
"""

_AHEAD: Final = "(s.settled_step IS NOT NULL OR s.count = 0) AND s.last_step >= EXCLUDED.last_step"
_SET_SUMMARIES = f"""
INSERT INTO summaries AS s (team, run_uid, key, last, last_step, count, min, min_step, max, max_step,
    tail_first, tail_count, tail_min, tail_min_step, tail_max, tail_max_step, last_time, revisits)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::bigint[], $6::bigint[],
    $7::float8[], $8::bigint[], $9::float8[], $10::bigint[], $11::bigint[], $12::bigint[],
    $13::float8[], $14::bigint[], $15::float8[], $16::bigint[], $17::bigint[],
    $18::bigint[])
ON CONFLICT (team, run_uid, key) DO UPDATE SET
    -- A point that still waits may be later than all of these.
    last = CASE WHEN {_AHEAD} THEN s.last ELSE EXCLUDED.last END,
    last_step = CASE WHEN {_AHEAD} THEN s.last_step ELSE EXCLUDED.last_step END,
    last_time = CASE WHEN {_AHEAD} THEN s.last_time ELSE EXCLUDED.last_time END,
    settled_step = CASE WHEN {_AHEAD} AND s.last_step > EXCLUDED.last_step THEN EXCLUDED.last_step END,
    count = EXCLUDED.count, min = EXCLUDED.min, min_step = EXCLUDED.min_step, max = EXCLUDED.max,
    max_step = EXCLUDED.max_step, tail_first = EXCLUDED.tail_first, tail_count = EXCLUDED.tail_count,
    tail_min = EXCLUDED.tail_min, tail_min_step = EXCLUDED.tail_min_step, tail_max = EXCLUDED.tail_max,
    tail_max_step = EXCLUDED.tail_max_step, revisits = s.revisits + EXCLUDED.revisits
"""  # noqa: S608


async def marks(db: Reads, keys: Collection[SegmentKey]) -> Marks[SegmentKey]:
    """What was applied of these segments."""
    found: Marks[SegmentKey] = Marks()
    for row in await db.fetch(_MARKS, *_columns(keys, 4)):
        team, run, writer, segment, ranges = row
        found.know(SegmentKey(team, run, writer, segment), [(item.lower, item.upper) for item in ranges])
    return found


async def line_marks(db: Reads, keys: Collection[LineKey]) -> Marks[LineKey]:
    """Which lines were applied of these writers."""
    found: Marks[LineKey] = Marks()
    if not keys:
        return found
    for row in await db.fetch(_LINE_MARKS, *_columns(keys, 5)):
        team, run, attempt, rank, writer, ranges = row
        found.know(LineKey(team, run, attempt, rank, writer), [(item.lower, item.upper) for item in ranges])
    return found


async def summaries(db: Reads, keys: Collection[MetricKey]) -> dict[MetricKey, Summary]:
    """What these metrics came to so far."""
    if not keys:
        return {}
    found = {}
    for row in await db.fetch(_SUMMARIES, *_columns(keys, 3)):
        team, run, key, *values = row
        what, tail = values[:_TAIL], values[_TAIL:]
        made = Summary(*what)
        found[MetricKey(team, run, key)] = made if tail[0] is None else replace(made, tail=Tail(*tail))
    return found


async def metric_counts(db: Reads, keys: Collection[RunKey]) -> dict[RunKey, int]:
    """How many metrics these runs have; runs without any are left out."""
    rows = await db.fetch(
        "SELECT s.team, s.run_uid, count(*) AS metrics FROM summaries s"
        " JOIN unnest($1::text[], $2::text[]) AS k (team, uid) ON s.team = k.team AND s.run_uid = k.uid"
        " GROUP BY s.team, s.run_uid",
        *_columns(keys, 2),
    )
    return {RunKey(row["team"], row["run_uid"]): row["metrics"] for row in rows}


async def line_counts(db: Reads, keys: Collection[RunKey]) -> dict[RunKey, int]:
    """How many lines these runs have; runs that are not known yet are left out."""
    rows = await db.fetch(
        "SELECT r.team, r.uid, r.line_count FROM runs r"
        " JOIN unnest($1::text[], $2::text[]) AS k (team, uid) ON r.team = k.team AND r.uid = k.uid",
        *_columns(keys, 2),
    )
    return {RunKey(row["team"], row["uid"]): row["line_count"] for row in rows}


async def add_marks(conn: Any, fresh: Sequence[tuple[SegmentKey, int, int]]) -> None:
    """Notes ranges as applied."""
    if fresh:
        await conn.execute(_ADD_MARKS, *_columns([(*key, low, high) for key, low, high in fresh], 6))


async def add_line_marks(conn: Any, fresh: Sequence[tuple[LineKey, int, int]]) -> None:
    """Notes lines as applied."""
    if fresh:
        await conn.execute(_ADD_LINE_MARKS, *_columns([(*key, low, high) for key, low, high in fresh], 7))


async def set_summaries(conn: Any, changed: Mapping[MetricKey, Summary]) -> None:
    """Writes what metrics come to."""
    if changed:
        # Always in one order: others write rows of these, too.
        rows = [
            (*key, *_summary(of), of.last_time, int(of.revisited))
            for key, of in sorted(changed.items(), key=_name)
        ]
        await conn.execute(_SET_SUMMARIES, *_columns(rows, 18))


async def set_counts(
    conn: Any, lines: Mapping[RunKey, int], rejected: Mapping[RunKey, int], dropped: Mapping[RunKey, int]
) -> None:
    """Writes counts of lines, and adds points that were left out here, or lost before they came here."""
    keys = sorted({*lines, *rejected, *dropped})
    if keys:
        await conn.execute(
            "UPDATE runs r SET line_count = coalesce(k.lines, r.line_count),"
            " rejected_points = r.rejected_points + k.rejected,"
            " dropped_points = r.dropped_points + k.dropped"
            " FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])"
            " AS k (team, uid, lines, rejected, dropped)"
            " WHERE r.team = k.team AND r.uid = k.uid",
            *_columns([(*key, lines.get(key), rejected.get(key, 0), dropped.get(key, 0)) for key in keys], 5),
        )


def _name(item: tuple[MetricKey, Summary]) -> MetricKey:
    return item[0]


def _summary(of: Summary) -> tuple[Any, ...]:
    what = (of.last, of.last_step, of.count, of.min, of.min_step, of.max, of.max_step)
    tail = of.tail
    if tail is None:
        return (*what, None, None, None, None, None, None)
    return (*what, tail.first_step, tail.count, tail.min, tail.min_step, tail.max, tail.max_step)


def _columns(rows: Collection[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows as columns: arrays are how one statement takes many rows."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
