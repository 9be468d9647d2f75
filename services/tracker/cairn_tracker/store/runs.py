"""Runs, experiments and attempts in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from cairn_common.db import Row
from cairn_common.ids import new_uid
from cairn_tracker.batch import RunKey
from cairn_tracker.changes import RunChange, experiment_id
from cairn_tracker.model import (
    Attempt,
    Code,
    JobFact,
    Origin,
    OriginKind,
    Run,
    RunState,
    Summary,
    run_state,
)

#: Metrics of a run that lists and facts carry at most, in alphabetical order.
MOST_SUMMARIES_IN_LISTS = 100
#: As many of them as an answer with one run takes.
MOST_SUMMARIES = 20_000


class Reads(Protocol):
    """A database or a connection."""

    async def fetch(self, query: str, *args: Any) -> list[Row]: ...


@dataclass(frozen=True, slots=True)
class Experiment:
    """A named group of runs."""

    team: str
    id: str
    uid: str
    display_name: str
    create_time: datetime
    update_time: datetime
    run_count: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which runs of a team."""

    team: str
    experiment: str = ""
    sweep: str = ""
    states: Sequence[int] = ()


COLUMNS = """
team, uid, display_name, create_time, update_time, state, revision, creator, experiment, has_job, sweep,
params, tags, command, environment, code_digest, code_size, git_commit, git_branch, git_diff,
start_time, end_time, cause, message, complete, last_seen, run_group AS "group", notes, axes, labels, origin,
rejected_points, dropped_points, points_drop_time, lines_drop_time
"""

#: Of a run in a list: without what can be long, and no list shows.
LISTED = COLUMNS.replace(" environment,", " '{}'::jsonb AS environment,").replace(
    " git_diff,", " '' AS git_diff,"
)

_GET = f"SELECT {COLUMNS} FROM runs WHERE team = $1 AND uid = ANY($2::text[])"  # noqa: S608

_ATTEMPTS = """
SELECT run_uid, number, uid, state, cause, resumed_step, start_time, end_time, drained FROM attempts
WHERE team = $1 AND run_uid = ANY($2::text[]) ORDER BY number
"""

# Said twice it counts once; it is the last word when every runner has said it.
_DRAINED = """
INSERT INTO attempts AS a (team, run_uid, number, drained_ranks, drained)
VALUES ($1, $2, $3, ARRAY[$4::integer], $5::integer <= 1)
ON CONFLICT (team, run_uid, number) DO UPDATE SET
    drained_ranks = array_remove(a.drained_ranks, $4) || $4::integer,
    drained = a.drained OR cardinality(array_remove(a.drained_ranks, $4)) + 1 >= $5
"""

_OF_RUN = """
SELECT s.run_uid, s.key, s.last, s.last_step, s.last_time, s.count, s.min, s.min_step, s.max, s.max_step
FROM summaries s WHERE s.team = $1 AND s.run_uid = r.uid
    AND (cardinality($4::text[]) = 0 OR s.key = ANY($4::text[]))
"""
# What the machine did comes behind what the program measured, where that leaves room. Of a run with very many
# metrics no more are read than are wanted: the key's index has them in order.
_SUMMARIES = f"""
SELECT m.run_uid, m.key, m.last, m.last_step, m.last_time, m.count, m.min, m.min_step, m.max, m.max_step
FROM unnest($2::text[]) AS r (uid) CROSS JOIN LATERAL (
    WITH own AS MATERIALIZED (
        {_OF_RUN} AND NOT starts_with(s.key, 'system/') ORDER BY s.key LIMIT $3::integer)
    TABLE own
    UNION ALL
    -- Not by an index of keys alone, which all runs are in.
    ({_OF_RUN} AND starts_with(s.key || '', 'system/') ORDER BY s.key
        LIMIT $3::integer - (SELECT count(*) FROM own))
) m ORDER BY m.key
"""  # noqa: S608

