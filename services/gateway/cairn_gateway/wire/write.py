"""From protobuf messages to JSON values."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, cast

from google.protobuf import duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cairn_gateway.wire.common import FLOATS, INTEGER_RANGES, Json, entry_of, fields_of, is_map


def to_json(message: Message) -> Json:
    """The JSON value of a message."""
    known = _KNOWN_OUT.get(message.DESCRIPTOR.full_name)
    if known is not None:
        return known(message)
    out: dict[str, Json] = {}
    for field in fields_of(message):
        if field.has_presence and not message.HasField(field.name):
            continue
        out[field.name] = _field_out(field, getattr(message, field.name))
    return out


def _field_out(field: FieldDescriptor, value: Any) -> Json:
    if is_map(field):
        _, of_value = entry_of(field)
        return {str(key): _single_out(of_value, value[key]) for key in sorted(value)}
    if not field.is_repeated:
        return _single_out(field, value)
    if field.cpp_type in FLOATS:
        return [item if math.isfinite(item) else float_out(item) for item in value]
    if field.cpp_type in INTEGER_RANGES:
        return list(value)
    return [_single_out(field, item) for item in value]


def _single_out(field: FieldDescriptor, value: Any) -> Json:
    if field.message_type is not None:
        return to_json(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    if field.cpp_type in FLOATS:
        return float_out(value)
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value


def float_out(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _struct_out(message: Message) -> Json:
    struct = cast(struct_pb2.Struct, message)
    return {key: _value_out(struct.fields[key]) for key in sorted(struct.fields)}


def _value_out(message: Message) -> Json:
    value = cast(struct_pb2.Value, message)
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            # A Struct knows doubles only; 64 was meant where it says 64.0.
            whole = number.is_integer() and abs(number) <= 2**53 and str(number) != "-0.0"
            return int(number) if whole else float_out(number)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _struct_out(value.struct_value)
        case "list_value":
            return [_value_out(item) for item in value.list_value.values]
        case _:
            return None


def _text_known_out(message: Message) -> Json:
    return cast(timestamp_pb2.Timestamp | duration_pb2.Duration, message).ToJsonString()


def _mask_out(message: Message) -> Json:
    return ",".join(cast(field_mask_pb2.FieldMask, message).paths)


_KNOWN_OUT: Mapping[str, Callable[[Message], Json]] = {
    "google.protobuf.Timestamp": _text_known_out,
    "google.protobuf.Duration": _text_known_out,
    "google.protobuf.FieldMask": _mask_out,
    "google.protobuf.Struct": _struct_out,
    "google.protobuf.Value": _value_out,
    "google.protobuf.ListValue": lambda message: [
        _value_out(item) for item in cast(struct_pb2.ListValue, message).values
    ],
}
