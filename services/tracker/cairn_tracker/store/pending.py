"""Points that were answered for and are not in ClickHouse yet, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cairn_common.db import Database, Row
from cairn_tracker.batch import RunKey
from cairn_tracker.mlflow.columns import Call

# Rows that are settled together: of 1,000 points each at most.
_AT_ONCE: Final = 500

# One statement, so one way to the database: the points, and of each metric the last one, where it is later
# than what is known. NaN counts as 0, as it does to MLflow.
_ADD = """
WITH run AS (
    SELECT uid FROM runs WHERE team = $1 AND uid = $2 AND delete_time IS NULL AND $11::bigint >= (
        SELECT count(*) FROM (
            SELECT FROM summaries WHERE team = $1 AND run_uid = $2 LIMIT $11::bigint + 1) known)
), kept AS (
    INSERT INTO pending_points (team, run_uid, keys, steps, times, points)
    SELECT $1, uid, $3::text[], $4::bigint[], $5::bigint[], $6::float8[] FROM run
), latest AS (
    INSERT INTO summaries AS s (team, run_uid, key, last, last_step, last_time, count)
    SELECT $1, run.uid, new.key, new.last, new.step, new.time * 1000, 0
    FROM run, unnest($7::text[], $8::float8[], $9::bigint[], $10::bigint[]) AS new (key, last, step, time)
    ON CONFLICT (team, run_uid, key) DO UPDATE SET
        settled_step = CASE WHEN s.count = 0 THEN NULL ELSE coalesce(s.settled_step, s.last_step) END,
        last = EXCLUDED.last, last_step = EXCLUDED.last_step, last_time = EXCLUDED.last_time
    WHERE (EXCLUDED.last_step, EXCLUDED.last_time, coalesce(nullif(EXCLUDED.last, 'NaN'), 0))
        > (s.last_step, s.last_time, coalesce(nullif(s.last, 'NaN'), 0))
)
SELECT EXISTS (SELECT FROM run) AS there
"""


async def add(
    conn: Any, call: Call, latest: Sequence[tuple[str, float, int, int]], *, most_metrics: int
) -> bool:
    """Keeps points; `latest` are key, value, step and time of each metric's last one, sorted by key. False:
    there is no such run, it was deleted, or has more than `most_metrics` metrics."""
    columns = list(zip(*latest, strict=True))
    return bool(
        await conn.fetchval(
            _ADD, *call.run, call.keys, call.steps, call.times, call.points, *columns, most_metrics
        )
    )


async def some(db: Database, runs: Sequence[RunKey] | None = None) -> list[Call]:
    """The oldest of them, of these runs or of all."""
    columns = "p.seq, p.team, p.run_uid, p.keys, p.steps, p.times, p.points"
    if runs is None:
        rows = await db.fetch(
            f"SELECT {columns} FROM pending_points p ORDER BY p.seq LIMIT {_AT_ONCE}"  # noqa: S608
        )
    else:
        rows = await db.fetch(
            f"SELECT {columns} FROM pending_points p"  # noqa: S608
            " JOIN unnest($1::text[], $2::text[]) AS k (team, uid) ON p.team = k.team AND p.run_uid = k.uid"
            f" ORDER BY p.seq LIMIT {_AT_ONCE}",
            [run.team for run in runs],
            [run.uid for run in runs],
        )
    return [_call(row) for row in rows]


async def remove(conn: Any, calls: Sequence[Call]) -> None:
    """Forgets what was settled."""
    await conn.execute(
        "DELETE FROM pending_points WHERE seq = ANY($1::bigint[])", [call.seq for call in calls]
    )


def _call(row: Row) -> Call:
    seq, team, run, *columns = row
    return Call(seq, RunKey(team, run), *columns)
