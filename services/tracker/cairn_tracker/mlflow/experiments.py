"""What can be done with experiments, for callers whose rights were checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Reason
from cairn_tracker.batch import RunKey
from cairn_tracker.mlflow.search import experiment_number
from cairn_tracker.noted import note
from cairn_tracker.store import mlflow_experiments as rows
from cairn_tracker.store.mlflow_experiments import Experiment

_LONGEST_NAME: Final = 500
_MOST_TAGS: Final = 1_000
_LONGEST_KEY: Final = 250
_LONGEST_TAG: Final = 20_000


async def _note(conn: Any, event: str, team: str, number: int, now: datetime, *, what: str = "") -> None:
    name = f"teams/{team}/experiments/{number}"
    await note(conn, f"experiment_{event}", RunKey(team, str(number)), name, now=now, what=what)


class Experiments:
    """By the numbers and names that MLflow's clients know them by."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def ensure_default(self, team: str) -> None:
        """Every team has its default experiment from the beginning."""
        if await rows.by_number(self._db, team, 0) is None:
            await rows.ensure_default(self._db, team, self._clock.now())

    async def create(self, team: str, name: str, tags: Mapping[str, str]) -> Experiment:
        """Raises AlreadyExists for a name in use, InvalidArgument for one that cannot be."""
        _check_name(name)
        _check_tags(tags)
        await self.ensure_default(team)
        try:
            async with self._db.transaction() as conn:
                now = self._clock.now()
                number = await rows.create(conn, team, name, tags, now)
                if number is not None:
                    await _note(conn, "created", team, number, now, what=name)
        except asyncpg.UniqueViolationError:
            # Another one took the name in the same moment.
            number = None
        if number is None:
            raise _exists(name)
        return await self.get(team, str(number))

    async def get(self, team: str, id: str) -> Experiment:
        """Raises NotFound, and InvalidArgument for what is no number."""
        number = experiment_number(id)
        found = await rows.by_number(self._db, team, number)
        if found is None and number == 0:
            await self.ensure_default(team)
            found = await rows.by_number(self._db, team, number)
        if found is None:
            raise NotFound(f"No Experiment with id={number} exists", reason=Reason.EXPERIMENT_NOT_FOUND)
        return found

    async def active(self, team: str, id: str) -> Experiment:
        """Raises NotFound, InvalidArgument for what is no number, FailedPrecondition for a deleted one."""
        found = await self.get(team, id)
        if found.delete_time is not None:
            raise FailedPrecondition(
                f"The experiment {found.number} must be in the 'active' state. Current state is deleted.",
                reason=Reason.STATE_INVALID,
            )
        return found

    async def named(self, team: str, name: str) -> Experiment:
        """Raises NotFound."""
        await self.ensure_default(team)
        found = await rows.by_name(self._db, team, name)
        if found is None:
            raise NotFound(
                f"Could not find experiment with name '{name[:500]}'", reason=Reason.EXPERIMENT_NOT_FOUND
            )
        return found

    async def update(
        self,
        team: str,
        id: str,
        *,
        name: str | None,
        deleted: bool | None,
        set_tags: Mapping[str, str],
        delete_tags: Sequence[str],
    ) -> Experiment:
        """Raises NotFound, also for a tag that is to be taken away; AlreadyExists; FailedPrecondition for one
        that was deleted."""
        known = await self.get(team, id)
        _check_tags({**known.labels, **set_tags} if set_tags else {})
        now = self._clock.now()
        if deleted is not None and deleted is (known.delete_time is not None):
            raise NotFound(f"No Experiment with id={known.number} exists", reason=Reason.EXPERIMENT_NOT_FOUND)
        if (name is not None or set_tags or delete_tags) and known.delete_time is not None:
            raise FailedPrecondition(
                f"The experiment {known.number} must be in the 'active' state. Current state is deleted."
                if name is None
                else "Cannot rename a non-active experiment."
            )
        for key in delete_tags:
            if key not in known.labels:
                raise NotFound(f"No tag with name: {key[:250]} in experiment with id {known.number}")
        if name is not None:
            _check_name(name)
            await self._rename(team, known, name, now)
        async with self._db.transaction() as conn:
            if set_tags or delete_tags:
                await rows.label(conn, team, known.number, set_tags, delete_tags, now)
                await _note(conn, "updated", team, known.number, now, what="tags")
            if deleted is not None:
                await (rows.delete if deleted else rows.restore)(conn, team, known, now)
                await _note(conn, "deleted" if deleted else "restored", team, known.number, now)
        return await self.get(team, id)

    async def _rename(self, team: str, known: Experiment, name: str, now: datetime) -> None:
        try:
            async with self._db.transaction() as conn:
                if await rows.rename(conn, team, known.number, name, now):
                    await _note(conn, "updated", team, known.number, now, what=f"is now {name}"[:500])
                    return
        except asyncpg.UniqueViolationError:
            # Another one took the name in the same moment.
            pass
        raise _exists(name)


def _check_name(name: str) -> None:
    if not name:
        raise InvalidArgument(f"Invalid experiment name: '{name}'", field="name")
    if len(name) > _LONGEST_NAME:
        raise _too_long("name", _LONGEST_NAME)


def _check_tags(tags: Mapping[str, str]) -> None:
    if len(tags) > _MOST_TAGS:
        raise InvalidArgument(f"tags: an experiment can have {_MOST_TAGS:,}", field="tags")
    for key, value in tags.items():
        if len(key) > _LONGEST_KEY:
            raise _too_long("key", _LONGEST_KEY)
        if len(value) > _LONGEST_TAG:
            raise _too_long("value", _LONGEST_TAG)


def _too_long(field: str, most: int) -> InvalidArgument:
    return InvalidArgument(f"'{field}' exceeds the maximum length of {most} characters", field=field)


def _exists(name: str) -> AlreadyExists:
    return AlreadyExists(f"Experiment(name={name[:500]}) already exists.", reason=Reason.RESOURCE_EXISTS)
