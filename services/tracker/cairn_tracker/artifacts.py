"""Files in versions: uploads, commits, aliases, lineage. The bytes go between callers and the store alone."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, TypeVar

import asyncpg

from cairn.tracker.v1 import artifact_pb2, events_pb2
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import FailedPrecondition, InvalidArgument, NotFound, Reason, Unavailable
from cairn_common.ids import new_uid, parse_name
from cairn_common.objects import ObjectStore
from cairn_tracker import manifest, wire, wire_artifacts
from cairn_tracker.ahead import Ahead
from cairn_tracker.batch import RunKey
from cairn_tracker.manifest import Entry, Part
from cairn_tracker.model import Json
from cairn_tracker.store import artifacts as rows
from cairn_tracker.store import blobs, keeping, scrub
from cairn_tracker.store.artifacts import Version

URL_SECONDS: Final = 900
_NAMED_IN_ERRORS: Final = 5
# How often a commit looks at its parts again, because something was collected meanwhile.
_MOST_EPOCHS: Final = 10
Made = TypeVar("Made")
VERSION_NAME: Final = "teams/{team}/artifacts/{artifact}/versions/{version}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A version that is to be committed; its fields were checked one by one."""

    team: str
    artifact: str
    kind: int
    creator: str
    run_uid: str
    step: int | None
    metadata: Mapping[str, Json]
    entries: Sequence[Entry]
    aliases: Sequence[str]
    # Names of versions.
    sources: Sequence[str]
    request_id: str


def blob_key(team: str, digest: str) -> str:
    """Where a blob lies in the bucket."""
    return f"t/{team}/blobs/{digest[:2]}/{digest}"


