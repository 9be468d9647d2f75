"""Traces: told by clients, or heard from their spans alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from cairn.tracker.v1 import span_pb2, trace_pb2
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, NotFound, Reason
from cairn_tracker.batch import RunKey
from cairn_tracker.mlflow.errors import unknown_run
from cairn_tracker.mlflow.experiments import Experiments
from cairn_tracker.noted import note
from cairn_tracker.store import traces as store
from cairn_tracker.store.traces import StoredSpan, Trace

SPANS: Final = ("mlflow.trace.spansLocation", "TRACKING_STORE")
_NAME: Final = "mlflow.traceName"
RUN: Final = "mlflow.sourceRun"
"""Where a trace's metadata has its run."""
_TRACE_ID: Final = "mlflow.traceRequestId"
_PREVIEWS: Final = {"request": "mlflow.spanInputs", "response": "mlflow.spanOutputs"}
_LONGEST_PREVIEW: Final = 1_000
_LONGEST_NAME: Final = 250
_LONGEST_ID: Final = 100
_NANOS: Final = 1_000_000
_LATEST: Final = 2**63 - 1


class Traces:
    """What can be done with traces, for callers whose rights in the team were checked."""

    def __init__(self, *, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._experiments = Experiments(db=db, clock=clock)

    async def start(self, trace: Trace, *, of_run: str = "") -> Trace:
        """Writes what a client says of a trace; `of_run`: only as one of this run. Raises NotFound for an
        unknown experiment, or what is another run's."""
        await self._experiments.active(trace.team, trace.experiment_id)
        if of_run:
            told = trace.metadata.get(RUN, of_run)
            await self._check_own(trace.team, trace.experiment_id, told, [trace.trace_id], of_run=of_run)
            trace = replace(trace, metadata={**trace.metadata, RUN: of_run})
        await store.tell(self._db, trace)
        return await self.get(trace.team, trace.trace_id)

    async def hear(
        self, team: str, experiment_id: str, run_id: str, spans: Sequence[span_pb2.Span], *, of_run: str = ""
    ) -> None:
        """Adds spans, and their traces; `of_run` as in `start`. Raises NotFound for an unknown experiment,
        InvalidArgument for a span without ids or times."""
        by_trace: dict[str, list[span_pb2.Span]] = {}
        for span in spans:
            by_trace.setdefault(_trace_id(span), []).append(span)
        await self._experiments.active(team, experiment_id)
        if of_run:
            run_id = run_id or of_run
            await self._check_own(team, experiment_id, run_id, list(by_trace), of_run=of_run)
        async with self._db.transaction() as conn:
            # In one order, so that two that tell of the same traces do not wait for each other.
            for trace_id in sorted(by_trace):
                await store.hear(conn, _heard(team, experiment_id, run_id, trace_id, by_trace[trace_id]))
                await store.add_spans(conn, team, [_stored(trace_id, span) for span in by_trace[trace_id]])

    async def get(self, team: str, trace_id: str) -> Trace:
        """A trace. Raises NotFound (TRACE_NOT_FOUND)."""
        found = await store.get(self._db, team, [trace_id])
        if not found:
            raise unknown_trace(trace_id)
        return found[0]

    async def _check_own(
        self, team: str, experiment_id: str, run_id: str, trace_ids: Sequence[str], *, of_run: str
    ) -> None:
        """Holds that these are traces of this run, in its experiment, as far as they are there."""
        if run_id != of_run:
            raise unknown_run(run_id)
        if await store.experiment_of(self._db, team, of_run) != int(experiment_id):
            raise NotFound(
                f"No Experiment with id={experiment_id} exists", reason=Reason.EXPERIMENT_NOT_FOUND
            )
        for known in await store.get(self._db, team, trace_ids):
            if known.metadata.get(RUN) != of_run:
                raise unknown_trace(known.trace_id)

    async def change_tags(
        self, team: str, trace_id: str, *, set_tags: Mapping[str, str], remove_tags: Sequence[str]
    ) -> Trace:
        """Sets and removes tags. Raises NotFound for an unknown trace or tag."""
        async with self._db.transaction() as conn:
            found = await store.lock(conn, team, trace_id)
            if found is None:
                raise unknown_trace(trace_id)
            for key in remove_tags:
                if key not in found.tags:
                    raise NotFound(
                        f"No trace tag with key '{key[:80]}' for trace with ID '{trace_id[:80]}'",
                        reason=Reason.TRACE_NOT_FOUND,
                    )
            left = {key: value for key, value in found.tags.items() if key not in remove_tags}
            await store.set_tags(conn, team, trace_id, left | dict(set_tags))
            await _note(conn, "updated", team, trace_id, self._clock.now())
        return await self.get(team, trace_id)

    async def delete(self, team: str, experiment_id: str, trace_ids: Sequence[str]) -> int:
        """Deletes traces with their spans; how many there were."""
        async with self._db.transaction() as conn:
            count = await store.delete(conn, team, experiment_id, trace_ids)
            await self._gone(conn, team, experiment_id, count)
        return count

    async def delete_until(self, team: str, experiment_id: str, time: int, *, most: int) -> int:
        """Deletes the oldest traces, of up to this time; how many there were."""
        async with self._db.transaction() as conn:
            count = await store.delete_until(conn, team, experiment_id, time, most=most)
            await self._gone(conn, team, experiment_id, count)
        return count

    async def _gone(self, conn: Any, team: str, experiment_id: str, count: int) -> None:
        if count:
            what = f"{count} of experiment {experiment_id}"
            await _note(conn, "deleted", team, "-", self._clock.now(), what=what)


async def _note(conn: Any, event: str, team: str, trace_id: str, now: datetime, *, what: str = "") -> None:
    """Tells the audit. What traces hold is data, of which as little is told as of points."""
    name = f"teams/{team}/traces/{trace_id}"
    await note(conn, f"trace_{event}", RunKey(team, "traces"), name, now=now, what=what)


def _trace_id(span: span_pb2.Span) -> str:
    if len(span.trace_id) != 16 or len(span.span_id) != 8:
        raise InvalidArgument("spans: a span has a trace_id of 16 and a span_id of 8 bytes", field="spans")
    if not 0 < span.start_time_unix_nano <= _LATEST or span.end_time_unix_nano > _LATEST:
        raise InvalidArgument("spans: a span has a start, in nanoseconds since 1970", field="spans")
    given = _text(span, _TRACE_ID)
    if given and len(given) <= _LONGEST_ID and given.isprintable():
        return given.strip('"')
    return f"tr-{span.trace_id.hex()}"


def _heard(
    team: str, experiment_id: str, run_id: str, trace_id: str, spans: Sequence[span_pb2.Span]
) -> Trace:
    """What some spans tell of their trace."""
    start = min(span.start_time_unix_nano for span in spans) // _NANOS
    end = max(max(span.end_time_unix_nano, span.start_time_unix_nano) for span in spans) // _NANOS
    root = next((span for span in spans if not span.parent_span_id), None)
    state = trace_pb2.Trace.IN_PROGRESS
    if root is not None and root.end_time_unix_nano:
        failed = root.status.code == span_pb2.SpanStatus.STATUS_CODE_ERROR
        state = trace_pb2.Trace.ERROR if failed else trace_pb2.Trace.OK
    return Trace(
        team=team,
        trace_id=trace_id,
        experiment_id=experiment_id,
        request_time=start,
        state=int(state),
        execution_duration=end - start,
        request_preview=_text(root, _PREVIEWS["request"])[:_LONGEST_PREVIEW] if root else "",
        response_preview=_text(root, _PREVIEWS["response"])[:_LONGEST_PREVIEW] if root else "",
        metadata={RUN: run_id} if run_id else {},
        tags=dict([SPANS]) | ({_NAME: root.name.replace("\0", "")[:_LONGEST_NAME]} if root else {}),
        has_spans=True,
    )


def _text(span: span_pb2.Span, key: str) -> str:
    for attribute in span.attributes:
        if attribute.key == key:
            return attribute.value.string_value.replace("\0", "")
    return ""


def _stored(trace_id: str, span: span_pb2.Span) -> StoredSpan:
    return StoredSpan(trace_id, span.span_id.hex(), span.start_time_unix_nano, span.SerializeToString())


def unknown_trace(trace_id: str) -> NotFound:
    """The error for a trace that is not there, or is somebody else's."""
    return NotFound(f"Trace with ID '{trace_id[:80]}' not found.", reason=Reason.TRACE_NOT_FOUND)
