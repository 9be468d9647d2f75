"""Files by paths of a team's, for callers whose rights were checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, NotFound, Reason
from cairn_tracker import manifest
from cairn_tracker.artifacts import Artifacts
from cairn_tracker.batch import RunKey
from cairn_tracker.manifest import Entry
from cairn_tracker.noted import note
from cairn_tracker.store import artifacts as versions
from cairn_tracker.store import mlflow_files as rows
from cairn_tracker.store.keeping import enter
from cairn_tracker.store.mlflow_files import Item

#: Below this lie the files of versions that were committed as artifacts: `models/{artifact}/{number}/...`.
VERSIONS: Final = "models"
MOST_LISTED: Final = 10_000


class Files:
    """One by one, and written again as often as somebody likes."""

    def __init__(self, *, db: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._clock = clock

    async def check_place(self, team: str, path: str) -> None:
        """Raises InvalidArgument (ARTIFACT_INVALID) for a path that no file can have."""
        manifest.check_path(path)
        if path.split("/")[0] == VERSIONS:
            raise InvalidArgument(
                f"{VERSIONS}/... are files of versions, which never change", reason=Reason.ARTIFACT_INVALID
            )
        if await rows.crossed(self._db, team, path):
            raise InvalidArgument(
                f"{path[:200]!r} is a folder, or lies inside a file", reason=Reason.ARTIFACT_INVALID
            )

    async def put(self, team: str, entry: Entry, *, largest_part: int = manifest.LARGEST_PART) -> Entry:
        """Writes a file whose parts are in the store.

        Raises InvalidArgument (ARTIFACT_INVALID) for a path that cannot be, FailedPrecondition
        (PARTS_MISSING).
        """
        manifest.check([entry], largest_part=largest_part)
        await self.check_place(team, entry.path)

        async def write(conn: Any) -> None:
            await rows.put(conn, team, entry, self._clock.now())

        await self._artifacts.with_parts(team, manifest.parts([entry]), write)
        return entry

    async def get(self, team: str, path: str) -> Entry:
        """Raises NotFound (ARTIFACT_NOT_FOUND)."""
        version, inner = await self._version(team, path)
        if version is not None:
            found = next((entry for entry in version if entry.path == inner), None)
        else:
            found = await rows.get(self._db, team, path)
        if found is None:
            raise NotFound(f"No such artifact: '{path[:500]}'", reason=Reason.ARTIFACT_NOT_FOUND)
        return replace(found, path=path)

    async def listed(self, team: str, folder: str, *, after: str) -> list[Item]:
        """What lies in a folder, one more than `MOST_LISTED` where there are more."""
        version, inner = await self._version(team, folder)
        if version is None:
            return await rows.listed(self._db, team, folder, after=after, limit=MOST_LISTED + 1)
        found: dict[str, Item] = {}
        for entry in version:
            if inner and not entry.path.startswith(f"{inner}/"):
                continue
            name, slash, _ = entry.path[len(inner) + 1 if inner else 0 :].partition("/")
            found[name] = Item(name, bool(slash), 0 if slash else entry.size)
        return [found[name] for name in sorted(found) if name > after][: MOST_LISTED + 1]

    async def delete(self, team: str, path: str) -> int:
        """Deletes a file or a folder; how many files there were."""
        async with self._db.transaction() as conn:
            await enter(conn, team)
            count = await rows.delete(conn, team, path, self._clock.now())
            if count:
                name, now = f"teams/{team}/files/{path}", self._clock.now()
                await note(conn, "file_deleted", RunKey(team, "files"), name, now=now, what=f"{count} files")
            return count

    async def _version(self, team: str, path: str) -> tuple[list[Entry] | None, str]:
        """The files of the version that a path leads into, and the path in it; None for other paths."""
        parts = path.split("/")
        if parts[0] != VERSIONS or len(parts) < 3:
            return None, ""
        number = manifest.version_number(parts[2])
        found = None
        if number is not None:
            found = await versions.find(self._db, team, parts[1], number, entries=True)
        return (list(found.entries) if found else []), "/".join(parts[3:])