_UPSERT_JOB = """
INSERT INTO runs (team, uid, display_name, create_time, update_time, state, creator, experiment, has_job,
    job_revision, sweep, params, command, code_digest, code_size, git_commit, git_branch, git_diff,
    start_time, end_time, cause, message, origin)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, true, $9, $10, $11::jsonb, $12, $13, $14, $15, $16, $17, $18, $19,
    $20, $21, $22::jsonb)
ON CONFLICT (team, uid) DO UPDATE SET
    -- Once it is known, its name is the users' to change.
    display_name = CASE WHEN runs.job_revision = 0 THEN EXCLUDED.display_name ELSE runs.display_name END,
    create_time = EXCLUDED.create_time, update_time = EXCLUDED.update_time, state = EXCLUDED.state,
    revision = runs.revision + 1, creator = EXCLUDED.creator, experiment = EXCLUDED.experiment,
    has_job = true, job_revision = EXCLUDED.job_revision, sweep = EXCLUDED.sweep,
    -- What the command itself said of its params holds.
    params = EXCLUDED.params || runs.params,
    command = CASE WHEN runs.command = '' THEN EXCLUDED.command ELSE runs.command END,
    code_digest = EXCLUDED.code_digest, code_size = EXCLUDED.code_size, git_commit = EXCLUDED.git_commit,
    git_branch = EXCLUDED.git_branch, git_diff = EXCLUDED.git_diff,
    start_time = EXCLUDED.start_time, end_time = EXCLUDED.end_time, cause = EXCLUDED.cause,
    message = EXCLUDED.message, origin = EXCLUDED.origin
WHERE runs.job_revision < EXCLUDED.job_revision
RETURNING xmax = 0 AS created
"""

_UPSERT_ATTEMPTS = """
INSERT INTO attempts (team, run_uid, number, uid, state, cause, start_time, end_time)
SELECT $1, $2, number, uid, state, cause, start_time, end_time
FROM unnest($3::integer[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[])
    AS told (number, uid, state, cause, start_time, end_time)
ON CONFLICT (team, run_uid, number) DO UPDATE SET uid = EXCLUDED.uid, state = EXCLUDED.state,
    cause = EXCLUDED.cause, start_time = EXCLUDED.start_time, end_time = EXCLUDED.end_time
"""

_STUB = """
INSERT INTO runs (team, uid, create_time, update_time, state, experiment, has_job, start_time, display_name)
VALUES ($1, $2, $3, $3, $4, $5, $6, $7, $8) ON CONFLICT (team, uid) DO NOTHING RETURNING uid
"""

_APPLY = """
UPDATE runs SET
    revision = revision + 1, update_time = $3,
    params = params || $4::jsonb,
    tags = ARRAY(SELECT tag FROM unnest(tags || $5::text[]) WITH ORDINALITY AS t (tag, place)
                 GROUP BY tag ORDER BY min(place) LIMIT 100),
    command = CASE WHEN $6 = '' THEN command ELSE $6 END,
    environment = environment || $7::jsonb,
    run_group = coalesce($14, run_group), notes = coalesce($15, notes),
    axes = CASE WHEN (SELECT count(*) FROM jsonb_object_keys(axes || $16::jsonb)) > 100 THEN axes
                ELSE axes || $16::jsonb END,
    -- Of a run without a job only: a job has these of its own.
    experiment = CASE WHEN has_job OR $8 = '' THEN experiment ELSE $8 END,
    display_name = CASE WHEN has_job OR display_name <> '' THEN display_name ELSE $9 END,
    start_time = CASE WHEN has_job THEN start_time ELSE coalesce(start_time, $10) END,
    begin_time = greatest(begin_time, $10),
    state = CASE WHEN has_job THEN state WHEN late THEN $11 WHEN NOT (opens OR ends) OR failed THEN state
            WHEN ends THEN $11 ELSE 2 END,
    end_time = CASE WHEN has_job OR NOT (opens OR ends) THEN end_time ELSE $12 END,
    message = CASE WHEN has_job OR NOT (opens OR ends OR late) OR failed THEN message
              ELSE coalesce($13, '') END,
    complete = CASE WHEN has_job OR NOT (opens OR ends) THEN complete ELSE ends END
FROM (
    -- A run without a job that had ended goes on when it is started again, and ends again.
    SELECT coalesce(state >= 4 AND $10::timestamptz > end_time, false) AS opens,
        $11::smallint IS NOT NULL AND (state < 4 OR coalesce($12::timestamptz > end_time, false)) AS ends,
        -- One of its processes failed, and now another one ends well: it has failed.
        state = 5 AND coalesce($11::smallint = 4, false) AND NOT coalesce($10::timestamptz > end_time, false)
            AS failed,
        -- One of them had failed before another one ended well, and that is heard now.
        coalesce(state = 4 AND $11::smallint = 5 AND $12::timestamptz <= end_time
            AND $12::timestamptz >= greatest(begin_time, $10::timestamptz), false) AS late
    FROM runs WHERE team = $1 AND uid = $2) AS told
WHERE runs.team = $1 AND runs.uid = $2
"""

