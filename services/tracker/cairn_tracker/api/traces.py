"""TraceService."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import assessment_pb2, trace_pb2, trace_pb2_grpc
from cairn_common.auth import Access, Role, access
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_tracker import model_names, registry_search, trace_search, wire_assessments, wire_traces
from cairn_tracker.api.names import team_of
from cairn_tracker.assessments import Assessments
from cairn_tracker.store import traces as store
from cairn_tracker.store.assessments import of_traces
from cairn_tracker.store.traces import StoredSpan, Trace
from cairn_tracker.traces import Traces

NAME: Final = "cairn.tracker.v1.TraceService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/StartTrace": access(Role.MEMBER, run_token=True),
    f"/{NAME}/ExportSpans": access(Role.MEMBER, run_token=True),
    f"/{NAME}/GetTraces": access(Role.VIEWER),
    f"/{NAME}/ListSpans": access(Role.VIEWER),
    f"/{NAME}/SearchTraces": access(Role.VIEWER),
    f"/{NAME}/UpdateTrace": access(Role.MEMBER),
    f"/{NAME}/DeleteTraces": access(Role.MEMBER),
    f"/{NAME}/CreateAssessment": access(Role.MEMBER, run_token=True),
    f"/{NAME}/GetAssessment": access(Role.VIEWER),
    f"/{NAME}/UpdateAssessment": access(Role.MEMBER),
    f"/{NAME}/DeleteAssessment": access(Role.MEMBER),
}

_MOST: Final = 1_000
_MOST_SPANS: Final = 10_000
_MOST_FOUND: Final = 500
# Of spans in one answer, and how many are read from the database at once.
_MOST_BYTES: Final = 2 * 1024**2
_AT_ONCE: Final = 50
_LARGEST_SPAN: Final = 3 * 1024**2
_ALL: Final = 2**31 - 1
_CHANGEABLE: Final = frozenset({"name", "feedback", "expectation", "rationale", "metadata"})

Context = aio.ServicerContext[Any, Any]
Place = tuple[str, int, str]


class TraceApi(trace_pb2_grpc.TraceServiceServicer):
    """What applications did for one request."""

    def __init__(self, *, db: Database, traces: Traces, assessments: Assessments) -> None:
        self._db = db
        self._traces = traces
        self._assessments = assessments

    async def StartTrace(self, request: trace_pb2.StartTraceRequest, context: Context) -> trace_pb2.Trace:
        """Writes all of a trace but its spans."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        told = wire_traces.told(team, request.trace)
        made = await self._traces.start(told, of_run=caller().run_uid)
        return (await self._whole(team, [made]))[0]

    async def ExportSpans(
        self, request: trace_pb2.ExportSpansRequest, context: Context
    ) -> trace_pb2.ExportSpansResponse:
        """Adds spans."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        if len(request.spans) > _MOST_SPANS:
            raise InvalidArgument(f"spans: at most {_MOST_SPANS:,} can be sent at once", field="spans")
        if any(span.ByteSize() > _LARGEST_SPAN for span in request.spans):
            raise InvalidArgument("spans: a span has at most 3 MiB", field="spans")
        experiment_id = model_names.check_text("experiment_id", request.experiment_id)
        run_id = model_names.check_text("run_id", request.run_id)
        await self._traces.hear(team, experiment_id, run_id, request.spans, of_run=caller().run_uid)
        return trace_pb2.ExportSpansResponse()

    async def GetTraces(
        self, request: trace_pb2.GetTracesRequest, context: Context
    ) -> trace_pb2.GetTracesResponse:
        """Traces by their ids."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        _check_count(len(request.trace_ids), "trace_ids")
        found = await store.get(self._db, team, request.trace_ids)
        return trace_pb2.GetTracesResponse(traces=await self._whole(team, found))

    async def ListSpans(
        self, request: trace_pb2.ListSpansRequest, context: Context
    ) -> trace_pb2.ListSpansResponse:
        """Spans of traces."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        _check_count(len(request.trace_ids), "trace_ids")
        scope = f"spans/{team}/{'/'.join(request.trace_ids)}"
        token = request.page_token
        place: Place = decode_token(token, scope=scope, read=_place) if token else ("", 0, "")
        found, more = await self._spans(team, request.trace_ids, place)
        following = ""
        if more:
            last = found[-1]
            at: dict[str, str | int] = {
                "trace": last.trace_id,
                "start": last.start_time,
                "span": last.span_id,
            }
            following = encode_token(at, scope=scope)
        return trace_pb2.ListSpansResponse(
            spans=[wire_traces.item(one) for one in found],
            next_page_token=following,
        )

    async def SearchTraces(
        self, request: trace_pb2.SearchTracesRequest, context: Context
    ) -> trace_pb2.SearchTracesResponse:
        """Traces that a filter holds for."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        _check_count(len(request.experiment_ids), "experiment_ids")
        size = page_size(request.page_size, most=_MOST_FOUND)
        place = registry_search.offset(request.page_token)
        wanted = trace_search.search(
            team, request.experiment_ids, request.filter, request.order_by, offset=place, limit=size + 1
        )
        found = await store.search(self._db, wanted)
        page = await self._whole(team, found[:size])
        fitting = _fitting(page)
        more = registry_search.page_token(place + fitting) if fitting < len(found) else ""
        return trace_pb2.SearchTracesResponse(traces=page[:fitting], next_page_token=more)

    async def UpdateTrace(self, request: trace_pb2.UpdateTraceRequest, context: Context) -> trace_pb2.Trace:
        """Sets and removes tags."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        changed = await self._traces.change_tags(
            team,
            request.trace_id,
            set_tags=model_names.check_labels("tags", request.set_tags),
            remove_tags=list(request.remove_tags),
        )
        return (await self._whole(team, [changed]))[0]

    async def DeleteTraces(
        self, request: trace_pb2.DeleteTracesRequest, context: Context
    ) -> trace_pb2.DeleteTracesResponse:
        """Deletes traces with their spans."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        by_time = request.HasField("max_timestamp")
        if by_time == bool(request.trace_ids) or (request.trace_ids and request.HasField("max_traces")):
            raise InvalidArgument(
                "Either `max_timestamp_millis` or `trace_ids` must be specified, not both, and `max_traces` "
                "with the former alone.",
                field="trace_ids",
            )
        if by_time:
            most = request.max_traces if request.HasField("max_traces") else _ALL
            if most <= 0:
                raise InvalidArgument(f"max_traces: {most} is not positive", field="max_traces")
            count = await self._traces.delete_until(
                team, request.experiment_id, request.max_timestamp, most=most
            )
        else:
            _check_count(len(request.trace_ids), "trace_ids")
            count = await self._traces.delete(team, request.experiment_id, request.trace_ids)
        return trace_pb2.DeleteTracesResponse(count=count)

    async def CreateAssessment(
        self, request: trace_pb2.CreateAssessmentRequest, context: Context
    ) -> assessment_pb2.Assessment:
        """Says something of a trace."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        told = wire_assessments.told(request.assessment, new=True)
        made = await self._assessments.create(team, told, of_run=caller().run_uid)
        return wire_assessments.assessment(made)

    async def GetAssessment(
        self, request: trace_pb2.GetAssessmentRequest, context: Context
    ) -> assessment_pb2.Assessment:
        """What was said."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        found = await self._assessments.get(team, request.trace_id, request.assessment_id)
        return wire_assessments.assessment(found)

    async def UpdateAssessment(
        self, request: trace_pb2.UpdateAssessmentRequest, context: Context
    ) -> assessment_pb2.Assessment:
        """Says it otherwise."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        paths = list(request.update_mask.paths)
        if unknown := set(paths) - _CHANGEABLE:
            raise InvalidArgument(
                f"update_mask: {min(unknown)[:40]!r} is none of {', '.join(sorted(_CHANGEABLE))}",
                field="update_mask",
            )
        told = wire_assessments.told(request.assessment, new=False)
        if "name" in paths and not told.name:
            raise InvalidArgument("name: it is empty", field="name")
        return wire_assessments.assessment(await self._assessments.update(team, told, paths))

    async def DeleteAssessment(
        self, request: trace_pb2.DeleteAssessmentRequest, context: Context
    ) -> assessment_pb2.Assessment:
        """Takes it back."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        gone = await self._assessments.delete(team, request.trace_id, request.assessment_id)
        return wire_assessments.assessment(gone)

    async def _whole(self, team: str, traces: Sequence[Trace]) -> list[trace_pb2.Trace]:
        said = await of_traces(self._db, team, [one.trace_id for one in traces])
        return [
            wire_traces.trace(one, [wire_assessments.assessment(item) for item in said.get(one.trace_id, ())])
            for one in traces
        ]

    async def _spans(self, team: str, trace_ids: Any, place: Place) -> tuple[list[StoredSpan], bool]:
        """The next spans, as many as a message takes, and whether there are more."""
        found: list[StoredSpan] = []
        size = 0
        while True:
            rows = await store.spans(self._db, team, trace_ids, after=place, limit=_AT_ONCE)
            for row in rows:
                if found and size + len(row.content) > _MOST_BYTES:
                    return found, True
                found.append(row)
                size += len(row.content)
            if len(rows) < _AT_ONCE:
                return found, False
            place = (rows[-1].trace_id, rows[-1].start_time, rows[-1].span_id)


def _place(at: Mapping[str, str | int]) -> Place:
    return str(at["trace"]), int(at["start"]), str(at["span"])


def _fitting(page: Sequence[trace_pb2.Trace]) -> int:
    """How many fit into one answer; at least one."""
    size = 0
    for place, item in enumerate(page):
        size += item.ByteSize()
        if size > _MOST_BYTES and place:
            return place
    return len(page)


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= _MOST:
        raise InvalidArgument(f"{field}: {count:,} were given; 1 to {_MOST:,} can be", field=field)
