"""What is said of traces, for callers whose rights in the team were checked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from cairn_common.clock import Clock
from cairn_common.db import Connection, Database
from cairn_common.errors import InvalidArgument, NotFound, Reason
from cairn_common.ids import new_uid
from cairn_tracker.store import assessments as rows
from cairn_tracker.store import traces
from cairn_tracker.store.assessments import Assessment
from cairn_tracker.traces import RUN, unknown_trace

_MOST: Final = 1_000


class Assessments:
    """By trace and id."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(self, team: str, told: Assessment, *, of_run: str = "") -> Assessment:
        """Raises NotFound for an unknown trace (`of_run`: also one that is not of this run), or one to
        override, InvalidArgument for too many."""
        now = self._now()
        made = replace(told, assessment_id=f"a-{new_uid()}", create_time=now, update_time=now, valid=True)
        async with self._db.transaction() as conn:
            await _hold(conn, team, told.trace_id, of_run=of_run)
            if made.overrides:
                await _get(conn, team, told.trace_id, made.overrides)
            if not await rows.add(conn, team, made, most=_MOST):
                raise InvalidArgument(f"a trace has at most {_MOST:,} assessments", field="assessment")
        return made

    async def get(self, team: str, trace_id: str, assessment_id: str) -> Assessment:
        """Raises NotFound."""
        async with self._db.transaction() as conn:
            return await _get(conn, team, trace_id, assessment_id)

    async def update(self, team: str, told: Assessment, paths: Collection[str]) -> Assessment:
        """Changes what `paths` name. Raises NotFound, InvalidArgument for feedback where there is an
        expectation, or the other way round."""
        async with self._db.transaction() as conn:
            await _hold(conn, team, told.trace_id)
            known = await _get(conn, team, told.trace_id, told.assessment_id)
            content = {"feedback", "expectation"} & set(paths)
            if content and (told.expected is not known.expected or len(content) > 1):
                kind = "expectation" if known.expected else "feedback"
                raise InvalidArgument(
                    f"Cannot update the content of this assessment: it is {kind}", field="assessment"
                )
            made = replace(
                known,
                update_time=self._now(),
                name=told.name if "name" in paths else known.name,
                content=told.content if content else known.content,
                rationale=told.rationale if "rationale" in paths else known.rationale,
                metadata={**known.metadata, **told.metadata} if "metadata" in paths else known.metadata,
            )
            await rows.change(conn, team, made)
        return made

    async def delete(self, team: str, trace_id: str, assessment_id: str) -> Assessment:
        """The one that was there. Raises NotFound."""
        async with self._db.transaction() as conn:
            await _hold(conn, team, trace_id)
            gone = await _get(conn, team, trace_id, assessment_id)
            await rows.remove(conn, team, gone)
        return gone

    def _now(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


async def _hold(conn: Connection, team: str, trace_id: str, *, of_run: str = "") -> None:
    """Holds the trace to the end of the transaction: what is said of it changes one after the other."""
    found = await traces.lock(conn, team, trace_id)
    if found is None or (of_run and found.metadata.get(RUN) != of_run):
        raise unknown_trace(trace_id)


async def _get(conn: Connection, team: str, trace_id: str, assessment_id: str) -> Assessment:
    found = await rows.get(conn, team, trace_id, assessment_id)
    if found is None:
        raise NotFound(
            f"Assessment with ID '{assessment_id[:80]}' not found for trace '{trace_id[:80]}'",
            reason=Reason.TRACE_NOT_FOUND,
        )
    return found