class Artifacts:
    """What can be done with artifacts, for callers whose rights were checked."""

    def __init__(self, *, db: Database, objects: ObjectStore, clock: Clock, ahead: Ahead) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock
        self._ahead = ahead

    async def uploads(
        self, team: str, parts: Sequence[Part], *, largest: int = manifest.LARGEST_BLOB
    ) -> dict[str, str]:
        """URLs to PUT what the store lacks to, by digest. Raises InvalidArgument for an impossible part, and
        for one that is known with another size: nobody writes over what versions are made of."""
        sizes: dict[str, int] = {}
        for part in parts:
            manifest.check_part(part, largest=largest)
            sizes[part.digest] = part.size
        # First of all: what is asked for now is not collected while it is looked at.
        await blobs.ask(self._db, team, sizes, self._clock.now())
        if going := await blobs.doomed(self._db, team, sizes):
            # What is written over them now would go with them.
            raise Unavailable(
                f"{len(going)} of these parts are just being deleted from the store; ask again in a moment",
                reason=Reason.STORE_UNAVAILABLE,
            )
        known = await blobs.sizes(self._db, team, sizes)
        for digest, size in known.items():
            if size != sizes[digest]:
                raise InvalidArgument(
                    f"part {digest} has {size:,} bytes, and no other size", reason=Reason.PART_SIZE_MISMATCH
                )
        there = await self._sizes(team, sizes)
        return {
            digest: self._objects.presign_put(blob_key(team, digest), URL_SECONDS, sha256=digest)
            for digest, size in sizes.items()
            # One of another size is the rest of a broken upload, to be written over.
            if there.get(digest) != size
        }

    def uploaded(self, team: str, digests: Sequence[str]) -> None:
        """These were sent, and will be committed: they are looked at meanwhile. Raises InvalidArgument."""
        for digest in digests:
            manifest.check_digest(digest)
        self._ahead.note({blob_key(team, digest): digest for digest in digests})

    async def adopt(self, team: str, part: Part, key: str) -> None:
        """Makes a blob of an object that lies under another key, whose bytes were read: they are the part's.
        It is collected as other blobs are, where nothing is made of it. Raises as `uploads`."""
        if await self.uploads(team, [part], largest=manifest.LARGEST_FILE):
            await self._objects.copy(key, blob_key(team, part.digest))

    async def downloads(self, team: str, digests: Sequence[str]) -> dict[str, tuple[str, int]]:
        """URLs to GET blobs from and their sizes, by digest. Raises NotFound for one that the team lacks."""
        for digest in digests:
            manifest.check_digest(digest)
        there = await self._sizes(team, digests)
        for digest in digests:
            if digest not in there:
                raise NotFound(
                    f"team {team} has no blob {digest}", reason=Reason.BLOB_NOT_FOUND, digest=digest
                )
        return {
            digest: (self._objects.presign_get(blob_key(team, digest), URL_SECONDS), there[digest])
            for digest in digests
        }

    async def read(self, team: str, digest: str) -> bytes:
        """The bytes of a small blob. Raises NotFound (BLOB_NOT_FOUND), also where they are others."""
        sizes = await self._sizes(team, [digest])
        data = await self._objects.get(blob_key(team, digest)) if digest in sizes else None
        if data is None or hashlib.sha256(data).hexdigest() != digest:
            raise NotFound(
                f"team {team} has no blob {digest}; it may be on its way still",
                reason=Reason.BLOB_NOT_FOUND,
                digest=digest,
            )
        return data

    async def commit(self, draft: Draft) -> Version:
        """Makes the next version visible, all or nothing. The same request_id again gives the same version.

        Raises InvalidArgument (ARTIFACT_INVALID, ALIAS_INVALID, REQUEST_ID_REUSED), NotFound for an unknown
        source, FailedPrecondition (PARTS_MISSING, PART_SIZE_MISMATCH) where the store lacks something.
        """
        # Of many files that takes a while, in which others are to be answered.
        await asyncio.to_thread(manifest.check, draft.entries)
        for alias in draft.aliases:
            manifest.check_alias(alias)
        known = await self._repeated(draft)
        if known is not None:
            return known
        sources = [(await self.version(name, team=draft.team, entries=False)).uid for name in draft.sources]
        try:
            return await self._checked_commit(draft, sources)
        except asyncpg.UniqueViolationError:
            # The same request, at the same time.
            known = await self._repeated(draft)
            if known is None:
                raise
            return known

    async def manifest(self, team: str, digests: Sequence[str]) -> list[Entry]:
        """The entries in blobs that were uploaded. Raises FailedPrecondition (PARTS_MISSING) where one is
        missing, or has not the bytes of its digest, and InvalidArgument for what is no manifest."""
        found: list[Entry] = []
        for digest in digests:
            manifest.check_digest(digest)
            size = await self._objects.size(blob_key(team, digest))
            if size is not None and size > manifest.LARGEST_PART:
                raise InvalidArgument(
                    f"manifest: blob {digest} has {size:,} bytes", reason=Reason.ARTIFACT_INVALID
                )
            data = None if size is None else await self._objects.get(blob_key(team, digest))
            if data is None or hashlib.sha256(data).hexdigest() != digest:
                raise FailedPrecondition(
                    "the store lacks a blob of the manifest; upload it and commit again",
                    reason=Reason.PARTS_MISSING,
                    digests=digest,
                )
            found += await asyncio.to_thread(manifest.read, data)
            if len(found) > manifest.MOST_ENTRIES:
                break
        return found

    async def version(self, name: str, *, team: str, entries: bool = True, as_read_by: str = "") -> Version:
        """A version by its name, with a number or an alias at the end; an alias means what the run
        `as_read_by` read of the artifact, if it did. Raises NotFound (ARTIFACT_NOT_FOUND), also for another
        team's."""
        parts = parse_name(VERSION_NAME, name)
        number = manifest.version_number(parts["version"])
        if number is None and as_read_by:
            number = await rows.first_read(self._db, team, as_read_by, parts["artifact"])
        found = None
        if parts["team"] == team:
            which = parts["version"] if number is None else number
            found = await rows.find(self._db, team, parts["artifact"], which, entries=entries)
        if found is None:
            raise unknown_version(parts["team"], parts["artifact"], parts["version"])
        return found

    async def set_alias(self, version: Version, alias: str, *, actor: str) -> Version:
        """Moves an alias to a version. Raises InvalidArgument (ALIAS_INVALID)."""
        manifest.check_moved_alias(alias)
        async with held_still(self._db, version) as (conn, _):
            moved = await move_alias(conn, version, alias, actor=actor, clock=self._clock)
        return moved

    async def use(self, version: Version, run_uid: str) -> None:
        """Notes that a run reads a version. Raises NotFound where it was deleted in between."""
        async with self._db.transaction() as conn:
            await keeping.enter(conn, version.team)
            if await keeping.gone(conn, [version.uid]):
                raise unknown_version(version.team, version.artifact, version.number)
            await rows.add_use(conn, version.team, run_uid, version.uid, self._clock.now())

    async def lineage(self, version: Version) -> tuple[list[str], list[str]]:
        """Names of the versions that this one comes from, and uids of the runs that used it."""
        inputs = list(version.sources)
        if version.run_uid:
            read = await rows.inputs(self._db, version.team, version.run_uid)
            inputs += [name for name in read if name not in inputs and name != version.name]
        return inputs, await rows.used_by(self._db, version.team, version.uid)

    async def rotten(self, version: Version) -> dict[str, bool]:
        """Parts of a version, given with its entries, that are known as rotten; whether nothing is there."""
        return await scrub.known(self._db, version.team, manifest.parts(version.entries))

    async def check_parts(self, team: str, entries: Sequence[Entry]) -> None:
        """Raises FailedPrecondition (PARTS_MISSING, PART_SIZE_MISMATCH) where the store lacks a part of
        these."""
        await self._verify(team, manifest.parts(entries))

    async def _repeated(self, draft: Draft) -> Version | None:
        """The version that this very request made before. Raises InvalidArgument (REQUEST_ID_REUSED)."""
        known = await rows.by_request(self._db, draft.team, draft.request_id)
        if known is None:
            return None
        same = (known.artifact, known.digest, known.creator, known.run_uid)
        if same != (draft.artifact, manifest.digest(draft.entries), draft.creator, draft.run_uid):
            raise InvalidArgument(
                "request_id was used before for another request", reason=Reason.REQUEST_ID_REUSED
            )
        return known

    async def _sizes(self, team: str, wanted: Collection[str]) -> dict[str, int]:
        """True sizes of those blobs that the store has. What is seen for the first time has to be what its
        digest says; what is not counts as missing, so that it is uploaded again."""
        doomed = await blobs.doomed(self._db, team, wanted)
        rotten = await scrub.known(self._db, team, wanted)
        known = await blobs.sizes(self._db, team, wanted)
        unknown = [digest for digest in wanted if digest not in known and digest not in doomed]
        anew = [digest for digest in unknown if digest in rotten]
        right = await self._objects.right({blob_key(team, digest): digest for digest in unknown})
        for digest in anew:
            # Its bytes were wrong, so that they are read wherever they lie.
            if await self._objects.digest(blob_key(team, digest)) != digest:
                right.pop(digest, None)
        return known | right

    async def _verify(self, team: str, sizes: Mapping[str, int]) -> None:
        there = await self._sizes(team, sizes)
        missing = [digest for digest in sizes if digest not in there]
        if missing:
            raise FailedPrecondition(
                f"the store lacks {len(missing)} of {len(sizes)} parts; upload them and commit again",
                reason=Reason.PARTS_MISSING,
                digests=",".join(missing[:_NAMED_IN_ERRORS]),
            )
        for digest, size in sizes.items():
            if there[digest] != size:
                raise FailedPrecondition(
                    f"part {digest} has {there[digest]:,} bytes in the store, {size:,} were declared",
                    reason=Reason.PART_SIZE_MISMATCH,
                    digests=digest,
                )

    async def _checked_commit(self, draft: Draft, sources: Sequence[str]) -> Version:
        sizes = manifest.parts(draft.entries)

        async def write(conn: Any) -> Version:
            return await add_version(conn, draft, sizes, sources, self._clock)

        return await self.with_parts(draft.team, sizes, write)

    async def with_parts(
        self, team: str, sizes: Mapping[str, int], write: Callable[[Any], Awaitable[Made]]
    ) -> Made:
        """Looks at parts, then writes what is made of them, in a transaction. Where something was collected
        in between it looks again: what was there may be gone.

        Raises FailedPrecondition (PARTS_MISSING, PART_SIZE_MISMATCH) where the store lacks something.
        """
        for _ in range(_MOST_EPOCHS):
            epoch = await blobs.epoch(self._db, team)
            await self._verify(team, sizes)
            # What was uploaded must be on the disk before anything says that it is there.
            await self._objects.sync()
            async with self._db.transaction() as conn:
                await keeping.enter(conn, team)
                if epoch == await blobs.epoch(conn, team):
                    return await write(conn)
        raise Unavailable(
            "so much is being collected that this cannot be committed now", reason=Reason.CONFLICT
        )


