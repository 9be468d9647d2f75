"""JSON schemas (OpenAPI 3.1) derived from the descriptors of the protos: nothing is written down twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

Schema = dict[str, Any]

PROBLEM: Schema = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "reason", "metadata", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was asked, what the limit is, what to do."},
        "reason": {"type": "string", "description": "One of a documented set, for programs."},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "request_id": {"type": "string"},
    },
}

_NUMBER: Schema = {
    "anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}],
}
_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "examples": ["90s", "1.5s"]},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["display_name,tags"]},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Value": {},
}
_SCALAR: Mapping[int, Schema] = {
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_FLOAT: _NUMBER,
    FieldDescriptor.CPPTYPE_DOUBLE: _NUMBER,
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}


class Schemas:
    """The components of one OpenAPI document, filled by what its routes refer to."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {"Problem": PROBLEM}

    def of_message(self, kind: Descriptor, *, without: frozenset[str] = frozenset()) -> Schema:
        """A schema for a message: a reference where it is whole, in place where fields are left out."""
        if kind.full_name in _KNOWN:
            return dict(_KNOWN[kind.full_name])
        if without:
            return self._object(kind, without)
        name = component_name(kind)
        if name not in self.components:
            self.components[name] = {}  # a message can hold itself
            self.components[name] = self._object(kind, frozenset())
        return {"$ref": f"#/components/schemas/{name}"}

    def of_field(self, field: FieldDescriptor) -> Schema:
        """A schema for one field's value."""
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            of_value = field.message_type.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._single(of_value)}
        one = self._single(field)
        if field.name == "page_size":
            one["minimum"] = 0
        return {"type": "array", "items": one} if field.is_repeated else one

    def _object(self, kind: Descriptor, without: frozenset[str]) -> Schema:
        properties = {field.name: self.of_field(field) for field in kind.fields if field.name not in without}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def _single(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.of_message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        return dict(_SCALAR[field.cpp_type])

    def _enum(self, kind: EnumDescriptor) -> Schema:
        name = component_name(kind)
        self.components.setdefault(name, {"type": "string", "enum": [value.name for value in kind.values]})
        return {"$ref": f"#/components/schemas/{name}"}


def component_name(kind: Descriptor | EnumDescriptor) -> str:
    """``cairn.scheduler.v1.Job.State`` as ``scheduler.v1.Job.State``: one name for each, across services."""
    return str(kind.full_name).removeprefix("cairn.")
