"""Runs whose points and lines are older than the team's rules say, and what of them went, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cairn_tracker.batch import RunKey
from cairn_tracker.store.keeping import RecordRule
from cairn_tracker.store.runs import Reads

#: Numbers of `cairn.tracker.v1.Record`.
POINTS: Final = 1
LINES: Final = 2

# A run follows the rules of its experiment, else those for all. Its time begins when it was over, and anew
# with all that comes late; what has not come since it was looked at cannot go again. Points of a metric with
# few steps stay, so a run with no other metrics has nothing to lose.
_EXPIRED = """
WITH rules AS (
    SELECT * FROM unnest($2::smallint[], $3::text[], $4::float8[]) AS p (record, experiment, keep_for)),
over AS (
    SELECT r.team, r.uid, r.display_name, r.experiment, r.line_count, r.dropped_lines, r.points_looked,
        greatest(r.end_time, r.last_seen) AS quiet,
        max(p.keep_for) FILTER (WHERE p.record = 1) AS points_for,
        max(p.keep_for) FILTER (WHERE p.record = 2) AS lines_for
    FROM runs r JOIN LATERAL (
        SELECT DISTINCT ON (record) record, keep_for FROM rules
        WHERE rules.experiment IN ('', r.experiment) ORDER BY record, rules.experiment DESC) p ON true
    WHERE r.team = $1 AND r.state >= 4 AND r.uid > $6
        AND ($8::text[] IS NULL OR r.uid = ANY($8))
    GROUP BY r.team, r.uid),
due AS (
    SELECT over.*,
        (quiet < $5::timestamptz - points_for * interval '1 second'
            AND (points_looked IS NULL OR points_looked < quiet)
            AND NOT EXISTS (SELECT FROM pending_points w WHERE (w.team, w.run_uid) = (over.team, over.uid)))
            IS TRUE AS points_due,
        (quiet < $5::timestamptz - lines_for * interval '1 second' AND line_count > dropped_lines)
            IS TRUE AS lines_due
    FROM over)
SELECT uid, display_name, experiment, quiet, line_count AS last_line, points_due AS looked,
    CASE WHEN points_due THEN points ELSE 0 END AS points,
    CASE WHEN lines_due THEN line_count - dropped_lines ELSE 0 END AS lines
FROM due CROSS JOIN LATERAL (
    SELECT coalesce(sum(greatest(s.count - $9::bigint, 0)), 0)::bigint AS points
    FROM summaries s WHERE points_due AND (s.team, s.run_uid) = (due.team, due.uid)) there
