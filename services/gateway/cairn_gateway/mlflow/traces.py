"""Traces, in MLflow's words and as OpenTelemetry's exporters send them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.message import DecodeError
from starlette.responses import Response

from cairn.tracker.v1 import assessment_pb2, span_pb2
from cairn.tracker.v1 import trace_pb2 as pb
from cairn_common.auth import Role
from cairn_gateway import wire
from cairn_gateway.http.coding import read_body
from cairn_gateway.mlflow import assessments
from cairn_gateway.mlflow.errors import MlflowError, invalid, missing
from cairn_gateway.mlflow.fields import LARGEST_BODY, Fields, as_object, missing_value, wrong_type
from cairn_gateway.mlflow.route import Asked, Route, empty
from cairn_gateway.wire import Json

_LOCATION: Final = "MLFLOW_EXPERIMENT"
_MOST_FOUND: Final = 500
_USUAL: Final = 100
_MOST_TRACES: Final = 1_000
# Of spans in one call to the tracker, and of all that an answer holds.
_CALL_BYTES: Final = 3 * 1024**2
_ANSWER_BYTES: Final = 256 * 1024**2


async def start(asked: Asked) -> Json:
    """A trace, without its spans."""
    trace = as_object("trace", asked.fields.values.get("trace") or {})
    info = trace.get("trace_info")
    if not isinstance(info, dict):
        raise missing_value("trace")
    fields = Fields(info)
    trace_id = fields.text("trace_id", required=True)
    said = [assessments.told(one, trace_id=trace_id) for one in fields.objects("assessments")]
    request = pb.StartTraceRequest(parent=asked.parent, trace=_told(fields))
    made = await asked.call("TraceService/StartTrace", request, pb.Trace)
    known = [_what(one) for one in made.assessments]
    for one in said:
        # Who tells of a trace again has not said it twice.
        if _what(one) not in known:
            made.assessments.append(await assessments.add(asked, one))
    return {"trace": {"trace_info": _info(made)}}


async def get_info(asked: Asked) -> Json:
    """A trace, without its spans."""
    return {"trace": {"trace_info": _info(await _one(asked, _id(asked)))}}


async def get(asked: Asked) -> Json:
    """A trace with its spans."""
    trace = await _one(asked, asked.fields.text("trace_id", required=True))
    return {"trace": (await _with_spans(asked, [trace]))[0]}


async def batch_get(asked: Asked) -> Json:
    """Traces with their spans; those that are not there are left out."""
    found = await _several(asked)
    return {"traces": await _with_spans(asked, found)} if found else {}


async def batch_get_infos(asked: Asked) -> Json:
    """Traces without their spans; those that are not there are left out."""
    found = await _several(asked)
    return {"trace_infos": [_info(trace) for trace in found]} if found else {}


async def search(asked: Asked) -> Json:
    """Traces that a filter holds for."""
    fields = asked.fields
    experiments = [
        Fields(as_object("mlflow_experiment", place.values.get("mlflow_experiment"))).text("experiment_id")
        for place in fields.objects("locations", required=True)
        if place.values.get("mlflow_experiment") is not None
    ]
    if not experiments:
        return {}
    size = fields.whole("max_results")
    if size is not None and not 0 < size <= _MOST_FOUND:
        raise wrong_type("max_results", size)
    request = pb.SearchTracesRequest(
        parent=asked.parent,
        experiment_ids=experiments,
        filter=fields.text("filter"),
        order_by=fields.text_items("order_by"),
        page_size=size or _USUAL,
        page_token=fields.text("page_token"),
    )
    found = await asked.call("TraceService/SearchTraces", request, pb.SearchTracesResponse)
    made: dict[str, Any] = {"traces": [_info(trace) for trace in found.traces]} if found.traces else {}
    return made | ({"next_page_token": found.next_page_token} if found.next_page_token else {})


async def set_tag(asked: Asked) -> Json:
    """Sets a tag of a trace."""
    key = asked.fields.text("key", required=True)
    await _change(asked, set_tags={key: asked.fields.text("value")})
    return empty()


async def delete_tag(asked: Asked) -> Json:
    """Takes a tag from a trace. One that it has not is RESOURCE_DOES_NOT_EXIST."""
    await _change(asked, remove_tags=[asked.fields.text("key", required=True)])
    return empty()


async def delete(asked: Asked) -> Json:
    """Deletes traces of an experiment."""
    fields = asked.fields
    request = pb.DeleteTracesRequest(
        parent=asked.parent,
        experiment_id=fields.text("experiment_id", required=True),
        trace_ids=fields.text_items("request_ids"),
        max_timestamp=fields.whole("max_timestamp_millis"),
        max_traces=fields.whole("max_traces"),
    )
    done = await asked.call("TraceService/DeleteTraces", request, pb.DeleteTracesResponse)
    return {"traces_deleted": done.count}


async def export(asked: Asked) -> Response:
    """Spans as OTLP over HTTP has them."""
    headers = asked.request.headers
    experiment = headers.get("x-mlflow-experiment-id", "")
    if not experiment:
        raise missing_value("x-mlflow-experiment-id")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-protobuf":
        raise invalid(f"Invalid Content-Type: {kind[:80]}. Expected: application/x-protobuf")
    batch = _batch(await read_body(asked.request, most=LARGEST_BODY))
    spans = [
        span for resource in batch.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]
    if not spans:
        raise invalid("Invalid OpenTelemetry format - no spans found")
    for some in _in_calls(spans):
        request = pb.ExportSpansRequest(
            parent=asked.parent,
            experiment_id=experiment,
            run_id=headers.get("x-mlflow-run-id", ""),
            spans=some,
        )
        await asked.call("TraceService/ExportSpans", request, pb.ExportSpansResponse)
    return Response(b"", media_type="application/x-protobuf")


def _what(value: assessment_pb2.Assessment) -> tuple[Any, ...]:
    content = value.expectation if value.HasField("expectation") else value.feedback
    place = (value.name, value.span_id, value.source_type, value.source_id, value.WhichOneof("content"))
    return (*place, wire.to_json(content))


def _batch(body: bytes) -> span_pb2.SpanBatch:
    try:
        return span_pb2.SpanBatch.FromString(body)
    except DecodeError:
        raise invalid("Invalid OpenTelemetry format") from None


def _in_calls(spans: Sequence[span_pb2.Span]) -> Iterable[list[span_pb2.Span]]:
    """As many spans at once as one call takes."""
    some: list[span_pb2.Span] = []
    size = 0
    for span in spans:
        if some and size + span.ByteSize() > _CALL_BYTES:
            yield some
            some, size = [], 0
        some.append(span)
        size += span.ByteSize()
    yield some


async def _one(asked: Asked, trace_id: str) -> pb.Trace:
    request = pb.GetTracesRequest(parent=asked.parent, trace_ids=[trace_id])
    found = await asked.call("TraceService/GetTraces", request, pb.GetTracesResponse)
    if not found.traces:
        raise missing(f"Trace with ID '{trace_id[:80]}' not found.")
    return found.traces[0]


async def _several(asked: Asked) -> Sequence[pb.Trace]:
    trace_ids = asked.fields.text_items("trace_ids")
    if not 0 < len(trace_ids) <= _MOST_TRACES:
        raise missing_value("trace_ids")
    request = pb.GetTracesRequest(parent=asked.parent, trace_ids=trace_ids)
    found = (await asked.call("TraceService/GetTraces", request, pb.GetTracesResponse)).traces
    experiments = asked.fields.text_items("experiment_ids")
    return [trace for trace in found if not experiments or trace.experiment_id in experiments]


async def _with_spans(asked: Asked, traces: Sequence[pb.Trace]) -> list[dict[str, Any]]:
    spans: dict[str, list[Json]] = {trace.trace_id: [] for trace in traces}
    request = pb.ListSpansRequest(parent=asked.parent, trace_ids=list(spans))
    size = 0
    while True:
        page = await asked.call("TraceService/ListSpans", request, pb.ListSpansResponse)
        size += page.ByteSize()
        if size > _ANSWER_BYTES:
            raise MlflowError("BAD_REQUEST", "these traces have more than 256 MiB; ask for fewer at once")
        for item in page.spans:
            spans[item.trace_id].append(wire.to_json(item.span))
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    return [{"trace_info": _info(trace), "spans": spans[trace.trace_id]} for trace in traces]


async def _change(asked: Asked, **fields: Any) -> pb.Trace:
    request = pb.UpdateTraceRequest(parent=asked.parent, trace_id=_id(asked), **fields)
    return await asked.call("TraceService/UpdateTrace", request, pb.Trace)


def _id(asked: Asked) -> str:
    trace_id: str = asked.request.path_params["trace_id"]
    return trace_id


def _info(trace: pb.Trace) -> dict[str, Any]:
    """A trace as MLflow's clients read it."""
    made: dict[str, Any] = {
        "trace_id": trace.trace_id,
        "trace_location": {
            "type": _LOCATION, "mlflow_experiment": {"experiment_id": trace.experiment_id},
        },
        "request_time": trace.request_time.ToJsonString(),
        "state": pb.Trace.State.Name(trace.state),
        "trace_metadata": dict(trace.metadata),
        "tags": {"mlflow.artifactLocation": trace.location, **trace.tags},
    }  # fmt: skip
    if trace.HasField("execution_duration"):
        made["execution_duration"] = trace.execution_duration.ToJsonString()
    if trace.assessments:
        made["assessments"] = [assessments.said(one) for one in trace.assessments]
    for name in ("client_request_id", "request_preview", "response_preview"):
        if text := getattr(trace, name):
            made[name] = text
    return made


