"""The SQL of steps of many jobs at once: rows, attempts and facts, a statement each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cairn_common import outbox
from cairn_common.db import Connection
from cairn_scheduler import facts
from cairn_scheduler.facts import Event
from cairn_scheduler.lease import LEAD, Lead
from cairn_scheduler.model import Attempt, Job

Step = tuple[Job, Job, Event]
"""A job as it was, its next revision, and what happened."""

_NONE: Mapping[str, str] = MappingProxyType({})


async def save_many(conn: Connection, steps: Sequence[Step]) -> set[str]:
    """Writes steps with their facts; returns the uids of the jobs of which all steps were written.

    A job that is no longer as it was read is left alone, as it is. Several steps of one job are written one
    after the other, in their order.
    """
    done = {new.uid for _, new, _ in steps}
    for whole in _layers(steps):
        # Who missed its first step has no second, though its number may fit what somebody else wrote.
        layer = [step for step in whole if step[1].uid in done]
        if not layer:
            break
        rows = await conn.fetch(_UPDATE, *_columns(_JOB, layer), [old.revision for old, _, _ in layer])
        written = {row["uid"] for row in rows}
        done -= {new.uid for _, new, _ in layer} - written
        taken = [step for step in layer if step[1].uid in written]
        attempts = [
            (new.uid, one) for old, new, _ in taken for one in new.attempts if one not in old.attempts
        ]
        if attempts:
            await conn.execute(_UPSERT, *_columns(_ATTEMPT, attempts))
        if taken:
            await facts.tell_many(conn, [(new, event) for _, new, event in taken], actor=facts.SELF)
    return done


async def save_alone(lead: Lead, steps: Sequence[Step], *, tokens: Mapping[str, str] = _NONE) -> set[str]:
    """As `save_many`, in a transaction of their own, which for one step of each job is one statement: of what
    a step costs, asking the database once more is the most. `tokens`: run tokens of attempts that begin, by
    attempt. Raises Fenced, Unavailable."""
    if not steps:
        return set()
    if len(_layers(steps)) > 1:
        async with lead.transaction() as conn:
            done = await save_many(conn, steps)
            begun = {one.uid for _, new, _ in steps if new.uid in done for one in new.attempts}
            await set_tokens(conn, {uid: token for uid, token in tokens.items() if uid in begun})
        return done
    attempts = [(new.uid, one) for old, new, _ in steps for one in new.attempts if one not in old.attempts]
    told = [facts.written(new, event, actor=facts.SELF) for _, new, event in steps]
    row = await lead.fetchrow(
        _ALONE,
        *_columns(_JOB, steps),
        [old.revision for old, _, _ in steps],
        *_columns(_ATTEMPT, attempts),
        [tokens.get(one.uid, "") for _, one in attempts],
        *outbox.columns(told),
    )
    return set(row["done"])


async def set_tokens(conn: Connection, tokens: Mapping[str, str]) -> None:
    """Notes which run token each attempt has; empty: none any more."""
    if tokens:
        await conn.execute(
            "UPDATE attempts SET token_uid = n.token FROM unnest($1::text[], $2::text[]) AS n (uid, token)"
            " WHERE attempts.uid = n.uid",
            list(tokens.keys()),
            list(tokens.values()),
        )


def _layers(steps: Sequence[Step]) -> list[list[Step]]:
    """The first step of each job, then the second of those that have one, and so on."""
    layers: list[list[Step]] = []
    depth: dict[str, int] = {}
    for step in steps:
        at = depth.get(step[1].uid, 0)
        depth[step[1].uid] = at + 1
        if at == len(layers):
            layers.append([])
        layers[at].append(step)
    return layers


def _columns(table: Sequence[tuple[str, str, Callable[[Any], Any]]], rows: Sequence[Any]) -> list[list[Any]]:
    return [[value(row) for row in rows] for _, _, value in table]


def _array(values: Sequence[str]) -> str:
    """An array as PostgreSQL writes it: there are no arrays of arrays of different lengths."""
    return "{" + ",".join(json.dumps(value, ensure_ascii=False) for value in values) + "}"


# Column, its type, and what it holds.
_JOB: tuple[tuple[str, str, Callable[[Step], Any]], ...] = (
    ("uid", "text", lambda step: step[1].uid),
    ("state", "text", lambda step: step[1].state.value),
    ("revision", "bigint", lambda step: step[1].revision),
    ("reason", "text", lambda step: step[1].reason),
    ("cause", "text", lambda step: step[1].cause),
    ("message", "text", lambda step: step[1].message),
    ("admissions", "integer", lambda step: step[1].admissions),
    ("pool", "text", lambda step: step[1].pool),
    ("update_time", "timestamptz", lambda step: step[1].update_time),
    ("cancel_time", "timestamptz", lambda step: step[1].cancel_time),
    ("start_time", "timestamptz", lambda step: step[1].start_time),
    ("end_time", "timestamptz", lambda step: step[1].end_time),
    ("retry_time", "timestamptz", lambda step: step[1].retry_time),
    ("hold", "text", lambda step: step[1].hold or ""),
    ("checkpoint_time", "timestamptz", lambda step: step[1].checkpoint_time),
    ("flavor", "text", lambda step: step[1].flavor),
    ("admit_time", "timestamptz", lambda step: step[1].admit_time),
    ("preempted_for", "text", lambda step: step[1].preempted_for),
    ("preempt_time", "timestamptz", lambda step: step[1].preempt_time),
)
_ATTEMPT: tuple[tuple[str, str, Callable[[tuple[str, Attempt]], Any]], ...] = (
    ("uid", "text", lambda row: row[1].uid),
    ("job_uid", "text", lambda row: row[0]),
    ("number", "integer", lambda row: row[1].number),
    ("cluster", "text", lambda row: row[1].cluster),
    ("create_time", "timestamptz", lambda row: row[1].create_time),
    ("circuits", "text>text[]", lambda row: _array(row[1].circuits)),
    ("state", "text", lambda row: row[1].state.value),
    ("cause", "text", lambda row: row[1].cause),
    ("exit_code", "integer", lambda row: row[1].exit_code),
    ("signal", "integer", lambda row: row[1].signal),
    ("message", "text", lambda row: row[1].message),
    ("start_time", "timestamptz", lambda row: row[1].start_time),
    ("end_time", "timestamptz", lambda row: row[1].end_time),
    ("pids", "text>bigint[]", lambda row: _array([str(pid) for pid in row[1].pids])),
    ("no_capacity", "boolean", lambda row: row[1].no_capacity),
    ("yielded", "boolean", lambda row: row[1].yielded),
    ("price_micros", "bigint", lambda row: row[1].price),
)
# Of an attempt, what never changes.
_BORN = 6


def _arrays(table: Sequence[tuple[str, str, object]], *, first: int = 1) -> str:
    return ", ".join(f"${n}::{kind.partition('>')[0]}[]" for n, (_, kind, _) in enumerate(table, start=first))


def _value(name: str, kind: str) -> str:
    cast = kind.partition(">")[2]
    return f"n.{name}::{cast}" if cast else f"n.{name}"


def _names(table: Sequence[tuple[str, str, object]]) -> str:
    return ", ".join(name for name, _, _ in table)


def _update(first: int, *, guard: str = "") -> str:
    """Jobs with their next revisions, the arguments from number `first` on."""
    rows = f"unnest({_arrays(_JOB, first=first)}, ${first + len(_JOB)}::bigint[])"
    return (
        f"UPDATE jobs SET {', '.join(f'{name} = n.{name}' for name, _, _ in _JOB[1:])}"  # noqa: S608
        f" FROM {rows} AS n ({_names(_JOB)}, old)"
        f" WHERE jobs.uid = n.uid AND jobs.revision = n.old{guard} RETURNING jobs.uid"
    )


_UPDATE = _update(1)
_VALUES = ", ".join(_value(name, kind) for name, kind, _ in _ATTEMPT)
_OR_CHANGE = (
    f"ON CONFLICT (uid) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n, _, _ in _ATTEMPT[_BORN:])}"
)
_UPSERT = (
    f"INSERT INTO attempts ({_names(_ATTEMPT)}) SELECT {_VALUES}"  # noqa: S608
    f" FROM unnest({_arrays(_ATTEMPT)}) AS n ({_names(_ATTEMPT)}) {_OR_CHANGE}"
)
# The arguments of `_ALONE`: the epoch, jobs, their old revisions, attempts, their tokens, facts, their trace.
_TRIED = 2 + len(_JOB) + 1
_TOLD = _TRIED + len(_ATTEMPT) + 1
_ALONE = f"""
    WITH lead AS ({LEAD}), moved AS ({_update(2, guard=" AND EXISTS (SELECT FROM lead)")}), tried AS (
        INSERT INTO attempts ({_names(_ATTEMPT)}, token_uid) SELECT {_VALUES}, n.token
        FROM unnest({_arrays(_ATTEMPT, first=_TRIED)}, ${_TOLD - 1}::text[]) AS n ({_names(_ATTEMPT)}, token)
        JOIN moved ON moved.uid = n.job_uid {_OR_CHANGE}
    ), told AS (
        INSERT INTO outbox (id, subject, payload, trace)
        SELECT f.id, f.subject, f.payload, ${_TOLD + 3}
        FROM unnest(${_TOLD}::text[], ${_TOLD + 1}::text[], ${_TOLD + 2}::bytea[], $2::text[]) WITH ORDINALITY
            AS f (id, subject, payload, uid, place)
        JOIN moved USING (uid) ORDER BY f.place
    )
    SELECT EXISTS (SELECT FROM lead) AS led, coalesce((SELECT array_agg(uid) FROM moved), '{{}}') AS done
"""  # noqa: S608