async def add_version(
    conn: Any, draft: Draft, sizes: Mapping[str, int], sources: Sequence[str], clock: Clock
) -> Version:
    """Writes the next version, inside of a transaction; `sizes` are those of its parts, `sources` uids.

    That the parts are there, and were not collected since, was made sure of. Raises NotFound where a source
    was deleted in between.
    """
    await keeping.enter(conn, draft.team)
    if await keeping.gone(conn, sources):
        raise NotFound("a source was deleted in this moment; name another", reason=Reason.ARTIFACT_NOT_FOUND)
    # The artifact's row is held from here on: the time is read inside, so that it grows with the number.
    number = await rows.next_number(conn, draft.team, draft.artifact, draft.kind, clock.now())
    now = clock.now()
    made = _version(draft, number, now)
    await blobs.add(conn, draft.team, sizes, holder=made.uid, now=now)
    await rows.add_version(conn, made)
    await rows.add_sources(conn, made.uid, sources)
    aliases = {*draft.aliases, manifest.LATEST}
    await rows.move_aliases(conn, draft.team, draft.artifact, aliases, number, actor=draft.creator, now=now)
    made = replace(made, aliases=sorted(aliases))
    fact = events_pb2.TrackerEvent(
        artifact_committed=events_pb2.ArtifactCommitted(version=wire_artifacts.version(made, entries=False))
    )
    await wire.tell(conn, fact, RunKey(made.team, made.uid), "artifact", now, actor=draft.creator)
    return made