_EXPERIMENTS = """
SELECT e.team, e.id, e.uid, e.display_name, e.create_time, e.update_time,
    (SELECT count(*) FROM runs r WHERE r.team = e.team AND r.experiment = e.id AND r.delete_time IS NULL)
        AS run_count
FROM experiments e WHERE e.team = $1 AND e.id > $2 AND e.delete_time IS NULL ORDER BY e.id LIMIT $3
"""


async def get_runs(
    db: Reads,
    team: str,
    uids: Sequence[str],
    *,
    most_metrics: int = MOST_SUMMARIES,
    keys: Sequence[str] = (),
) -> list[Run]:
    """Those of a team's runs that exist, in the order asked for; of each so many metrics, of these keys
    (none: any)."""
    rows = await db.fetch(_GET, team, list(uids))
    found = {run.uid: run for run in await whole(db, team, rows, most_metrics=most_metrics, keys=keys)}
    return [found[uid] for uid in uids if uid in found]


async def get_run(db: Reads, team: str, uid: str, *, most_metrics: int = MOST_SUMMARIES) -> Run | None:
    """A run, if the team has it."""
    found = await get_runs(db, team, [uid], most_metrics=most_metrics)
    return found[0] if found else None


async def list_experiments(db: Reads, team: str, *, after: str, limit: int) -> list[Experiment]:
    """Experiments by id, from the one after `after`."""
    return [Experiment(**dict(row)) for row in await db.fetch(_EXPERIMENTS, team, after, limit)]


async def ensure_experiment(conn: Any, team: str, id: str, now: datetime) -> None:
    """Makes the experiment if it is new."""
    await conn.execute(
        # The name may have been given to another one.
        "INSERT INTO experiments (team, id, uid, create_time, update_time, number, display_name)"
        " SELECT $1::text, $2::text, $3, $4, $4, number, CASE WHEN $2 = 'default' THEN 'Default'"
        " WHEN EXISTS (SELECT FROM experiments WHERE team = $1 AND display_name = $2 AND id <> $2)"
        " THEN $2 || '-' || number ELSE $2 END"
        " FROM (SELECT CASE WHEN $2 = 'default' THEN 0 ELSE experiment_number() END AS number) made"
        " WHERE NOT EXISTS (SELECT FROM experiments WHERE team = $1 AND id = $2)"
        " ON CONFLICT DO NOTHING",
        team,
        id,
        new_uid(),
        now,
    )


async def apply_job(conn: Any, job: JobFact, now: datetime) -> bool | None:
    """Brings a run up to its job. True: the run is new; False: changed; None: this was known already."""
    await ensure_experiment(conn, job.team, job.experiment, now)
    row = await conn.fetchrow(
        _UPSERT_JOB,
        job.team,
        job.uid,
        job.display_name,
        job.create_time,
        now,
        int(run_state(job.state, len(job.attempts))),
        job.creator,
        job.experiment,
        job.revision,
        job.sweep,
        json.dumps(job.params),
        job.command,
        job.code.digest,
        job.code.size,
        job.code.git_commit,
        job.code.git_branch,
        job.code.git_diff,
        job.start_time,
        job.end_time,
        job.cause,
        job.message,
        json.dumps(asdict(job.origin) if job.origin else {}),
    )
    if row is None:
        return None
    await conn.execute(
        _UPSERT_ATTEMPTS,
        job.team,
        job.uid,
        [attempt.number for attempt in job.attempts],
        [attempt.uid for attempt in job.attempts],
        [attempt.state for attempt in job.attempts],
        [attempt.cause for attempt in job.attempts],
        [attempt.start_time for attempt in job.attempts],
        [attempt.end_time for attempt in job.attempts],
    )
    return bool(row["created"])


async def ensure_run(conn: Any, key: RunKey, change: RunChange, now: datetime) -> bool:
    """Makes a run that its own events tell of first; whether it is new."""
    experiment = experiment_id(change.experiment) if change.experiment and not change.has_job else "default"
    start = None if change.has_job else change.started or change.seen or now
    state = RunState.PENDING if change.has_job else RunState.RUNNING
    name = "" if change.has_job else change.display_name
    time = change.started or change.seen or now
    made = await conn.fetchval(
        _STUB, key.team, key.uid, time, int(state), experiment, change.has_job, start, name
    )
    if made is not None:
        await ensure_experiment(conn, key.team, experiment, now)
    return made is not None


