"""Traces as the protos have them."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import duration_pb2, timestamp_pb2

from cairn.tracker.v1 import assessment_pb2, span_pb2, trace_pb2
from cairn_common.errors import InvalidArgument
from cairn_tracker import model_names
from cairn_tracker.store.traces import StoredSpan, Trace

_MILLIS = 1_000_000
_LATEST = 2**52


def trace(value: Trace, said: Sequence[assessment_pb2.Assessment]) -> trace_pb2.Trace:
    """A trace as the API has it, with what is said of it."""
    made = trace_pb2.Trace(
        trace_id=value.trace_id,
        client_request_id=value.client_request_id,
        experiment_id=value.experiment_id,
        request_preview=value.request_preview,
        response_preview=value.response_preview,
        state=trace_pb2.Trace.State.ValueType(value.state),
        metadata=value.metadata,
        tags=value.tags,
        location=f"mlflow-artifacts:/{value.experiment_id}/traces/{value.trace_id}/artifacts",
        has_spans=value.has_spans,
        assessments=said,
    )
    made.request_time.FromMilliseconds(value.request_time)
    if value.execution_duration is not None:
        made.execution_duration.FromMilliseconds(value.execution_duration)
    return made


def told(team: str, message: trace_pb2.Trace) -> Trace:
    """A trace as a client tells of it. Raises InvalidArgument."""
    return Trace(
        team=team,
        trace_id=trace_id(message.trace_id),
        experiment_id=model_names.check_text("experiment_id", message.experiment_id),
        request_time=_millis(message.request_time),
        state=int(message.state or trace_pb2.Trace.IN_PROGRESS),
        execution_duration=_duration(message.execution_duration)
        if message.HasField("execution_duration")
        else None,
        client_request_id=model_names.check_text("client_request_id", message.client_request_id),
        request_preview=message.request_preview.replace("\0", "")[:10_000],
        response_preview=message.response_preview.replace("\0", "")[:10_000],
        metadata=model_names.check_labels("trace_metadata", message.metadata),
        tags=model_names.check_labels("tags", message.tags),
    )


def trace_id(text: str) -> str:
    """A trace's id as it is. Raises InvalidArgument."""
    if not 0 < len(text) <= 100 or not text.isprintable() or "/" in text:
        raise InvalidArgument(f"trace_id: {text[:80]!r} is no id of a trace", field="trace_id")
    return text


def item(value: StoredSpan) -> trace_pb2.ListSpansResponse.Item:
    """A span as the API has it."""
    return trace_pb2.ListSpansResponse.Item(
        trace_id=value.trace_id, span=span_pb2.Span.FromString(value.content)
    )


def _millis(time: timestamp_pb2.Timestamp) -> int:
    found = time.seconds * 1000 + time.nanos // _MILLIS
    if not 0 <= found <= _LATEST:
        raise InvalidArgument("request_time: a time after 1970 is needed", field="request_time")
    return found


def _duration(value: duration_pb2.Duration) -> int:
    found = value.seconds * 1000 + value.nanos // _MILLIS
    if not 0 <= found <= _LATEST:
        raise InvalidArgument("execution_duration: it is negative, or too long", field="execution_duration")
    return found