WHERE lines_due OR points > 0 OR (points_due AND $10)
ORDER BY uid LIMIT $7
"""


@dataclass(frozen=True, slots=True)
class Expired:
    """A run of which something is due to go."""

    uid: str
    display_name: str
    experiment: str
    quiet: datetime
    # The number of its last line.
    last_line: int
    # Its points are old enough to go, if there are any that can.
    looked: bool
    # Steps whose points go, about, and lines; 0: none are due.
    points: int
    lines: int


@dataclass(frozen=True, slots=True)
class Lines:
    """How many lines a run has had, whether that is all of them, and up to which they were dropped."""

    count: int
    complete: bool
    dropped: int
    drop_time: datetime | None


async def expired(
    db: Reads,
    team: str,
    rules: Sequence[RecordRule],
    *,
    now: datetime,
    kept: int,
    after: str = "",
    limit: int,
    among: Collection[str] | None = None,
    all_old: bool = False,
) -> list[Expired]:
    """Runs (after a uid, among these) with something to go, or `all_old` that were not looked at yet. `kept`:
    points that are left of each metric."""
    rows = await db.fetch(
        _EXPIRED,
        team,
        [rule.record for rule in rules],
        [rule.experiment for rule in rules],
        [rule.keep_for for rule in rules],
        now,
        after,
        limit,
        None if among is None else list(among),
        kept,
        all_old,
    )
    return [Expired(**dict(row)) for row in rows]


async def teams_with_rules(db: Reads) -> list[str]:
    """Teams that let points or lines go, and those of which some are going."""
    rows = await db.fetch(
        "SELECT team FROM keeping WHERE records <> '[]'"
        " UNION SELECT team FROM runs WHERE drop_open ORDER BY team"
    )
    return [row["team"] for row in rows]


async def lock(conn: Any, team: str, uids: Collection[str]) -> None:
    """Holds runs as they are to the end of the transaction."""
    await conn.execute(
        "SELECT FROM runs WHERE team = $1 AND uid = ANY($2::text[]) ORDER BY uid FOR UPDATE", team, list(uids)
    )


async def drop(conn: Any, team: str, found: Sequence[Expired], now: datetime) -> None:
    """Notes that points and lines of runs go; from here on nobody is told that they are there."""
    await conn.execute(
        "UPDATE runs r SET drop_open = drop_open OR k.points OR k.lines,"
        " revision = revision + (k.points OR k.lines)::int,"
        " update_time = CASE WHEN k.points OR k.lines THEN $2 ELSE update_time END,"
        " points_looked = CASE WHEN k.looked THEN $2 ELSE points_looked END,"
        " points_drop_time = CASE WHEN k.points THEN $2 ELSE points_drop_time END,"
        " lines_drop_time = CASE WHEN k.lines THEN $2 ELSE lines_drop_time END,"
        " dropped_lines = CASE WHEN k.lines THEN k.last_line ELSE dropped_lines END"
        " FROM unnest($3::text[], $4::bool[], $5::bool[], $6::bigint[], $7::bool[])"
        " AS k (uid, points, lines, last_line, looked)"
        " WHERE r.team = $1 AND r.uid = k.uid",
        team,
        now,
        [each.uid for each in found],
        [each.points > 0 for each in found],
        [each.lines > 0 for each in found],
        [each.last_line for each in found],
        [each.looked for each in found],
    )


async def open_drops(db: Reads, team: str) -> tuple[list[str], dict[str, int]]:
    """Runs whose points are to go from the store, and runs whose lines are, each with its last such line. A
    run that goes on, or of which something came since, keeps its points: they are due again later."""
    rows = await db.fetch(
        "SELECT uid, dropped_lines, (state >= 4 AND points_drop_time >= greatest(end_time, last_seen))"
        " IS TRUE AS points FROM runs WHERE team = $1 AND drop_open ORDER BY uid",
        team,
    )
    return (
        [row["uid"] for row in rows if row["points"]],
        {row["uid"]: row["dropped_lines"] for row in rows if row["dropped_lines"]},
    )


async def close_drops(db: Any, team: str, uids: Collection[str]) -> None:
    """Notes that what was to go is gone."""
    await db.execute(
        "UPDATE runs SET drop_open = false WHERE team = $1 AND uid = ANY($2::text[])", team, list(uids)
    )


async def thinned(db: Reads, runs: Collection[RunKey]) -> set[RunKey]:
    """Those of these runs whose points are not all there any more."""
    rows = await db.fetch(
        "SELECT r.team, r.uid FROM runs r JOIN unnest($1::text[], $2::text[]) AS k (team, uid)"
        " ON r.team = k.team AND r.uid = k.uid WHERE r.points_drop_time IS NOT NULL",
        [run.team for run in runs],
        [run.uid for run in runs],
    )
    return {RunKey(row["team"], row["uid"]) for row in rows}


async def lines(db: Reads, run: RunKey) -> Lines | None:
    """What is known of a run's lines; None without the run."""
    rows = await db.fetch(
        "SELECT line_count AS count, complete, dropped_lines AS dropped, lines_drop_time AS drop_time"
        " FROM runs WHERE team = $1 AND uid = $2",
        *run,
    )
    return Lines(**dict(rows[0])) if rows else None