async def lock_runs(conn: Any, keys: Sequence[RunKey]) -> dict[RunKey, int]:
    """Holds runs to the end of the transaction; returns their counts of lines."""
    rows = await conn.fetch(
        "SELECT r.team, r.uid, r.line_count FROM runs r"
        " JOIN unnest($1::text[], $2::text[]) AS k (team, uid) ON r.team = k.team AND r.uid = k.uid"
        " ORDER BY r.team, r.uid FOR UPDATE OF r",
        [key.team for key in keys],
        [key.uid for key in keys],
    )
    return {RunKey(row["team"], row["uid"]): row["line_count"] for row in rows}


async def apply_change(conn: Any, key: RunKey, change: RunChange, now: datetime) -> None:
    """Writes what a run's own events say of it."""
    experiment = experiment_id(change.experiment) if change.experiment and not change.has_job else ""
    if experiment:
        await ensure_experiment(conn, key.team, experiment, now)
    end = change.finished
    state = None if end is None else int(RunState.SUCCEEDED if end.succeeded else RunState.FAILED)
    await conn.execute(
        _APPLY,
        key.team,
        key.uid,
        now,
        json.dumps(change.params),
        change.tags,
        change.command,
        json.dumps(change.environment),
        experiment,
        change.display_name,
        change.started,
        state,
        end.time if end else None,
        end.message if end else None,
        change.group,
        change.notes,
        json.dumps(change.axes),
    )
    for resumed in change.resumed:
        if resumed.attempt > 0:
            await conn.execute(
                "INSERT INTO attempts (team, run_uid, number, uid, resumed_step) VALUES ($1, $2, $3, $4, $5)"
                " ON CONFLICT (team, run_uid, number) DO UPDATE SET resumed_step = EXCLUDED.resumed_step",
                *(key.team, key.uid, resumed.attempt, resumed.attempt_uid, resumed.step),
            )
    for word in change.drained:
        if word.attempt > 0:
            await conn.execute(_DRAINED, key.team, key.uid, word.attempt, word.rank, word.runners)


async def see(conn: Any, times: Mapping[RunKey, datetime | None]) -> None:
    """Notes when runs were last heard from. It makes no revision."""
    await conn.execute(
        "UPDATE runs SET last_seen = greatest(last_seen, k.time)"
        " FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS k (team, uid, time)"
        " WHERE runs.team = k.team AND runs.uid = k.uid",
        [key.team for key in times],
        [key.uid for key in times],
        list(times.values()),
    )


async def complete(conn: Any, key: RunKey, now: datetime) -> None:
    """Notes that nothing more will come for a run."""
    await conn.execute(
        "UPDATE runs SET complete = true, revision = revision + 1, update_time = $3"
        " WHERE team = $1 AND uid = $2 AND NOT complete",
        *(key.team, key.uid, now),
    )


async def incomplete(db: Reads, before: datetime, *, limit: int) -> list[RunKey]:
    """Runs that ended before a time, and still wait for their last attempt's last word."""
    rows = await db.fetch(
        "SELECT team, uid FROM runs WHERE NOT complete AND state >= 4 AND end_time <= $1"
        " ORDER BY end_time LIMIT $2",
        *(before, limit),
    )
    return [RunKey(row["team"], row["uid"]) for row in rows]


async def create(conn: Any, run: Run, *, request_id: str, request_digest: bytes) -> bool:
    """Makes a run without a job, or takes over one that only its own events told of; whether it did."""
    await ensure_experiment(conn, run.team, run.experiment, run.create_time)
    row = await conn.fetchrow(
        "INSERT INTO runs (team, uid, display_name, create_time, update_time, state, creator, experiment,"
        " has_job, params, tags, command, environment, start_time, request_id, run_group, notes,"
        " request_digest)"
        " VALUES ($1, $2, $3, $4, $4, $5, $6, $7, false, $8::jsonb, $9, $10, $11::jsonb, $4, $12, $13, $14,"
        " $15)"
        " ON CONFLICT (team, uid) DO UPDATE SET creator = EXCLUDED.creator,"
        " revision = runs.revision + 1, experiment = EXCLUDED.experiment,"
        " display_name = CASE WHEN runs.display_name = '' THEN EXCLUDED.display_name"
        "   ELSE runs.display_name END,"
        " params = EXCLUDED.params || runs.params, request_id = EXCLUDED.request_id,"
        " request_digest = EXCLUDED.request_digest"
        " WHERE runs.creator = '' AND NOT runs.has_job"
        " RETURNING uid",
        *(run.team, run.uid, run.display_name, run.create_time, int(run.state), run.creator, run.experiment),
        *(json.dumps(dict(run.params)), list(run.tags), run.command, json.dumps(dict(run.environment))),
        *(request_id, run.group, run.notes, request_digest),
    )
    return row is not None


