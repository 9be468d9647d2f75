"""Files that clients send to the store by themselves, in parts, for callers whose rights were checked.

The store puts the parts together under a key of the upload's own. Then the bytes are read for their digest,
and copied, by the store itself where it can, to where blobs lie: from there on it is a file like any other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import structlog

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, NotFound, Reason
from cairn_common.ids import new_uid
from cairn_common.objects import ObjectStore, UploadRefused
from cairn_tracker import manifest
from cairn_tracker.artifacts import URL_SECONDS, Artifacts
from cairn_tracker.manifest import Entry, Part
from cairn_tracker.mlflow.files import Files
from cairn_tracker.store import mlflow_uploads as rows
from cairn_tracker.store.mlflow_uploads import Upload

log = structlog.get_logger(__name__)

#: As many as 20 GiB have at MLflow's 10 MiB a part, twice.
MOST_PARTS: Final = 4_096
# Less than a call may take.
_WAIT_SECONDS: Final = 15.0
_KEPT: Final = timedelta(days=1)
_AT_ONCE: Final = 100


class Uploads:
    """From the first URL to the file, or to nothing."""

    def __init__(
        self, *, db: Database, objects: ObjectStore, artifacts: Artifacts, files: Files, clock: Clock
    ) -> None:
        self._db = db
        self._objects = objects
        self._artifacts = artifacts
        self._files = files
        self._clock = clock
        self._finishing: dict[tuple[str, str], asyncio.Task[Entry]] = {}

    async def create(self, team: str, path: str, *, parts: int) -> tuple[str, list[str]]:
        """An id, and a URL for each part. Raises InvalidArgument (ARTIFACT_INVALID)."""
        if not 1 <= parts <= MOST_PARTS:
            raise InvalidArgument(
                f"parts: {parts:,}; a file has 1 to {MOST_PARTS:,}: send larger ones",
                reason=Reason.ARTIFACT_INVALID,
            )
        await self._files.check_place(team, path)
        uid = new_uid()
        key = _key(team, uid)
        store_id = await self._objects.begin(key)
        await rows.add(self._db, Upload(team, uid, path, store_id), self._clock.now())
        numbers = range(1, parts + 1)
        return uid, [self._objects.presign_part(key, store_id, number, URL_SECONDS) for number in numbers]

    async def complete(self, team: str, path: str, uid: str, tags: Sequence[str]) -> Entry | None:
        """The file; None: that takes longer, ask again. Raises NotFound (ARTIFACT_NOT_FOUND), InvalidArgument
        (ARTIFACT_INVALID)."""
        if not 1 <= len(tags) <= MOST_PARTS or any(len(tag) > 200 for tag in tags):
            raise InvalidArgument(f"tags: 1 to {MOST_PARTS:,} can be given", reason=Reason.ARTIFACT_INVALID)
        upload = await self._get(team, path, uid)
        if upload.done:
            return await self._files.get(team, path)
        task = self._finishing.get((team, uid))
        if task is None:
            task = asyncio.create_task(self._finish(upload, tags))
            self._finishing[team, uid] = task
            task.add_done_callback(lambda task: self._ended(team, uid, task))
        done, _ = await asyncio.wait([task], timeout=_WAIT_SECONDS)
        if not done:
            return None
        return task.result()

    async def abort(self, team: str, path: str, uid: str) -> None:
        """Forgets an upload; no error where there is none."""
        try:
            upload = await self._get(team, path, uid)
        except NotFound:
            return
        if upload.done:
            return
        task = self._finishing.get((team, uid))
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._forget(upload)

    async def round(self) -> None:
        """Forgets what nobody ended for a day."""
        for upload in await rows.old(self._db, self._clock.now() - _KEPT, limit=_AT_ONCE):
            await self._forget(upload)

    def _ended(self, team: str, uid: str, task: asyncio.Task[Entry]) -> None:
        self._finishing.pop((team, uid), None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waits is told; somebody who has gone is not there to hear it.
            log.info("uploads.failed", upload=uid, error=type(error).__name__)

    async def _finish(self, upload: Upload, tags: Sequence[str]) -> Entry:
        key = _key(upload.team, upload.uid)
        # Whoever died in the middle may have come so far.
        size = await self._objects.size(key)
        if size is None:
            try:
                await self._objects.finish(key, upload.store_id, tags)
            except UploadRefused as error:
                raise InvalidArgument(
                    f"the store cannot put the parts together: {error.code}. Send the file again",
                    reason=Reason.ARTIFACT_INVALID,
                ) from error
            size = await self._objects.size(key)
        if size is None or size > manifest.LARGEST_FILE:
            await self._forget(upload)
            raise InvalidArgument(
                f"a file has at most {manifest.LARGEST_FILE // 2**30} GiB", reason=Reason.ARTIFACT_INVALID
            )
        digest = await self._objects.digest(key) if size else hashlib.sha256().hexdigest()
        if digest is None:
            raise _unknown(upload.uid)
        parts = [Part(digest, size)] if size else []
        for part in parts:
            await self._artifacts.adopt(upload.team, part, key)
        entry = Entry(path=upload.path, size=size, digest=digest, parts=parts)
        made = await self._files.put(upload.team, entry, largest_part=manifest.LARGEST_FILE)
        await rows.set_done(self._db, upload)
        await self._objects.delete(key)
        return made

    async def _get(self, team: str, path: str, uid: str) -> Upload:
        found = await rows.get(self._db, team, uid)
        if found is None or found.path != path:
            raise _unknown(uid)
        return found

    async def _forget(self, upload: Upload) -> None:
        key = _key(upload.team, upload.uid)
        if not upload.done:
            try:
                await self._objects.abort(key, upload.store_id)
            except UploadRefused as error:
                log.warning("uploads.not_aborted", upload=upload.uid, code=error.code)
        await self._objects.delete(key)
        await rows.remove(self._db, upload)


def _key(team: str, uid: str) -> str:
    return f"t/{team}/uploads/{uid}"


def _unknown(uid: str) -> NotFound:
    return NotFound(f"No such upload: '{uid[:80]}'", reason=Reason.ARTIFACT_NOT_FOUND)
