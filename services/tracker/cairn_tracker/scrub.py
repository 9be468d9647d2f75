"""Reads again what lies in the store, slowly all the time, or a version's at once: rot is found and told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from cairn.tracker.v1 import events_pb2
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.objects import ObjectStore
from cairn_tracker import wire, wire_artifacts
from cairn_tracker.artifacts import blob_key
from cairn_tracker.batch import RunKey
from cairn_tracker.noted import note
from cairn_tracker.store import artifacts as rows
from cairn_tracker.store import keeping
from cairn_tracker.store import scrub as store
from cairn_tracker.store.artifacts import Version
from cairn_tracker.store.scrub import Stored

log = structlog.get_logger(__name__)

_PAGE: Final = 100
_BYTES_A_CALL: Final = 256 * 2**20
_PARTS_A_CALL: Final = 500


@dataclass(frozen=True, slots=True)
class Checked:
    """A piece of a version's check: how many bytes were read, and where the next piece begins; None: done."""

    bytes: int
    after: int | None
    # Digests of parts that are rotten, and whether nothing is there.
    rotten: Mapping[str, bool]


class Scrub:
    """Reads bytes and compares them with their digests: `rate` bytes a second, each every `period`."""

    def __init__(
        self, *, db: Database, objects: ObjectStore, clock: Clock, rate: float, period: timedelta
    ) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock
        self._rate = rate
        self._period = period

    async def round(self) -> int:
        """Reads what was not read for a period, as fast as it may; returns how much of that was rotten."""
        rotten = 0
        while self._rate > 0:
            page = await store.unread(self._db, self._clock.now() - self._period, limit=_PAGE)
            for blob in page:
                rotten += await self._read(blob) is not None
                await asyncio.sleep(blob.size / self._rate)
            if len(page) < _PAGE:
                break
        return rotten

    async def verify(self, version: Version, *, after: int) -> Checked:
        """Reads some of a version's parts, from the `after`-th on. Its entries are given."""
        if not after:
            name, now = wire_artifacts.version(version, entries=False).name, self._clock.now()
            async with self._db.transaction() as conn:
                await note(conn, "version_verified", RunKey(version.team, version.uid), name, now=now)
        parts = list(dict.fromkeys(part.digest for entry in version.entries for part in entry.parts))
        known = {blob.digest: blob for blob in await store.stored(self._db, version.team, parts[after:])}
        read, place, rotten = 0, after, dict[str, bool]()
        for digest in parts[after : after + _PARTS_A_CALL]:
            if read >= _BYTES_A_CALL:
                break
            place += 1
            missing = await self._read(known[digest]) if digest in known else True
            if missing is not None:
                rotten[digest] = missing
            read += known[digest].size if digest in known else 0
        return Checked(read, place if place < len(parts) else None, rotten)

    async def _read(self, blob: Stored) -> bool | None:
        """None: it is sound; else whether nothing is there."""
        found = await self._objects.digest(blob_key(blob.team, blob.digest))
        now = self._clock.now()
        if found == blob.digest:
            await store.sound(self._db, blob, now)
            return None
        async with self._db.transaction() as conn:
            # Nothing is collected meanwhile: a blob that is there now was there when it was read.
            await keeping.enter(conn, blob.team)
            for artifact, number in await store.rotten(conn, blob, now, missing=found is None):
                version = await rows.find(conn, blob.team, artifact, number)
                if version is None:
                    continue
                fact = events_pb2.TrackerEvent(
                    artifact_rotten=events_pb2.ArtifactRotten(
                        version=wire_artifacts.version(version, entries=False),
                        paths=[
                            e.path for e in version.entries if any(p.digest == blob.digest for p in e.parts)
                        ][:100],
                    )
                )
                await wire.tell(conn, fact, RunKey(version.team, version.uid), "artifact", now)
                log.warning("scrub.rotten", version=version.name, blob=blob.digest, missing=found is None)
        return found is None