async def by_request(db: Reads, team: str, creator: str, request_id: str) -> tuple[str, bytes | None] | None:
    """The uid of the run that a caller made with this request_id, and the digest of that request."""
    rows = await db.fetch(
        "SELECT uid, request_digest FROM runs WHERE team = $1 AND creator = $2 AND request_id = $3",
        *(team, creator, request_id),
    )
    return (rows[0]["uid"], rows[0]["request_digest"]) if rows else None


async def update(
    conn: Any,
    key: RunKey,
    *,
    display_name: str | None,
    tags: Sequence[str] | None,
    group: str | None,
    notes: str | None,
    revision: int | None,
    now: datetime,
) -> bool:
    """Changes what is not None, where the run still has this revision (None: any); whether it did."""
    row = await conn.fetchrow(
        "UPDATE runs SET display_name = coalesce($3, display_name), tags = coalesce($4::text[], tags),"
        " run_group = coalesce($7, run_group), notes = coalesce($8, notes),"
        " revision = revision + 1, update_time = $6"
        " WHERE team = $1 AND uid = $2 AND ($5::bigint IS NULL OR revision = $5) RETURNING uid",
        *(key.team, key.uid, display_name, None if tags is None else list(tags), revision, now, group, notes),
    )
    return row is not None


async def line_count(db: Reads, team: str, uid: str) -> tuple[int, bool] | None:
    """How many lines a run has, and whether that is all of them; None without the run."""
    rows = await db.fetch("SELECT line_count, complete FROM runs WHERE team = $1 AND uid = $2", team, uid)
    return (rows[0]["line_count"], rows[0]["complete"]) if rows else None


async def cursor(db: Reads, name: str) -> datetime | None:
    """How far a neighbour's changes were read."""
    rows = await db.fetch("SELECT time FROM cursors WHERE name = $1", name)
    return rows[0]["time"] if rows else None


async def move_cursor(db: Any, name: str, time: datetime) -> None:
    """Notes how far a neighbour's changes were read; never backwards."""
    await db.execute(
        "INSERT INTO cursors (name, time) VALUES ($1, $2)"
        " ON CONFLICT (name) DO UPDATE SET time = greatest(cursors.time, EXCLUDED.time)",
        *(name, time),
    )


async def whole(
    db: Reads,
    team: str,
    rows: Sequence[Row] | Sequence[Mapping[str, Any]],
    *,
    most_metrics: int,
    keys: Sequence[str] = (),
) -> list[Run]:
    """Runs of their rows, with their attempts and so many metrics of each (of these keys; none: any)."""
    uids = [row["uid"] for row in rows]
    attempts: dict[str, list[Attempt]] = {}
    summaries: dict[str, dict[str, Summary]] = {}
    if uids:
        for row in await db.fetch(_ATTEMPTS, team, uids):
            values = dict(row)
            attempts.setdefault(values.pop("run_uid"), []).append(Attempt(**values))
        # Ten thousand of them on one page: no dict for each.
        for row in await db.fetch(_SUMMARIES, team, uids, most_metrics, list(keys)):
            run_uid, key, last, last_step, last_time, count, least, least_step, most, most_step = row
            summaries.setdefault(run_uid, {})[key] = Summary(
                last, last_step, count, least, least_step, most, most_step, last_time=last_time
            )
    return [_run(row, attempts.get(row["uid"], []), summaries.get(row["uid"], {})) for row in rows]


def _run(row: Row | Mapping[str, Any], attempts: Sequence[Attempt], summary: dict[str, Summary]) -> Run:
    values = dict(row)
    code = Code(
        digest=values.pop("code_digest"),
        size=values.pop("code_size"),
        git_commit=values.pop("git_commit"),
        git_branch=values.pop("git_branch"),
        git_diff=values.pop("git_diff"),
    )
    values["state"] = RunState(values["state"])
    for name in ("params", "environment", "axes", "labels", "origin"):
        # Of most runs there is nothing in most of them.
        values[name] = {} if values[name] == "{}" else json.loads(values[name])
    origin = values["origin"]
    values["origin"] = Origin(**{**origin, "kind": OriginKind(origin["kind"])}) if origin else None
    return Run(**values, code=code, attempts=attempts, summary=summary)
