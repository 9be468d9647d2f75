"""From protobuf messages to JSON values."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias, cast

from google.protobuf import duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from cairn_gateway.wire.common import FLOATS, INTEGER_RANGES, Json, entry_of, is_map

Out: TypeAlias = Callable[[Any], Json]


def to_json(message: Message) -> Json:
    """The JSON value of a message."""
    known = _KNOWN_OUT.get(message.DESCRIPTOR.full_name)
    if known is not None:
        return known(message)
    out: dict[str, Json] = {}
    for name, has_presence, field_out in _fields_out(message.DESCRIPTOR):
        if has_presence and not message.HasField(name):
            continue
        out[name] = field_out(getattr(message, name))
    return out


@cache
def _fields_out(kind: Descriptor) -> Sequence[tuple[str, bool, Out]]:
    """Of each field of a kind its name, whether it can be absent, and how its value is written: looked at
    once, for an answer has thousands of messages of a kind."""
    return [(field.name, field.has_presence, _field_out(field)) for field in kind.fields]


def _field_out(field: FieldDescriptor) -> Out:
    if is_map(field):
        _, of_value = entry_of(field)
        single = _single_out(of_value)
        return lambda value: {str(key): single(value[key]) for key in sorted(value)}
    if not field.is_repeated:
        return _single_out(field)
    if field.cpp_type in FLOATS:
        return _floats_out
    if field.cpp_type in INTEGER_RANGES:
        return list
    single = _single_out(field)
    return lambda value: [single(item) for item in value]


def _single_out(field: FieldDescriptor) -> Out:
    if field.message_type is not None:
        return _KNOWN_OUT.get(field.message_type.full_name, to_json)
    if field.enum_type is not None:
        names = {number: known.name for number, known in field.enum_type.values_by_number.items()}
        return lambda value: names.get(value, value)
    if field.cpp_type in FLOATS:
        return float_out
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: b64encode(value).decode()
    return lambda value: value


def _floats_out(values: Sequence[float]) -> Json:
    found = list(values)
    return found if all(map(math.isfinite, found)) else [float_out(item) for item in found]


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
