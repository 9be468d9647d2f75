"""All SQL of the scheduler, beside the functions that run it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import Aborted, Reason
from cairn_scheduler import facts
from cairn_scheduler.facts import Event
from cairn_scheduler.model import (
    Attempt,
    AttemptState,
    Cause,
    Code,
    Dependency,
    Environment,
    Hold,
    Job,
    Mount,
    Resources,
    Spec,
    State,
)
from cairn_scheduler.origin import Origin, OriginKind

_SELECT = """
    SELECT j.uid, j.team, j.sweep_uid, j.display_name, j.creator, j.experiment, j.priority, j.state,
    j.revision,
    j.reason, j.cause, j.message, j.task, j.setup, j.run, j.envs, j.params, j.num_nodes, j.cpu_milli, j.gpus,
    j.accelerator, j.memory_mib, j.max_retries, j.max_runtime, j.grace, j.code_digest, j.code_size,
    j.git_commit, j.git_branch, j.git_diff, j.environment, j.admissions, j.pool, j.create_time, j.update_time,
    j.cancel_time, j.start_time, j.end_time, j.retry_time, j.retries, j.infra, j.secrets, j.mounts,
    j.hold, j.checkpoint_time, j.project, j.priority_class, j.flavors, j.flavor, j.admit_time,
    j.preempted_for, j.preempt_time, j.after, j.origin,
    ARRAY(SELECT a FROM attempts a WHERE a.job_uid = j.uid ORDER BY a.number) AS attempts,
    j.request_digest
    FROM jobs j
"""


@dataclass(frozen=True, slots=True)
class Request:
    """The idempotency of a create: the caller's id (empty: none), and what the request was."""

    id: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep's own row."""

    uid: str
    team: str
    display_name: str
    creator: str
    experiment: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs to list. `after` is the last one seen: (time, uid) in the order of the listing."""

    team: str | None
    states: Sequence[State] = ()
    experiment: str = ""
    sweep: str = ""
    updated_after: datetime | None = None
    after: tuple[datetime, str] | None = None
    admitted: bool = False


@dataclass(frozen=True, slots=True)
class ActiveAttempt:
    """An attempt that may run, and what of its job says whether it shall."""

    uid: str
    job_uid: str
    cluster: str
    state: AttemptState
    job_state: State
    cancel_time: datetime | None
    # Seconds.
    max_runtime: float | None
    grace: float
    start_time: datetime | None


@dataclass(frozen=True, slots=True)
class OpenAttempt:
    """An attempt for which something is left to do: it runs, or its end is not tidied up."""

    uid: str
    number: int
    team: str
    job_uid: str
    cluster: str
    active: bool
    create_time: datetime
    end_time: datetime | None
    token_uid: str


async def insert_sweep(conn: Connection, sweep: Sweep, *, request: Request) -> bool:
    """Adds a sweep's own row. False: its request_id was used already, and nothing was added."""
    tag = await conn.execute(
        """
        INSERT INTO sweeps (uid, team, request_id, request_digest, display_name, creator, experiment,
            create_time)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (team, request_id) WHERE request_id <> '' DO NOTHING
        """,
        sweep.uid, sweep.team, request.id, request.digest, sweep.display_name, sweep.creator,
        sweep.experiment, sweep.create_time,
    )  # fmt: skip
    return tag != "INSERT 0 0"


async def save(conn: Connection, old: Job, new: Job, event: Event, *, actor: str = facts.SELF) -> Job:
    """Writes the next revision of a job, its changed attempts, and the fact that tells of it.

    Raises Aborted (CONFLICT) where the job is no longer the `old` one; nothing is written then.
    """
    tag = await conn.execute(
        """
        UPDATE jobs SET state = $3, revision = $4, reason = $5, cause = $6, message = $7, admissions = $8,
            pool = $9, update_time = $10, cancel_time = $11, start_time = $12, end_time = $13,
            retry_time = $14, hold = $15, checkpoint_time = $16, flavor = $17,
            admit_time = $18, preempted_for = $19, preempt_time = $20
        WHERE uid = $1 AND revision = $2
        """,
        old.uid, old.revision, new.state.value, new.revision, new.reason, new.cause, new.message,
        new.admissions, new.pool, new.update_time, new.cancel_time, new.start_time, new.end_time,
        new.retry_time, new.hold or "", new.checkpoint_time, new.flavor, new.admit_time, new.preempted_for,
        new.preempt_time,
    )  # fmt: skip
    if tag != "UPDATE 1":
        raise Aborted(f"job {old.uid} was changed in the same moment; try again", reason=Reason.CONFLICT)
    for attempt in new.attempts:
        if attempt not in old.attempts:
            await _save_attempt(conn, new.uid, attempt)
    await facts.tell(conn, new, event, actor=actor, now=new.update_time)
    return new


