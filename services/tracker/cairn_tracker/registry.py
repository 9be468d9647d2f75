"""Models by name, over the artifacts of kind model: one truth, which MLflow's clients and Cairn's both see.

A registered model is such an artifact, its versions, numbers and aliases are the artifact's. What MLflow has
beside that (names that are no ids, descriptions, tags, stages, where a version came from) has its own rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied, Reason
from cairn_tracker import keeping, manifest, model_names
from cairn_tracker.artifacts import held_still, move_alias, take_alias
from cairn_tracker.batch import RunKey
from cairn_tracker.keeping import MODEL
from cairn_tracker.noted import note
from cairn_tracker.promotions import refuse_without_approval
from cairn_tracker.registry_search import PROMPT
from cairn_tracker.store import artifacts as rows
from cairn_tracker.store import keeping as kept
from cairn_tracker.store import registry as store
from cairn_tracker.store.artifacts import Version
from cairn_tracker.store.registry import ModelVersion, RegisteredModel


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something, and whether they are an admin of the team."""

    subject: str
    admin: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be changed; None: it stays."""

    description: str | None = None
    set_tags: Mapping[str, str] | None = None
    remove_tags: Collection[str] = ()
    # Of a model.
    name: str | None = None
    # Of a version.
    stage: str | None = None
    archive: bool = False

    def tags(self, before: Mapping[str, str]) -> dict[str, str]:
        """The tags after the change."""
        left = {key: value for key, value in before.items() if key not in self.remove_tags}
        return left | dict(self.set_tags or {})


class Registry:
    """What can be done with registered models, for callers whose rights in the team were checked."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(
        self, team: str, name: str, *, description: str, tags: Mapping[str, str]
    ) -> RegisteredModel:
        """Registers a model. Raises AlreadyExists (MODEL_EXISTS)."""
        now = self._clock.now()
        try:
            async with self._db.transaction() as conn:
                await kept.enter(conn, team)
                known = await store.model(conn, team, name)
                if known is not None:
                    raise _taken(name, known.tags, tags)
                made = RegisteredModel(
                    team=team,
                    artifact=await _free_id(conn, team, name),
                    name=name,
                    description=description,
                    tags=tags,
                    create_time=now,
                    update_time=now,
                )
                await store.register(conn, made)
                await note_model(conn, "created", made, now)
        except asyncpg.UniqueViolationError:
            # By somebody else, in the same moment.
            raise _taken(name, {}, tags) from None
        return made

    async def get(self, team: str, name: str) -> RegisteredModel:
        """A model. Raises NotFound (MODEL_NOT_FOUND)."""
        return await known_model(self._db, team, name)

    async def change(self, team: str, name: str, changes: Changes, *, actor: Actor) -> RegisteredModel:
        """Changes a model; a new name goes for its artifact, too. Raises NotFound, AlreadyExists."""
        new = name if changes.name is None else changes.name
        try:
            async with self._alone(team, name) as (conn, found):
                now = self._clock.now()
                artifact = found.artifact
                if new != name:
                    await _may_lose(conn, team, found.aliases, actor)
                    if await store.model(conn, team, new) is not None:
                        raise _taken(new, {}, {})
                    artifact = await _free_id(conn, team, new)
                    await store.move_artifact(conn, team, found.artifact, artifact)
                description = found.description if changes.description is None else changes.description
                changed = replace(
                    found,
                    artifact=artifact,
                    name=new,
                    description=description,
                    tags=changes.tags(found.tags),
                    update_time=found.update_time if _tags_alone(changes) else now,
                )
                await store.change_model(conn, changed)
                await note_model(conn, "updated", changed, now, what=f"was {name}" if new != name else "")
                if new != name:
                    await store.touch_versions(conn, team, artifact, now)
                return await known_model(conn, team, new)
        except asyncpg.UniqueViolationError:
            raise _taken(new, {}, {}) from None

    async def delete(self, team: str, name: str, *, actor: Actor) -> RegisteredModel:
        """Takes a model out of sight, with all its versions; its name is free again.

        Raises NotFound, PermissionDenied where an alias is protected, FailedPrecondition (VERSION_HELD).
        """
        async with self._alone(team, name) as (conn, found):
            await _may_lose(conn, team, found.aliases, actor)
            for version in await store.versions(conn, team, found.artifact):
                await self._bury(conn, version, actor)
            await store.forget_model(conn, team, found.artifact)
            await note_model(conn, "deleted", found, self._clock.now())
        return found

    async def version(self, team: str, name: str, which: int | str) -> ModelVersion:
        """A version by its number, by an alias, or by `latest`. Raises NotFound (MODEL_NOT_FOUND), and
        InvalidArgument for an alias that the model has not, as MLflow's server does."""
        if isinstance(which, int):
            return await _version(self._db, team, name, which)
        found = await known_model(self._db, team, name)
        if which.lower() == model_names.LATEST:
            newest = await store.newest(self._db, team, name)
            if newest is None:
                raise _missing(f"Latest version not found for model {name}.")
            return newest
        if which not in found.aliases:
            raise InvalidArgument(f"Registered model alias {which} not found.", field="alias")
        return await _version(self._db, team, name, found.aliases[which])

    async def change_version(
        self, team: str, name: str, number: int, changes: Changes, *, actor: Actor
    ) -> ModelVersion:
        """Changes what the registry keeps of a version. Raises NotFound."""
        async with self._still(team, name, number) as (conn, found, _):
            now = self._clock.now()
            description = found.description if changes.description is None else changes.description
            stage = found.stage if changes.stage is None else changes.stage
            if changes.archive:
                await store.archive(conn, team, found.artifact, stage, but=number, now=now)
            changed = replace(
                found,
                description=description,
                stage=stage,
                tags=changes.tags(found.tags),
                update_time=found.update_time if _tags_alone(changes) else now,
            )
            await store.change_version(conn, changed)
            model = await known_model(conn, team, name)
            await note_model(conn, "updated", model, now, what=f"version {number}")
            if changes.stage is not None:
                await store.touch_model(conn, team, found.artifact, now)
            return await _version(conn, team, name, number)

    async def delete_version(self, team: str, name: str, number: int, *, actor: Actor) -> ModelVersion:
        """Takes a version out of sight, with its aliases. Raises NotFound, PermissionDenied where one is
        protected, FailedPrecondition (VERSION_HELD) where somebody else holds it."""
        async with self._alone(team, name) as (conn, found):
            gone = await _version(conn, team, name, number)
            await _may_lose(conn, team, gone.aliases, actor)
            await self._bury(conn, gone, actor)
            await store.touch_model(conn, team, found.artifact, self._clock.now())
        return gone

    async def set_alias(self, team: str, name: str, number: int, alias: str, *, actor: Actor) -> ModelVersion:
        """Moves an alias to a version. Raises NotFound, PermissionDenied for a protected one,
        FailedPrecondition (APPROVAL_REQUIRED)."""
        async with self._still(team, name, number) as (conn, _, version):
            await _may_lose(conn, team, [alias], actor)
            await refuse_without_approval(conn, team, [alias])
            await move_alias(conn, version, alias, actor=actor.subject, clock=self._clock)
            return await _version(conn, team, name, number)

    async def remove_alias(self, team: str, name: str, alias: str, *, actor: Actor) -> RegisteredModel:
        """Takes an alias away, if the model has it. Raises NotFound, PermissionDenied for a protected one."""
        found = await known_model(self._db, team, name)
        await _may_lose(self._db, team, [alias], actor)
        if alias in found.aliases:
            async with self._still(team, name, found.aliases[alias]) as (conn, _, version):
                await take_alias(conn, version, alias, actor=actor.subject, clock=self._clock)
        return await known_model(self._db, team, name)

    async def _bury(self, conn: Any, version: ModelVersion, actor: Actor) -> None:
        found = await _files(conn, version)
        for alias in version.aliases:
            await take_alias(conn, found, alias, actor=actor.subject, clock=self._clock)
        left = replace(found, aliases=[manifest.LATEST] if manifest.LATEST in found.aliases else [])
        await keeping.delete(conn, left, actor=actor.subject, clock=self._clock)

    @asynccontextmanager
    async def _still(
        self, team: str, name: str, number: int
    ) -> AsyncIterator[tuple[Any, ModelVersion, Version]]:
        """A transaction in which the artifact stands still, and the version as it is in it."""
        known = await _version(self._db, team, name, number)
        async with held_still(self._db, await _files(self._db, known)) as (conn, version):
            yield conn, await _version(conn, team, name, number), version

    @asynccontextmanager
    async def _alone(self, team: str, name: str) -> AsyncIterator[tuple[Any, RegisteredModel]]:
        """A transaction in which nothing of the team's artifacts moves, and the model as it is in it."""
        async with self._db.transaction() as conn:
            await kept.enter_alone(conn, team)
            found = await known_model(conn, team, name)
            await rows.lock_artifact(conn, team, found.artifact)
            yield conn, found


