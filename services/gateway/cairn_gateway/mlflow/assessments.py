"""What people, judges and programs say of traces, in MLflow's words."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import struct_pb2

from cairn.tracker.v1 import assessment_pb2 as pb
from cairn.tracker.v1 import trace_pb2
from cairn_common.auth import Role
from cairn_gateway import wire
from cairn_gateway.mlflow.errors import invalid
from cairn_gateway.mlflow.fields import Fields, as_object, missing_value, wrong_type
from cairn_gateway.mlflow.route import Asked, Route, empty
from cairn_gateway.wire import Json

_NAMES: Final = {
    "assessment_name": "name", "assessmentName": "name", "feedback": "feedback",
    "expectation": "expectation", "rationale": "rationale", "metadata": "metadata",
}  # fmt: skip


async def create(asked: Asked) -> Json:
    """Says something of a trace."""
    made = told(_given(asked), trace_id=asked.request.path_params["trace_id"])
    return {"assessment": said(await add(asked, made))}


async def get(asked: Asked) -> Json:
    """What was said."""
    request = trace_pb2.GetAssessmentRequest(parent=asked.parent, **_place(asked))
    return {"assessment": said(await asked.call("TraceService/GetAssessment", request, pb.Assessment))}


async def update(asked: Asked) -> Json:
    """Says it otherwise: what the mask names, or without one what there is."""
    fields = _given(asked)
    named = [path for path in asked.fields.text("update_mask").split(",") if path] or [
        name for name in _NAMES if fields.values.get(name) is not None
    ]
    if unknown := [path for path in named if path not in _NAMES]:
        raise invalid(f"update_mask: {unknown[0][:80]!r} cannot be changed")
    changed, place = _changed(fields), _place(asked)
    changed.trace_id, changed.assessment_id = place["trace_id"], place["assessment_id"]
    request = trace_pb2.UpdateAssessmentRequest(parent=asked.parent, assessment=changed)
    request.update_mask.paths.extend(_NAMES[path] for path in named)
    return {"assessment": said(await asked.call("TraceService/UpdateAssessment", request, pb.Assessment))}


async def delete(asked: Asked) -> Json:
    """Takes it back."""
    request = trace_pb2.DeleteAssessmentRequest(parent=asked.parent, **_place(asked))
    await asked.call("TraceService/DeleteAssessment", request, pb.Assessment)
    return empty()


async def add(asked: Asked, made: pb.Assessment) -> pb.Assessment:
    """Keeps one."""
    request = trace_pb2.CreateAssessmentRequest(parent=asked.parent, assessment=made)
    return await asked.call("TraceService/CreateAssessment", request, pb.Assessment)


def told(fields: Fields, *, trace_id: str) -> pb.Assessment:
    """One as a client tells of it, whole."""
    made = _changed(fields)
    source = Fields(as_object("source", fields.values.get("source") or {}))
    if not made.name:
        raise missing_value("assessment.assessment_name")
    made.trace_id = trace_id
    made.span_id = fields.text("span_id")
    made.source_type = source.text("source_type", required=True)
    made.source_id = source.text("source_id")
    made.overrides = fields.text("overrides")
    return made


def said(value: pb.Assessment) -> dict[str, Any]:
    """One as MLflow's clients read it."""
    made: dict[str, Any] = {
        "assessment_id": value.assessment_id,
        "assessment_name": value.name,
        "trace_id": value.trace_id,
        "source": {"source_type": value.source_type, "source_id": value.source_id},
        "create_time": value.create_time.ToJsonString(),
        "last_update_time": value.update_time.ToJsonString(),
        "valid": value.valid,
    }
    content = value.WhichOneof("content")
    if content is not None:
        made[content] = wire.to_json(getattr(value, content))
    if value.metadata:
        made["metadata"] = dict(value.metadata)
    for name in ("span_id", "rationale", "overrides"):
        if text := getattr(value, name):
            made[name] = text
    return made


def _given(asked: Asked) -> Fields:
    given = asked.fields.values.get("assessment")
    if given is None:
        raise missing_value("assessment")
    return Fields(as_object("assessment", given))


def _changed(fields: Fields) -> pb.Assessment:
    """What can change of one."""
    made = pb.Assessment(name=fields.text("assessment_name"), rationale=fields.text("rationale"))
    for name, place in (("feedback", made.feedback), ("expectation", made.expectation)):
        if fields.values.get(name) is not None:
            _fill(place, name, fields.values[name])
    for key, value in as_object("metadata", fields.values.get("metadata") or {}).items():
        if not isinstance(value, str):
            raise wrong_type("metadata", value)
        made.metadata[key] = value
    return made


def _fill(place: struct_pb2.Struct, name: str, given: Any) -> None:
    # Also an empty one is one.
    place.SetInParent()
    try:
        place.update(dict(as_object(name, given)))
    except (ValueError, RecursionError):
        raise wrong_type(name, str(given)[:80]) from None


def _place(asked: Asked) -> dict[str, str]:
    parts = asked.request.path_params
    return {"trace_id": parts["trace_id"], "assessment_id": parts["assessment_id"]}


_ALL: Final = "/api/3.0/mlflow/traces/{trace_id}/assessments"
ROUTES: Final[tuple[Route, ...]] = (
    Route("POST", _ALL, Role.MEMBER, create, run_token=True),
    Route("GET", _ALL + "/{assessment_id}", Role.VIEWER, get),
    Route("PATCH", _ALL + "/{assessment_id}", Role.MEMBER, update),
    Route("DELETE", _ALL + "/{assessment_id}", Role.MEMBER, delete),
)