async def _save_attempt(conn: Connection, job_uid: str, attempt: Attempt) -> None:
    await conn.execute(
        """
        INSERT INTO attempts (uid, job_uid, number, state, cluster, cause, exit_code, signal, message,
            create_time, start_time, end_time, pids, no_capacity, yielded, circuits, price_micros)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
        ON CONFLICT (uid) DO UPDATE SET state = $4, cause = $6, exit_code = $7, signal = $8, message = $9,
            start_time = $11, end_time = $12, pids = $13, no_capacity = $14, yielded = $15,
            price_micros = $17
        """,
        attempt.uid, job_uid, attempt.number, attempt.state.value, attempt.cluster, attempt.cause,
        attempt.exit_code, attempt.signal, attempt.message, attempt.create_time, attempt.start_time,
        attempt.end_time, list(attempt.pids), attempt.no_capacity, attempt.yielded,
        list(attempt.circuits), attempt.price,
    )  # fmt: skip


async def job(db: Database, *, team: str, uid: str) -> Job | None:
    """One job of a team, whole."""
    row = await db.fetchrow(_SELECT + "WHERE j.uid = $1 AND j.team = $2", uid, team)
    return None if row is None else _job(row)


async def jobs_of_attempts(db: Database, attempt_uids: Sequence[str]) -> dict[str, Job]:
    """The jobs that attempts belong to, by attempt; without those that there are not."""
    rows = await db.fetch(
        _SELECT + "WHERE j.uid IN (SELECT t.job_uid FROM attempts t WHERE t.uid = ANY($1::text[]))",  # noqa: S608
        list(attempt_uids),
    )
    wanted = set(attempt_uids)
    jobs = [_job(row) for row in rows]
    return {one.uid: job for job in jobs for one in job.attempts if one.uid in wanted}


async def jobs_by_uid(db: Database, uids: Sequence[str]) -> dict[str, Job]:
    """These jobs, those that there are."""
    rows = await db.fetch(_SELECT + "WHERE j.uid = ANY($1::text[])", list(uids))
    return {row["uid"]: _job(row) for row in rows}


async def active_attempts(db: Database, *, whole: bool, overdue: datetime) -> list[ActiveAttempt]:
    """The attempts that may run, those of the oldest jobs first; not `whole`: without those that run as they
    should. Overdue are those whose longest run and grace were over before `overdue`."""
    rows = await db.fetch(
        """
        SELECT a.uid, a.job_uid, a.cluster, a.state, j.state AS job_state, j.cancel_time, j.max_runtime,
            j.grace, a.start_time
        FROM jobs j JOIN attempts a ON a.job_uid = j.uid AND a.state IN ('LAUNCHING', 'RUNNING')
        WHERE j.end_time IS NULL AND j.state IN ('LAUNCHING', 'RUNNING', 'PREEMPTING')
            AND ($1 OR j.state <> 'RUNNING' OR j.cancel_time IS NOT NULL
                OR a.start_time + make_interval(secs => j.max_runtime + j.grace) < $2)
        ORDER BY j.create_time, j.uid
        """,
        whole,
        overdue,
    )
    return [
        ActiveAttempt(
            uid=row["uid"],
            job_uid=row["job_uid"],
            cluster=row["cluster"],
            state=AttemptState(row["state"]),
            job_state=State(row["job_state"]),
            cancel_time=row["cancel_time"],
            max_runtime=row["max_runtime"],
            grace=row["grace"],
            start_time=row["start_time"],
        )
        for row in rows
    ]


