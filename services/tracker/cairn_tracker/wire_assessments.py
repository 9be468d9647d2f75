"""What is said of traces as the protos have it."""

from __future__ import annotations

from typing import Any, Final, cast

from google.protobuf import json_format

from cairn.tracker.v1 import assessment_pb2 as pb
from cairn_common.errors import InvalidArgument
from cairn_tracker import model_names
from cairn_tracker.model import Json
from cairn_tracker.store.assessments import Assessment
from cairn_tracker.wire_traces import trace_id

SOURCES: Final = ("HUMAN", "LLM_JUDGE", "CODE")
_LARGEST: Final = 20_000
_LONGEST_NAME: Final = 250


def assessment(value: Assessment) -> pb.Assessment:
    """One as the API has it."""
    made = pb.Assessment(
        assessment_id=value.assessment_id,
        trace_id=value.trace_id,
        name=value.name,
        span_id=value.span_id,
        source_type=value.source_type,
        source_id=value.source_id,
        rationale=value.rationale,
        metadata=value.metadata,
        overrides=value.overrides,
        valid=value.valid,
    )
    made.create_time.FromMilliseconds(value.create_time)
    made.update_time.FromMilliseconds(value.update_time)
    (made.expectation if value.expected else made.feedback).update(cast(dict[str, Any], value.content))
    return made


def told(message: pb.Assessment, *, new: bool) -> Assessment:
    """One as a client tells of it; a `new` one is whole. Raises InvalidArgument."""
    content = message.WhichOneof("content")
    if new and content is None:
        raise InvalidArgument("assessment: it has neither feedback nor expectation", field="assessment")
    if new and message.source_type not in SOURCES:
        raise InvalidArgument(
            f"source_type: {message.source_type[:40]!r} is none of {', '.join(SOURCES)}", field="source_type"
        )
    if len(message.name) > _LONGEST_NAME or not message.name.isprintable() or (new and not message.name):
        raise InvalidArgument(f"name: a text of 1 to {_LONGEST_NAME} characters is needed", field="name")
    return Assessment(
        trace_id=trace_id(message.trace_id),
        assessment_id=message.assessment_id,
        name=message.name,
        source_type=message.source_type,
        create_time=0,
        update_time=0,
        expected=content == "expectation",
        content=_content(message, content) if content else {},
        span_id=model_names.check_text("span_id", message.span_id),
        source_id=model_names.check_text("source_id", message.source_id),
        rationale=model_names.check_text("rationale", message.rationale),
        metadata=model_names.check_labels("metadata", message.metadata),
        overrides=model_names.check_text("overrides", message.overrides),
    )


def _content(message: pb.Assessment, name: str) -> dict[str, Json]:
    given = message.expectation if name == "expectation" else message.feedback
    try:
        found: dict[str, Json] = json_format.MessageToDict(given)
        small = len(json_format.MessageToJson(given)) <= _LARGEST
    except json_format.SerializeToJsonError:
        raise InvalidArgument(f"{name}: NaN and infinities are no JSON", field=name) from None
    if not small or "\\x00" in repr(found):
        raise InvalidArgument(f"{name}: it has more than {_LARGEST:,} bytes, or NUL", field=name)
    return found
