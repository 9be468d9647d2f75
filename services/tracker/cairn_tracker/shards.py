"""Checkpoints that several ranks write: each commits what it has, and the last one makes the version.

Nothing is seen of such a checkpoint before all ranks have; what a killed attempt left of one is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker import manifest
from cairn_tracker.artifacts import CHECKPOINT, Artifacts, Draft
from cairn_tracker.manifest import Entry
from cairn_tracker.store import artifacts as rows
from cairn_tracker.store import blobs
from cairn_tracker.store import shards as store
from cairn_tracker.store.artifacts import Version
from cairn_tracker.store.shards import Shard, Whole

MOST_RANKS: Final = 4096


class Shards:
    """What can be done with shards, for callers whose rights were checked."""

    def __init__(self, *, db: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._clock = clock

    async def commit(
        self, draft: Draft, *, rank: int, ranks: int, attempt: int, round: int
    ) -> Version | None:
        """Notes what one rank has of a checkpoint; the version, once all have. A rank may say it again; what
        it saves of a step that it had saved before is of another round, and makes another version.

        Raises InvalidArgument, also where two ranks have different files of one path, and as
        `Artifacts.commit`.
        """
        whole = _whole(draft, rank=rank, ranks=ranks, attempt=attempt, round=round)
        request_id = f"shards/{whole.run_uid}/{whole.artifact}/{attempt}/{whole.step}/{ranks}"
        if round:
            request_id += f"/{round}"
        known = await rows.by_request(self._db, draft.team, request_id)
        if known is not None:
            return known
        if draft.entries:
            manifest.check(draft.entries)
            await self._artifacts.check_parts(draft.team, draft.entries)
        async with self._db.transaction() as conn:
            await store.enter(conn, whole)
            await store.forget_attempts_before(conn, whole)
            await store.put(conn, whole, Shard(rank, draft.entries, dict(draft.metadata)), self._clock.now())
            found = await store.all_of(conn, whole)
        if len(found) < ranks:
            # The bytes of those who wait are nobody's yet: their grace begins anew with each that comes.
            parts = {part.digest: part.size for one in found for entry in one.entries for part in entry.parts}
            await blobs.ask(self._db, draft.team, parts, self._clock.now())
            return None
        about = {**found[0].metadata, "ranks": ranks, "folder": True}
        made = await self._artifacts.commit(
            replace(draft, entries=_merged(found), metadata=about, request_id=request_id)
        )
        await store.forget(self._db, whole)
        return made


def _whole(draft: Draft, *, rank: int, ranks: int, attempt: int, round: int) -> Whole:
    if not 1 <= ranks <= MOST_RANKS or not 0 <= rank < ranks or attempt < 0 or round < 0:
        raise InvalidArgument(
            f"shard: rank {rank} of {ranks} in attempt {attempt} is none; 1 to {MOST_RANKS:,} ranks, from 0",
            field="shard",
        )
    if draft.kind != CHECKPOINT or not draft.run_uid or draft.step is None:
        raise InvalidArgument("shard: only a run's checkpoint at a step has shards", field="shard")
    return Whole(draft.team, draft.run_uid, draft.artifact, attempt, draft.step, ranks, round)


def _merged(shards: Sequence[Shard]) -> list[Entry]:
    """The files of all ranks; what several have must be one and the same. Raises InvalidArgument."""
    found: dict[str, tuple[int, Entry]] = {}
    for shard in shards:
        for entry in shard.entries:
            rank, known = found.setdefault(entry.path, (shard.rank, entry))
            if known.digest != entry.digest:
                raise InvalidArgument(
                    f"entries: ranks {rank} and {shard.rank} have different files {entry.path!r}; "
                    "let each rank write under names of its own",
                    reason=Reason.ARTIFACT_INVALID,
                )
    return [entry for _, entry in found.values()]