async def note_model(conn: Any, event: str, model: RegisteredModel, now: datetime, *, what: str = "") -> None:
    """Tells the audit what somebody did with a model."""
    key, name = RunKey(model.team, model.artifact), f"teams/{model.team}/models/{model.name}"
    await note(conn, f"model_{event}", key, name, now=now, what=what)


async def known_model(db: Any, team: str, name: str) -> RegisteredModel:
    """A model by its name. Raises NotFound (MODEL_NOT_FOUND)."""
    found = await store.model(db, team, name)
    if found is None:
        raise _missing(f"Registered Model with name={name} not found")
    return found


async def _version(db: Any, team: str, name: str, number: int) -> ModelVersion:
    found = await store.version(db, team, name, number)
    if found is None:
        raise _missing(f"Model Version (name={name}, version={number}) not found")
    return found


async def _files(db: Any, version: ModelVersion) -> Version:
    found = await rows.find(db, version.team, version.artifact, version.number, entries=False)
    if found is None:
        raise _missing(f"Model Version (name={version.model}, version={version.number}) not found")
    return found


async def _free_id(db: Any, team: str, name: str) -> str:
    """The id of the artifact of a model that is new under this name: no other artifact's, unless that is a
    model without versions left."""
    wanted = model_names.artifact_id(name)
    kind = await store.kind_of(db, team, wanted)
    return model_names.artifact_id(name, taken=True) if kind not in (None, MODEL) else wanted


