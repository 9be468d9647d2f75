"""What of the artifacts stays: who holds a version, deletion, pins, aliases that are taken away."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

from cairn.tracker.v1 import artifact_pb2, events_pb2
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import Aborted, FailedPrecondition, InvalidArgument, Reason
from cairn_tracker import manifest, wire, wire_artifacts
from cairn_tracker.artifacts import CHECKPOINT, again, held_still, take_alias
from cairn_tracker.batch import RunKey
from cairn_tracker.noted import note
from cairn_tracker.store import keeping as store
from cairn_tracker.store.artifacts import Version
from cairn_tracker.store.keeping import Rules

_NAMED: Final = 5
_MOST_PROTECTED: Final = 50
MODEL: Final = int(artifact_pb2.ARTIFACT_KIND_MODEL)


class Keeping:
    """What can be done about keeping, for callers whose rights were checked."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def delete(self, version: Version, *, actor: str) -> Version:
        """Takes a version out of sight. Raises FailedPrecondition (VERSION_HELD) with who holds it."""
        async with held_still(self._db, version, alone=True) as (conn, found):
            await delete(conn, found, actor=actor, clock=self._clock)
        return found

    async def pin(self, version: Version, *, pinner: str) -> Version:
        """Keeps a version, or with an empty `pinner` lets it go."""
        async with held_still(self._db, version) as (conn, found):
            await store.pin(conn, found, pinner)
            arm, key = "pin_made" if pinner else "pin_removed", RunKey(found.team, found.uid)
            await note(conn, arm, key, found.name, now=self._clock.now())
            return await again(conn, found)

    async def remove_alias(self, version: Version, alias: str, *, actor: str) -> Version:
        """Takes an alias from a version. Raises InvalidArgument (ALIAS_INVALID) for `latest`, and
        FailedPrecondition where the version does not have it (any more)."""
        manifest.check_moved_alias(alias)
        async with held_still(self._db, version) as (conn, found):
            left = await take_alias(conn, found, alias, actor=actor, clock=self._clock)
            if left is None:
                raise FailedPrecondition(f"alias {alias} does not name {found.artifact}:v{found.number}")
        return left

    async def set_rules(
        self, team: str, wanted: Rules, *, fields: Collection[str], revision: int | None
    ) -> None:
        """Replaces these fields of how a team keeps its artifacts. Raises InvalidArgument for aliases that
        cannot be, and Aborted where it is not at this revision (None: at any) any more."""
        if len(wanted.protected_aliases) > _MOST_PROTECTED:
            raise InvalidArgument(f"protected_aliases: at most {_MOST_PROTECTED} can be given")
        for alias in wanted.protected_aliases:
            manifest.check_alias(alias)
        async with self._db.transaction() as conn:
            # What a promoted model was made from depends on it.
            await store.enter_alone(conn, team)
            now = await store.rules(conn, team)
            if revision is not None and now.revision != revision:
                raise Aborted("etag: somebody changed the team's keeping in between; read it again")
            changed = {field: getattr(wanted, field) for field in fields}
            await store.set_rules(conn, team, replace(now, **changed))
            where = RunKey(team, "keeping")
            name, what = f"teams/{team}/keeping", ", ".join(sorted(fields))
            await note(conn, "keeping_updated", where, name, now=self._clock.now(), what=what)


async def delete(conn: Any, version: Version, *, actor: str, clock: Clock) -> None:
    """As `Keeping.delete`, inside of `held_still` with nobody beside."""
    held = await holders(conn, version)
    if held:
        raise FailedPrecondition(
            f"{version.artifact}:v{version.number} is held by {'; '.join(held)}; let that go first",
            reason=Reason.VERSION_HELD,
            holders=",".join(held),
        )
    now = clock.now()
    await store.bury(conn, version, actor=actor, now=now)
    fact = events_pb2.TrackerEvent(
        artifact_deleted=events_pb2.ArtifactDeleted(version=wire_artifacts.version(version, entries=False))
    )
    await wire.tell(conn, fact, RunKey(version.team, version.uid), "artifact", now, actor=actor)


async def holders(conn: Any, version: Version) -> list[str]:
    """Who keeps a version from being deleted, in words; under the team's lock that stays so."""
    held = [f"alias {alias}" for alias in version.aliases if alias != manifest.LATEST]
    if version.pinner:
        held.append(f"a pin of {version.pinner}")
    protected = await store.protected_aliases(conn, version.team)
    own = f"{version.artifact}:v{version.number}"
    models = await store.models_from(conn, version, protected=protected, kind=MODEL, limit=_NAMED)
    held += [f"model {model} that was made from it" for model in models if model != own]
    running = await store.runs_on(conn, version, kind=CHECKPOINT, limit=_NAMED)
    return held + [f"run {uid} that is not over" for uid in running]
