"""New jobs: their rows and facts, many in one statement."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cairn.scheduler.v1 import job_pb2
from cairn_common import outbox
from cairn_common.db import Connection, Database
from cairn_scheduler import facts
from cairn_scheduler.facts import Event
from cairn_scheduler.model import Job, State
from cairn_scheduler.store import Request


@dataclass(frozen=True, slots=True)
class New:
    """A job that comes, the request that it came by, and its place in a sweep.

    `message`: the job on the wire, where it was made before.
    """

    job: Job
    request: Request = field(default_factory=lambda: Request("", b""))
    actor: str = ""
    # Where who asked for it was.
    address: str = ""
    index: int = 0
    message: job_pb2.Job | None = None


async def insert_jobs(conn: Connection | Database, new: Sequence[New]) -> set[str]:
    """Adds jobs with their facts, in one statement, which needs no transaction around it; returns the uids of
    those that were added: a request_id makes one job."""
    columns = [[value(one) for one in new] for _, _, value in _COLUMNS]
    told = [facts.written(one.job, Event.SUBMITTED, actor=one.actor, message=one.message) for one in new]
    return {
        row["uid"]
        for row in await conn.fetch(_INSERT, *columns, *outbox.columns(told), [one.address for one in new])
    }


def _list(values: Sequence[str]) -> str:
    """An array as PostgreSQL writes it: there are no arrays of arrays of different lengths."""
    if not values:
        return "{}"
    return "{" + ",".join(json.dumps(value, ensure_ascii=False) for value in values) + "}"


def _map(values: Mapping[Any, Any]) -> str:
    """Most jobs have none of these."""
    return json.dumps(values) if values else "{}"


def _many(values: Sequence[Any]) -> str:
    return json.dumps([asdict(one) for one in values]) if values else "[]"


def _environment(job: Job) -> str:
    return _map(asdict(job.spec.environment) if job.spec.environment else {})


def _origin(job: Job) -> str:
    return _map(asdict(job.spec.origin) if job.spec.origin else {})


def _history(job: Job) -> str:
    """Of a job that begins in the queue the queue itself tells."""
    if job.state is not State.HELD:
        return "[]"
    begun = {"time": job.create_time.timestamp(), "state": job.state.value, "text": job.reason[:300]}
    return json.dumps([begun])


# Column, its type as it is sent (`text>x`: as text, for x), and what it holds.
_COLUMNS: tuple[tuple[str, str, Callable[[New], Any]], ...] = (
    ("uid", "text", lambda new: new.job.uid),
    ("team", "text", lambda new: new.job.team),
    ("request_id", "text", lambda new: new.request.id),
    ("request_digest", "bytea", lambda new: new.request.digest),
    ("sweep_uid", "text", lambda new: new.job.sweep),
    ("sweep_index", "integer", lambda new: new.index),
    ("display_name", "text", lambda new: new.job.display_name),
    ("creator", "text", lambda new: new.job.creator),
    ("experiment", "text", lambda new: new.job.experiment),
    ("priority", "integer", lambda new: new.job.priority),
    ("state", "text", lambda new: new.job.state.value),
    ("revision", "bigint", lambda new: new.job.revision),
    ("reason", "text", lambda new: new.job.reason),
    ("message", "text", lambda new: new.job.message),
    ("task", "text", lambda new: new.job.spec.task),
    ("setup", "text", lambda new: new.job.spec.setup),
    ("run", "text", lambda new: new.job.spec.run),
    ("envs", "text>jsonb", lambda new: _map(new.job.spec.envs)),
    ("params", "text>jsonb", lambda new: _map(new.job.spec.params)),
    ("num_nodes", "integer", lambda new: new.job.spec.num_nodes),
    ("cpu_milli", "bigint", lambda new: new.job.spec.resources.cpu_milli),
    ("gpus", "bigint", lambda new: new.job.spec.resources.gpus),
    ("accelerator", "text", lambda new: new.job.spec.resources.accelerator),
    ("memory_mib", "bigint", lambda new: new.job.spec.resources.memory_mib),
    ("max_retries", "integer", lambda new: new.job.spec.max_retries),
    ("max_runtime", "double precision", lambda new: new.job.spec.max_runtime),
    ("grace", "double precision", lambda new: new.job.spec.grace),
    ("code_digest", "text", lambda new: new.job.code.digest),
    ("code_size", "bigint", lambda new: new.job.code.size),
    ("git_commit", "text", lambda new: new.job.code.git_commit),
    ("git_branch", "text", lambda new: new.job.code.git_branch),
    ("git_diff", "text", lambda new: new.job.code.git_diff),
    ("environment", "text>jsonb", lambda new: _environment(new.job)),
    ("create_time", "timestamptz", lambda new: new.job.create_time),
    ("update_time", "timestamptz", lambda new: new.job.update_time),
    ("retries", "text>jsonb", lambda new: _map(new.job.spec.retries)),
    ("infra", "text", lambda new: new.job.spec.infra),
    ("secrets", "text>text[]", lambda new: _list(new.job.spec.secrets)),
    ("mounts", "text>jsonb", lambda new: _many(new.job.spec.mounts)),
    ("project", "text", lambda new: new.job.project),
    ("priority_class", "text", lambda new: new.job.priority_class),
    ("flavors", "text>text[]", lambda new: _list(new.job.flavors)),
    ("after", "text>jsonb", lambda new: _many(new.job.after)),
    ("origin", "text>jsonb", lambda new: _origin(new.job)),
    ("hold", "text", lambda new: new.job.hold or ""),
    ("history", "text>jsonb", lambda new: _history(new.job)),
)
_NAMES = ", ".join(name for name, _, _ in _COLUMNS)
_VALUES = ", ".join(
    f"n.{name}::{kind.partition('>')[2]}" if ">" in kind else f"n.{name}" for name, kind, _ in _COLUMNS
)
_ARRAYS = ", ".join(
    f"${number}::{kind.partition('>')[0]}[]" for number, (_, kind, _) in enumerate(_COLUMNS, start=1)
)
_FACTS = ", ".join(
    f"${number}::{kind}[]" for number, kind in enumerate(("text", "text", "bytea"), start=len(_COLUMNS) + 1)
)
# Where a job was made before, its fact was told before.
_INSERT = f"""
    WITH made AS (
        INSERT INTO jobs ({_NAMES}) SELECT {_VALUES} FROM unnest({_ARRAYS}) AS n ({_NAMES})
        ON CONFLICT (team, request_id) WHERE request_id <> '' DO NOTHING RETURNING uid
    ), told AS (
        INSERT INTO outbox (id, subject, payload, trace, address)
        SELECT f.id, f.subject, f.payload, ${len(_COLUMNS) + 4}, f.address
        FROM unnest({_FACTS}, $1::text[], ${len(_COLUMNS) + 5}::text[])
            WITH ORDINALITY AS f (id, subject, payload, uid, address, place)
        JOIN made USING (uid) ORDER BY f.place
    )
    SELECT uid FROM made
"""  # noqa: S608