async def _may_lose(db: Any, team: str, aliases: Collection[str], actor: Actor) -> None:
    """Raises PermissionDenied where one of these is protected, and the caller no admin."""
    if actor.admin or not aliases:
        return
    bound = sorted(set(aliases) & set(await kept.protected_aliases(db, team)))
    if bound:
        raise PermissionDenied(
            f"alias {bound[0]} is protected in team {team}: it needs role admin", reason=Reason.ROLE_TOO_LOW
        )


def _tags_alone(changes: Changes) -> bool:
    """Whether nothing else changes: MLflow does not count that as an update."""
    return changes.description is None and changes.name is None and changes.stage is None


def _missing(message: str) -> NotFound:
    return NotFound(message, reason=Reason.MODEL_NOT_FOUND)


def _taken(name: str, before: Mapping[str, str], tags: Mapping[str, str]) -> AlreadyExists:
    old, new = ("Prompt" if of.get(PROMPT) == "true" else "Registered Model" for of in (before, tags))
    if old != new and before:
        return AlreadyExists(
            f"Tried to create a {new.lower()} with name {name!r}, but the name is already taken by a "
            f"{old.lower()}. MLflow does not allow creating a model and a prompt with the same name.",
            reason=Reason.MODEL_EXISTS,
        )
    return AlreadyExists(f"{new} (name={name}) already exists.", reason=Reason.MODEL_EXISTS)