def _told(info: Fields) -> pb.Trace:
    """A trace as a client tells of it."""
    place = Fields(as_object("trace_location", info.values.get("trace_location") or {}))
    experiment = Fields(as_object("mlflow_experiment", place.values.get("mlflow_experiment") or {}))
    trace = pb.Trace(
        trace_id=info.text("trace_id", required=True),
        client_request_id=info.text("client_request_id"),
        experiment_id=experiment.text("experiment_id", required=True),
        request_preview=info.text("request_preview"),
        response_preview=info.text("response_preview"),
        state=_state(info),
        metadata=_texts(info, "trace_metadata"),
        tags=_texts(info, "tags"),
    )
    trace.tags.pop("mlflow.artifactLocation", None)
    trace.request_time.CopyFrom(_time(info.text("request_time", required=True)))
    if info.text("execution_duration"):
        trace.execution_duration.CopyFrom(_duration(info.text("execution_duration")))
    return trace


def _state(info: Fields) -> pb.Trace.State.ValueType:
    given = info.text("state")
    if given in pb.Trace.State.keys():  # noqa: SIM118 - an enum's wrapper is no mapping
        return pb.Trace.State.Value(given)
    raise wrong_type("state", given)


def _texts(info: Fields, name: str) -> dict[str, str]:
    found = as_object(name, info.values.get(name) or {})
    if not all(isinstance(value, str) for value in found.values()):
        raise wrong_type(name, dict(found))
    return dict(found)


