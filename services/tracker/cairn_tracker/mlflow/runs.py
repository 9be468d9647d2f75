"""What can be done with runs, for callers whose rights were checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import FailedPrecondition, InvalidArgument, NotFound
from cairn_common.ids import new_uid
from cairn_tracker.batch import LAST_STEP, RunKey, is_key
from cairn_tracker.changes import LONGEST_NOTES
from cairn_tracker.ingest import MOST_METRICS, announce
from cairn_tracker.mlflow import columns
from cairn_tracker.mlflow.columns import Call
from cairn_tracker.mlflow.errors import deleted_run, unknown_run
from cairn_tracker.mlflow.experiments import Experiments
from cairn_tracker.mlflow.names import random_name
from cairn_tracker.mlflow.written import text_of
from cairn_tracker.model import Json, RunState
from cairn_tracker.pending import Pending
from cairn_tracker.store import mlflow_runs as rows
from cairn_tracker.store import pending
from cairn_tracker.store.mlflow_runs import Input, MlflowRun, ModelUse

NAME_TAG: Final = "mlflow.runName"
NOTE_TAG: Final = "mlflow.note.content"
_COMMIT_TAG: Final = "mlflow.source.git.commit"
_MOST_METRICS: Final = 1_000
_MOST_TEXTS: Final = 100
_MOST_IN_RUN: Final = 10_000
_LONGEST_KEY: Final = 250
_LONGEST_PARAM: Final = 6_000
_LONGEST_TAG: Final = 8_000
_LONGEST_NAME: Final = 500
_LAST_MILLIS: Final = 253_402_300_799_999
_SEARCH_MILLISECONDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call logs: metrics in parallel columns (times in milliseconds since 1970), params and tags."""

    keys: Sequence[str] = ()
    values: Sequence[float] = ()
    times: Sequence[int] = ()
    steps: Sequence[int] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Runs:
    """Runs by their uids; each change is told."""

    def __init__(self, *, db: Database, pending: Pending, clock: Clock, experiments: Experiments) -> None:
        self._db = db
        self._pending = pending
        self._clock = clock
        self._experiments = experiments

    async def create(
        self,
        team: str,
        experiment_id: str,
        *,
        creator: str,
        name: str,
        user_id: str,
        start_time: datetime | None,
        tags: Mapping[str, str],
    ) -> RunKey:
        """A running run without a job. Raises NotFound for an unknown experiment, FailedPrecondition for a
        deleted one, InvalidArgument for two names."""
        experiment = await self._experiments.get(team, experiment_id)
        if experiment.delete_time is not None:
            raise FailedPrecondition(
                f"The experiment {experiment.number} must be in the 'active' state. Current state is deleted."
            )
        tagged = tags.get(NAME_TAG, "")
        if name and tagged and name != tagged:
            raise InvalidArgument(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values "
                f"(run_name='{name[:200]}', mlflow.runName='{tagged[:200]}').",
                field="run_name",
            )
        _check_texts({}, tags, most=_MOST_IN_RUN)
        now = self._clock.now()
        run = rows.NewRun(
            key=RunKey(team, new_uid()),
            display_name=_name(name or tagged or random_name()),
            creator=creator,
            user_id=user_id[:_LONGEST_NAME],
            experiment=experiment.id,
            start_time=start_time or now,
            labels=_labels(tags),
            notes=tags.get(NOTE_TAG, "")[:LONGEST_NOTES],
            git_commit=tags.get(_COMMIT_TAG, ""),
        )
        async with self._db.transaction() as conn:
            await rows.create(conn, run, now)
            await announce(conn, run.key, created=True, now=now)
        return run.key

    async def get(self, key: RunKey, *, written: bool = False) -> MlflowRun:
        """A run, its metrics as JSON if `written`. Raises NotFound."""
        found = await rows.get(self._db, key, written=written)
        if found is None:
            raise unknown_run(key.uid)
        return found

    async def find(self, wanted: rows.Search, *, written: bool) -> list[MlflowRun]:
        """Raises InvalidArgument for what takes too long."""
        if not wanted.experiments:
            return []
        async with self._db.transaction() as conn:
            await conn.execute(f"SET LOCAL statement_timeout = {_SEARCH_MILLISECONDS}; SET LOCAL jit = off")
            try:
                return await rows.find(conn, wanted, written=written)
            except asyncpg.QueryCanceledError:
                raise InvalidArgument(
                    "filter: this takes more than 10 s; name fewer experiments, or leave out what is costly",
                    field="filter",
                ) from None

    async def update(
        self,
        key: RunKey,
        *,
        state: RunState | None,
        end_time: datetime | None,
        name: str,
        deleted: bool | None,
        delete_tags: Sequence[str],
    ) -> None:
        """Changes what is given. Raises NotFound for the run or a tag, FailedPrecondition for a
        deleted run."""
        now = self._clock.now()
        edited = state is not None or end_time is not None or bool(name or delete_tags)
        if not edited and deleted is None:
            return
        async with self._db.transaction() as conn:
            if deleted is not None:
                await _hold(conn, key, deleted_too=True)
                await rows.mark(conn, key, now, deleted=deleted)
            if edited:
                held = await _hold(conn, key)
                _check_removed(key, held.labels, delete_tags)
                if name or delete_tags:
                    await rows.describe(
                        conn, key, now, removed=delete_tags, display_name=_name(name) if name else None,
                        notes="" if NOTE_TAG in delete_tags else None,
                    )  # fmt: skip
                if state is not None or end_time is not None:
                    await rows.end(conn, key, now, state=state, end_time=end_time)
            await announce(conn, key, created=False, now=now)

    async def log(self, key: RunKey, batch: Batch) -> None:
        """Adds metrics, params and tags, all or nothing. Raises NotFound, FailedPrecondition for a deleted
        run, InvalidArgument for what cannot be, and for a param that has another value."""
        _check_metrics(batch)
        _check_texts(batch.params, batch.tags, most=_MOST_TEXTS)
        call = Call(0, key, batch.keys, batch.steps, batch.times, batch.values)
        if batch.params or batch.tags:
            async with self._db.transaction() as conn:
                await self._describe(conn, key, batch.params, batch.tags)
                if batch.keys and not await _add(conn, call):
                    raise _too_many_metrics()
        elif not batch.keys or not await _add(self._db, call):
            await self._refuse(key)
            if batch.keys:
                raise _too_many_metrics()
        if batch.keys:
            self._pending.note()

    async def log_inputs(self, key: RunKey, inputs: Sequence[Input], models: Sequence[ModelUse]) -> None:
        """Notes what a run read, and which models it made."""
        if len(inputs) + len(models) > _MOST_METRICS:
            raise InvalidArgument(f"datasets, models: at most {_MOST_METRICS:,} at once", field="datasets")
        async with self._db.transaction() as conn:
            await _hold(conn, key)
            await rows.add_inputs(conn, key, inputs)
            await rows.add_models(conn, key, models)

    async def _describe(
        self, conn: Any, key: RunKey, params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        held = await _hold(conn, key)
        _check_params(key, held.params, params)
        fresh = {name: text for name, text in params.items() if name not in held.params}
        if len(held.params) + len(fresh) > _MOST_IN_RUN or len(held.labels) + len(tags) > _MOST_IN_RUN:
            raise InvalidArgument(f"a run has at most {_MOST_IN_RUN:,} params, and as many tags")
        if (
            not fresh
            and all(held.labels.get(name) == text for name, text in tags.items())
            and not ({NAME_TAG, NOTE_TAG} & tags.keys())
        ):
            return
        now = self._clock.now()
        await rows.describe(
            conn,
            key,
            now,
            params=fresh,
            labels=_labels(tags),
            display_name=_name(tags[NAME_TAG]) if tags.get(NAME_TAG) else None,
            notes=tags[NOTE_TAG][:LONGEST_NOTES] if NOTE_TAG in tags else None,
        )
        await announce(conn, key, created=False, now=now)

    async def _refuse(self, key: RunKey) -> None:
        """Says why nothing can be logged; nothing where it could."""
        if (await self.get(key)).delete_time is not None:
            raise deleted_run(key.uid)


@dataclass(frozen=True, slots=True)
class _Held:
    params: Mapping[str, Json]
    labels: Mapping[str, str]


async def _hold(conn: Any, key: RunKey, *, deleted_too: bool = False) -> _Held:
    found = await rows.hold(conn, key)
    if found is None:
        raise unknown_run(key.uid)
    deleted, _, params, labels = found
    if deleted and not deleted_too:
        raise deleted_run(key.uid)
    return _Held(params, labels)


async def _add(conn: Any, call: Call) -> bool:
    latest = columns.latest(call.keys, call.points, call.steps, call.times)
    return await pending.add(conn, call, latest, most_metrics=MOST_METRICS)


def _too_many_metrics() -> InvalidArgument:
    # Not the error for a limit: clients would send it again for minutes.
    return InvalidArgument(f"a run has at most {MOST_METRICS:,} metrics; use fewer names", field="metrics")


def _labels(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that are no field of the run."""
    return {key: text for key, text in tags.items() if key not in (NAME_TAG, NOTE_TAG)}


def _name(name: str) -> str:
    if len(name) > _LONGEST_NAME:
        raise InvalidArgument(
            f"run_name: {len(name):,} characters; at most {_LONGEST_NAME}", field="run_name"
        )
    return name


def _check_removed(key: RunKey, labels: Mapping[str, str], removed: Sequence[str]) -> None:
    for tag in removed:
        if tag not in labels and tag not in (NAME_TAG, NOTE_TAG):
            raise NotFound(f"No tag with name: {tag[:_LONGEST_KEY]} in run with id {key.uid}")


def _check_params(key: RunKey, known: Mapping[str, Json], params: Mapping[str, str]) -> None:
    other = {name: text for name, text in params.items() if name in known and text_of(known[name]) != text}
    if len(other) == 1 == len(params):
        ((name, text),) = other.items()
        raise InvalidArgument(
            f"Changing param values is not allowed. Param with key='{name}' was already logged with "
            f"value='{text_of(known[name])[:500]}' for run ID='{key.uid}'. Attempted logging new value "
            f"'{text[:500]}'.",
            field="params",
        )
    if other:
        told = [
            {"key": name, "old_value": text_of(known[name])[:100], "new_value": text[:100]}
            for name, text in list(other.items())[:5]
        ]
        raise InvalidArgument(
            f"Changing param values is not allowed. Params were already logged='{told}' for run "
            f"ID='{key.uid}'.",
            field="params",
        )


def _check_metrics(batch: Batch) -> None:
    lengths = {len(batch.keys), len(batch.values), len(batch.times), len(batch.steps)}
    if len(lengths) != 1 or len(batch.keys) > _MOST_METRICS:
        raise InvalidArgument(
            f"metric_keys, _values, _times and _steps: as many of each, at most {_MOST_METRICS:,}",
            field="metric_keys",
        )
    for key in set(batch.keys):
        if not is_key(key):
            raise InvalidArgument(
                f"metrics: {key[:80]!r} is no name: 1 to 250 bytes without control characters",
                field="metric_keys",
            )
    if any(not 0 <= time <= _LAST_MILLIS for time in batch.times):
        raise InvalidArgument(
            "metrics: a timestamp is the milliseconds since 1970, before the year 10000", field="metric_times"
        )
    if any(not -LAST_STEP <= step <= LAST_STEP for step in batch.steps):
        raise InvalidArgument(f"metrics: a step is at most {LAST_STEP:,}", field="metric_steps")


def _check_texts(params: Mapping[str, str], tags: Mapping[str, str], *, most: int) -> None:
    if len(params) > most or len(tags) > most:
        raise InvalidArgument(f"params, tags: at most {most:,} of each", field="params")
    for what, texts, longest in (("Param", params, _LONGEST_PARAM), ("Tag", tags, _LONGEST_TAG)):
        for key, text in texts.items():
            if not 0 < len(key) <= _LONGEST_KEY:
                raise InvalidArgument(
                    f"'{what} key' exceeds the maximum length of {_LONGEST_KEY} characters", field=what
                )
            if len(text) > longest:
                raise InvalidArgument(
                    f"'{what} value' exceeds the maximum length of {longest} characters", field=what
                )