async def move_alias(conn: Any, version: Version, alias: str, *, actor: str, clock: Clock) -> Version:
    """Lets an alias name a version, inside of `held_still`, and tells so."""
    now = clock.now()
    await rows.move_aliases(
        conn, version.team, version.artifact, [alias], version.number, actor=actor, now=now
    )
    moved = await again(conn, version, entries=True)
    await _tell_alias(conn, moved, alias, removed=False, actor=actor, now=now)
    return moved


async def take_alias(conn: Any, version: Version, alias: str, *, actor: str, clock: Clock) -> Version | None:
    """Takes an alias from a version, inside of `held_still`, and tells so; None where it has not got it."""
    if not await keeping.remove_alias(conn, version, alias):
        return None
    now = clock.now()
    await rows.note_moves(conn, version.team, version.artifact, [alias], None, actor=actor, now=now)
    left = await again(conn, version)
    await _tell_alias(conn, left, alias, removed=True, actor=actor, now=now)
    return left


async def _tell_alias(
    conn: Any, version: Version, alias: str, *, removed: bool, actor: str, now: datetime
) -> None:
    fact = events_pb2.TrackerEvent(
        artifact_aliased=events_pb2.ArtifactAliased(
            version=wire_artifacts.version(version, entries=False), alias=alias, removed=removed
        )
    )
    await wire.tell(conn, fact, RunKey(version.team, version.uid), "artifact", now, actor=actor)


@asynccontextmanager
async def held_still(
    db: Database, version: Version, *, alone: bool = False
) -> AsyncIterator[tuple[Any, Version]]:
    """A transaction in which the artifact stands still, and the version, without its files, as it is in it;
    `alone` for whoever deletes. Raises NotFound where it was deleted in between."""
    async with db.transaction() as conn:
        await (keeping.enter_alone if alone else keeping.enter)(conn, version.team)
        await rows.lock_artifact(conn, version.team, version.artifact)
        found = await rows.find(conn, version.team, version.artifact, version.number, entries=False)
        if found is None:
            raise unknown_version(version.team, version.artifact, version.number)
        yield conn, found


async def again(conn: Any, version: Version, *, entries: bool = False) -> Version:
    """A version after it was changed, inside of `held_still`."""
    found = await rows.find(conn, version.team, version.artifact, version.number, entries=entries)
    assert found is not None, "it was there under the same lock"
    return found


async def known_kind(db: Database, team: str, artifact: str) -> int:
    """The kind of an artifact. Raises NotFound."""
    found = await rows.kind(db, team, artifact)
    if found is None:
        raise NotFound(f"there is no artifact {artifact} in team {team}", reason=Reason.ARTIFACT_NOT_FOUND)
    return found


def unknown_version(team: str, artifact: str, which: object) -> NotFound:
    """The error for a version that is not there, or not any more."""
    ref = f"{artifact}:v{which}" if str(which).isdecimal() else f"{artifact}:{which}"
    return NotFound(f"there is no artifact {ref} in team {team}", reason=Reason.ARTIFACT_NOT_FOUND)


def _version(draft: Draft, number: int, now: datetime) -> Version:
    return Version(
        team=draft.team,
        artifact=draft.artifact,
        number=number,
        uid=new_uid(),
        kind=draft.kind,
        create_time=now,
        creator=draft.creator,
        run_uid=draft.run_uid,
        step=draft.step,
        metadata=draft.metadata,
        size=sum(entry.size for entry in draft.entries),
        digest=manifest.digest(draft.entries),
        request_id=draft.request_id,
        entries=sorted(draft.entries, key=lambda entry: entry.path),
        sources=draft.sources,
    )


CHECKPOINT: Final = int(artifact_pb2.ARTIFACT_KIND_CHECKPOINT)