def _time(text: str) -> timestamp_pb2.Timestamp:
    made = timestamp_pb2.Timestamp()
    try:
        made.FromJsonString(text)
    except ValueError:
        raise wrong_type("request_time", text) from None
    return made


def _duration(text: str) -> duration_pb2.Duration:
    made = duration_pb2.Duration()
    try:
        made.FromJsonString(text)
    except ValueError:
        raise wrong_type("execution_duration", text) from None
    return made


def _of(method: str, path: str, role: Role, handler: Any, *, run_token: bool = False) -> Route:
    return Route(method, f"/api/3.0/mlflow/traces{path}", role, handler, run_token=run_token)


_V2: Final = "/api/2.0/mlflow/traces"
ROUTES: Final[tuple[Route, ...]] = (
    Route("POST", "/v1/traces", Role.MEMBER, export, streams=True, run_token=True),
    _of("POST", "", Role.MEMBER, start, run_token=True),
    _of("POST", "/search", Role.VIEWER, search),
    _of("GET", "/get", Role.VIEWER, get),
    _of("GET", "/batchGet", Role.VIEWER, batch_get),
    _of("POST", "/batchGetInfos", Role.VIEWER, batch_get_infos),
    _of("POST", "/delete-traces", Role.MEMBER, delete),
    _of("GET", "/{trace_id}", Role.VIEWER, get_info),
    _of("PATCH", "/{trace_id}/tags", Role.MEMBER, set_tag),
    _of("DELETE", "/{trace_id}/tags", Role.MEMBER, delete_tag),
    Route("POST", f"{_V2}/delete-traces", Role.MEMBER, delete),
    Route("PATCH", f"{_V2}/{{trace_id}}/tags", Role.MEMBER, set_tag),
    Route("DELETE", f"{_V2}/{{trace_id}}/tags", Role.MEMBER, delete_tag),
)