async def list_jobs(db: Database, chosen: Filter, *, limit: int) -> list[Job]:
    """A page: newest first, or with `updated_after` the oldest change first."""
    time, order, beyond = (
        ("j.update_time", "ASC", ">") if chosen.updated_after else ("j.create_time", "DESC", "<")
    )
    rows = await db.fetch(
        f"""
        {_SELECT}
        WHERE ($1::text IS NULL OR j.team = $1)
          AND ($2::text[] = '{{}}' OR j.state = ANY($2))
          AND ($3 = '' OR j.experiment = $3)
          AND ($4 = '' OR j.sweep_uid = $4)
          AND ($5::timestamptz IS NULL OR j.update_time > $5)
          AND ($6::timestamptz IS NULL OR ({time}, j.uid) {beyond} ($6, $7::text))
          AND (NOT $8 OR j.admissions > 0)
        ORDER BY {time} {order}, j.uid {order} LIMIT $9
        """,
        chosen.team,
        [state.value for state in chosen.states],
        chosen.experiment,
        chosen.sweep,
        chosen.updated_after,
        chosen.after[0] if chosen.after else None,
        chosen.after[1] if chosen.after else "",
        chosen.admitted,
        limit,
    )
    return [_job(row) for row in rows]


async def job_by_request(db: Database, *, team: str, request_id: str) -> tuple[Job, bytes] | None:
    """The job that a request_id made, and the digest of that request."""
    row = await db.fetchrow(
        _SELECT + "WHERE j.team = $1 AND j.request_id = $2",
        team,
        request_id,
    )
    return None if row is None else (_job(row), row["request_digest"])


async def sweep_by_request(db: Database, *, team: str, request_id: str) -> tuple[Sweep, bytes] | None:
    """The sweep that a request_id made, and the digest of that request."""
    row = await db.fetchrow(
        "SELECT uid, team, display_name, creator, experiment, create_time, request_digest FROM sweeps"
        " WHERE team = $1 AND request_id = $2",
        team,
        request_id,
    )
    return None if row is None else (_sweep(row), row["request_digest"])


async def sweep(db: Database, *, team: str, uid: str) -> Sweep | None:
    """One sweep of a team."""
    row = await db.fetchrow(
        "SELECT uid, team, display_name, creator, experiment, create_time FROM sweeps"
        " WHERE uid = $1 AND team = $2",
        uid,
        team,
    )
    return None if row is None else _sweep(row)


async def sweep_jobs(db: Database, uid: str) -> list[Job]:
    """A sweep's jobs in the order of the grid."""
    rows = await db.fetch(
        _SELECT + "WHERE j.sweep_uid = $1 ORDER BY j.sweep_index",
        uid,
    )
    return [_job(row) for row in rows]


async def explain(conn: Connection, reasons: Mapping[str, str]) -> None:
    """Says why jobs are pending. A reason is a remark, not a step: it makes no new revision."""
    await conn.execute(
        """
        UPDATE jobs SET reason = told.reason
        FROM unnest($1::text[], $2::text[]) AS told (uid, reason)
        WHERE jobs.uid = told.uid AND jobs.state = 'PENDING' AND jobs.reason <> told.reason
        """,
        list(reasons.keys()),
        list(reasons.values()),
    )


async def count_overtaken(conn: Connection, counts: Mapping[str, int]) -> None:
    """Notes how often waiting jobs were passed."""
    await conn.execute(
        """
        UPDATE jobs SET overtaken = told.overtaken
        FROM unnest($1::text[], $2::integer[]) AS told (uid, overtaken)
        WHERE jobs.uid = told.uid AND jobs.state = 'PENDING'
        """,
        list(counts.keys()),
        list(counts.values()),
    )


async def open_attempts(db: Database, *, ended: bool = False) -> list[OpenAttempt]:
    """The attempts for which something is left to do, oldest first; `ended`: only of those that have."""
    rows = await db.fetch(
        """
        SELECT a.uid, a.number, j.team, a.job_uid, a.cluster, a.state, a.create_time, a.end_time, a.token_uid
        FROM attempts a JOIN jobs j ON j.uid = a.job_uid
        WHERE a.close_time IS NULL AND (NOT $1 OR a.end_time IS NOT NULL) ORDER BY a.create_time
        """,
        ended,
    )
    return [
        OpenAttempt(
            uid=row["uid"],
            number=row["number"],
            team=row["team"],
            job_uid=row["job_uid"],
            cluster=row["cluster"],
            active=AttemptState(row["state"]).active,
            create_time=row["create_time"],
            end_time=row["end_time"],
            token_uid=row["token_uid"],
        )
        for row in rows
    ]


