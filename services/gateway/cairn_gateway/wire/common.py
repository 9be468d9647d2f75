"""What reading and writing share: how fields are, and how a refusal is said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cairn_common.errors import InvalidArgument, Reason

Json = Any
"""None, bool, int, float, str, or a list or dict of them."""

NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
INTEGER_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def fields_of(message: Message) -> Sequence[FieldDescriptor]:
    """The fields of a message's kind."""
    return cast(Sequence[FieldDescriptor], message.DESCRIPTOR.fields)


def entry_of(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """The key and the value of a map field."""
    kind = field.message_type
    assert kind is not None, "a map's entries are messages"
    return kind.fields_by_name["key"], kind.fields_by_name["value"]


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    kind = field.message_type
    return bool(kind is not None and kind.GetOptions().map_entry)


def is_value(field: FieldDescriptor) -> bool:
    """Whether a field takes any JSON value, null too."""
    kind = field.message_type
    return kind is not None and kind.full_name == "google.protobuf.Value" and not field.is_repeated


def kind_of(value: Json) -> str:
    """What a JSON value is, in words."""
    return _KINDS.get(type(value), "null")


def refuse(path: str, message: str) -> NoReturn:
    """Raises InvalidArgument (FIELD_INVALID) with the path in its metadata."""
    raise InvalidArgument(message, reason=Reason.FIELD_INVALID, path=path)
