"""What nobody keeps leaves the store: it counts as missing, by the team's lock, and is deleted after that."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import Reason, Unavailable
from cairn_common.ids import new_uid
from cairn_common.objects import ObjectStore
from cairn_tracker.artifacts import blob_key
from cairn_tracker.batch import RunKey
from cairn_tracker.noted import note
from cairn_tracker.store import blobs, keeping
from cairn_tracker.store.blobs import Idle

log = structlog.get_logger(__name__)

STEP: Final = 500
_STEPS_A_ROUND: Final = 20
# A process that died in the middle leaves what it was deleting to others after this.
_CLAIM: Final = timedelta(minutes=10)
_LONGEST_STEP: Final = 300.0
# Jobs that were submitted up to so long ago may be unknown.
_FRESH: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Collected:
    """What was deleted."""

    blobs: int = 0
    bytes: int = 0


class Collector:
    """Deletes bytes that were idle for longer than `grace`."""

    def __init__(self, *, db: Database, objects: ObjectStore, clock: Clock, grace: timedelta) -> None:
        self._db = db
        self._objects = objects
        self._clock = clock
        self._grace = grace
        self._jobs_seen: datetime | None = None

    def jobs_seen(self, time: datetime) -> None:
        """All jobs that there were at that time are known, with the archives that they keep."""
        self._jobs_seen = time

    async def look(self, team: str) -> Idle:
        """What of a team's bytes nobody keeps. Nothing changes."""
        return await blobs.idle(self._db, team, self._clock.now() - self._grace)

    async def step(self, team: str = "") -> Collected:
        """Deletes some of what is due, of a team or of all; nothing where nothing is.

        Raises Unavailable where it is not known what jobs keep, or the store is away: what was given up by
        then is deleted by a later step.
        """
        self._check_jobs_known()
        before = self._clock.now() - self._grace
        for each in [team] if team else await blobs.due_teams(self._db, before, limit=STEP):
            async with self._db.transaction() as conn:
                await keeping.enter_alone(conn, each)
                await blobs.doom(conn, each, before, limit=STEP)
                if team:
                    name, now = f"teams/{team}/storage", self._clock.now()
                    await note(conn, "garbage_collected", RunKey(team, "storage"), name, now=now)
        return await self._delete(team)

    async def round(self) -> None:
        """A few steps, as long as anything is due."""
        for _ in range(_STEPS_A_ROUND):
            if not (done := await self.step()).blobs:
                return
            log.info("collection.deleted", blobs=done.blobs, bytes=done.bytes)

    async def _delete(self, team: str) -> Collected:
        now, who = self._clock.now(), new_uid()
        claimed = await blobs.claim(self._db, who, team=team, now=now, expired=now - _CLAIM, limit=STEP)
        # Long before anybody else may take the claim over.
        try:
            async with asyncio.timeout(_LONGEST_STEP):
                answers = await asyncio.gather(
                    *(self._objects.delete(blob_key(of, digest)) for of, digest, _ in claimed),
                    return_exceptions=True,
                )
        except TimeoutError:
            raise Unavailable(
                "the object store is too slow to delete from", reason=Reason.STORE_UNAVAILABLE
            ) from None
        done = [one for one, answer in zip(claimed, answers, strict=True) if answer is None]
        await blobs.forget(self._db, who, [(of, digest) for of, digest, _ in done])
        failed = next((answer for answer in answers if isinstance(answer, BaseException)), None)
        if failed is not None:
            raise failed
        return Collected(len(done), sum(size for _, _, size in done))

    def _check_jobs_known(self) -> None:
        seen = self._jobs_seen
        if seen is None or seen < self._clock.now() - max(_FRESH, self._grace / 2):
            raise Unavailable(
                "which archives jobs keep is not known now; nothing is collected until the scheduler answers",
                reason=Reason.NEIGHBOUR_UNAVAILABLE,
            )