async def close_attempts(conn: Connection, attempt_uids: Sequence[str], *, now: datetime) -> None:
    """Nothing is left to do for these attempts."""
    await conn.execute(
        "UPDATE attempts SET close_time = $2, token_uid = '' WHERE uid = ANY($1::text[])"
        " AND end_time IS NOT NULL",
        list(attempt_uids),
        now,
    )


def _sweep(row: Row) -> Sweep:
    return Sweep(
        uid=row["uid"],
        team=row["team"],
        display_name=row["display_name"],
        creator=row["creator"],
        experiment=row["experiment"],
        create_time=row["create_time"],
    )


def _resources(row: Row) -> Resources:
    return Resources(row["cpu_milli"], row["gpus"], row["accelerator"], row["memory_mib"])


def _job(row: Row) -> Job:
    return Job(
        uid=row["uid"],
        team=row["team"],
        state=State(row["state"]),
        revision=row["revision"],
        creator=row["creator"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        spec=_spec(row),
        display_name=row["display_name"],
        experiment=row["experiment"],
        sweep=row["sweep_uid"],
        code=Code(
            row["code_digest"], row["code_size"], row["git_commit"], row["git_branch"], row["git_diff"]
        ),
        priority=row["priority"],
        reason=row["reason"],
        cause=_cause(row["cause"]),
        message=row["message"],
        attempts=tuple(_attempt(one) for one in row["attempts"]),
        cancel_time=row["cancel_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        retry_time=row["retry_time"],
        admissions=row["admissions"],
        pool=row["pool"],
        hold=Hold(row["hold"]) if row["hold"] else None,
        checkpoint_time=row["checkpoint_time"],
        project=row["project"],
        priority_class=row["priority_class"],
        flavors=tuple(row["flavors"]),
        flavor=row["flavor"],
        admit_time=row["admit_time"],
        preempted_for=row["preempted_for"],
        preempt_time=row["preempt_time"],
        after=tuple(Dependency(**one) for one in json.loads(row["after"])),
    )


def _spec(row: Row) -> Spec:
    return Spec(
        task=row["task"],
        setup=row["setup"],
        run=row["run"],
        envs=json.loads(row["envs"]),
        num_nodes=row["num_nodes"],
        resources=_resources(row),
        max_retries=row["max_retries"],
        retries={Cause(name): count for name, count in json.loads(row["retries"]).items()},
        max_runtime=row["max_runtime"],
        grace=row["grace"],
        params=json.loads(row["params"]),
        infra=row["infra"],
        secrets=tuple(row["secrets"]),
        mounts=tuple(Mount(**mount) for mount in json.loads(row["mounts"])),
        environment=_environment(json.loads(row["environment"])),
        origin=_origin(json.loads(row["origin"])),
    )


def _environment(value: dict[str, Any]) -> Environment | None:
    if not value:
        return None
    return Environment(**{**value, "requirements": tuple(value["requirements"])})


def _origin(value: dict[str, str]) -> Origin | None:
    return Origin(OriginKind(value["kind"]), value["job"], value["checkpoint"]) if value else None


def _environment_json(spec: Spec) -> str:
    return json.dumps(asdict(spec.environment) if spec.environment else {})


def _attempt(row: Row) -> Attempt:
    return Attempt(
        uid=row["uid"],
        number=row["number"],
        state=AttemptState(row["state"]),
        cluster=row["cluster"],
        create_time=row["create_time"],
        cause=_cause(row["cause"]),
        exit_code=row["exit_code"],
        signal=row["signal"],
        message=row["message"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        pids=tuple(row["pids"]),
        no_capacity=row["no_capacity"],
        close_time=row["close_time"],
        yielded=row["yielded"],
        circuits=tuple(row["circuits"]),
        price=row["price_micros"],
    )


def _cause(text: str | None) -> Cause | None:
    return None if text is None else Cause(text)
