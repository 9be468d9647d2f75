"""Models that runs logged: made, filled, measured, found again."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from cairn.tracker.v1 import logged_model_pb2
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, NotFound, Reason
from cairn_tracker.batch import RunKey
from cairn_tracker.logged_model_search import Search
from cairn_tracker.mlflow.experiments import Experiments
from cairn_tracker.mlflow.names import random_name
from cairn_tracker.noted import note
from cairn_tracker.store import logged_models as store
from cairn_tracker.store.logged_models import LoggedModel, Metric

_PENDING: Final = int(logged_model_pb2.LoggedModel.PENDING)
_MOST_PARAMS: Final = 10_000


class LoggedModels:
    """What can be done with logged models, for callers whose rights in the team were checked."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._experiments = Experiments(db=db, clock=clock)

    async def create(
        self,
        team: str,
        *,
        experiment_id: str,
        name: str,
        model_type: str,
        source_run_id: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        creator: str,
    ) -> LoggedModel:
        """A new model, which waits for its files. Raises NotFound for an unknown experiment."""
        await self._experiments.active(team, experiment_id)
        now = self._clock.now()
        made = LoggedModel(
            team=team,
            model_id=f"m-{uuid.uuid4().hex}",
            experiment_id=experiment_id,
            name=name or random_name(),
            model_type=model_type,
            source_run_id=source_run_id,
            status=_PENDING,
            params=params,
            tags=tags,
            creator=creator,
            create_time=now,
            update_time=now,
        )
        async with self._db.transaction() as conn:
            await store.add(conn, made)
            await _note(conn, "created", made.team, made.model_id, self._clock.now())
        return made

    async def get(self, team: str, model_id: str, *, deleted: bool = False) -> LoggedModel:
        """A model. Raises NotFound (MODEL_NOT_FOUND)."""
        found = await store.get(self._db, team, model_id, deleted=deleted)
        if found is None:
            raise _unknown(model_id)
        return found

    async def of_run(self, team: str, model_id: str, run_uid: str) -> LoggedModel:
        """A model, deleted or not, that this run logged. Raises NotFound for every other."""
        found = await self.get(team, model_id, deleted=True)
        if found.source_run_id != run_uid:
            raise _unknown(model_id)
        return found

    async def change(
        self,
        team: str,
        model_id: str,
        *,
        status: int,
        params: Mapping[str, str],
        set_tags: Mapping[str, str],
        remove_tags: Sequence[str],
    ) -> LoggedModel:
        """Changes a model: its state (0: it stays) and tags; adds params, which never change.

        Raises NotFound for an unknown model or tag, InvalidArgument for a param with another value.
        """
        async with self._db.transaction() as conn:
            if not await store.lock(conn, team, model_id):
                raise _unknown(model_id)
            found = await store.get(conn, team, model_id)
            if found is None:
                raise _unknown(model_id)
            for key in remove_tags:
                if key not in found.tags:
                    raise NotFound(
                        f"No tag with key {key[:80]!r} found for model with ID {model_id!r}.",
                        reason=Reason.MODEL_NOT_FOUND,
                    )
            for key, value in params.items():
                if found.params.get(key, value) != value:
                    raise InvalidArgument(
                        f"Changing param values is not allowed. Param with key='{key}' was already logged "
                        f"with value='{found.params[key][:80]}' for model ID='{model_id}'.",
                        field="params",
                    )
            if len({*found.params, *params}) > _MOST_PARAMS:
                raise InvalidArgument(f"params: a model has at most {_MOST_PARAMS:,}", field="params")
            tags = {key: value for key, value in found.tags.items() if key not in remove_tags}
            changed = replace(
                found,
                status=status or found.status,
                params={**found.params, **params},
                tags=tags | dict(set_tags),
                update_time=self._clock.now() if status else found.update_time,
            )
            await store.change(conn, changed)
            await _note(conn, "updated", team, model_id, self._clock.now())
        return changed

    async def delete(self, team: str, model_id: str) -> LoggedModel:
        """Takes a model out of sight; again is no error. Raises NotFound."""
        async with self._db.transaction() as conn:
            if not await store.lock(conn, team, model_id):
                raise _unknown(model_id)
            await store.bury(conn, team, model_id, self._clock.now())
            await _note(conn, "deleted", team, model_id, self._clock.now())
        return await self.get(team, model_id, deleted=True)

    async def search(self, wanted: Search) -> list[LoggedModel]:
        """The models that a search finds."""
        return await store.search(self._db, wanted)

    async def measure(self, team: str, metrics: Mapping[str, Sequence[Metric]]) -> None:
        """Notes what was measured, by model. Raises NotFound for an unknown one: then nothing is noted."""
        async with self._db.transaction() as conn:
            # In one order, so that two that measure the same models do not wait for each other.
            for model_id in sorted(metrics):
                if not await store.lock(conn, team, model_id):
                    raise _unknown(model_id)
                await store.add_metrics(conn, team, model_id, metrics[model_id])


async def _note(conn: Any, event: str, team: str, model_id: str, now: datetime) -> None:
    name = f"teams/{team}/loggedModels/{model_id}"
    await note(conn, f"loggedmodel_{event}", RunKey(team, model_id), name, now=now)


def _unknown(model_id: str) -> NotFound:
    return NotFound(f"Logged model with ID '{model_id[:80]}' not found.", reason=Reason.MODEL_NOT_FOUND)
