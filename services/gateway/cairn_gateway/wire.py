"""Protobuf messages as JSON values, and back.

Out: snake_case names, 64-bit integers as numbers, enums as their names, timestamps as RFC 3339, durations
as ``"1.5s"``, and NaN and infinities as the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` (JSON has no
numbers for them). Fields that can be absent are left out when they are; all others are always there, so a
reader needs no defaults.

In: the same, and strict. What a message does not have is refused with its path, because a field that is
dropped in silence is a wish that nobody hears.
"""

from __future__ import annotations

import binascii
import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

from cairn_common.errors import InvalidArgument, Reason
from google.protobuf import duration_pb2, field_mask_pb2, json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Json = Any
"""None, bool, int, float, str, or a list or dict of them."""

MOST_LEVELS = 32
"""Of nesting in a body: a protobuf reader stops at 100 messages, and a JSON level can be three of them."""

_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}
_INTEGER_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)


def dumps(value: Json) -> bytes:
    """A JSON text of what ``to_json`` made. Raises ValueError for a bare NaN: that would not be JSON."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


def loads(text: bytes) -> Json:
    """The value of a JSON text. Raises InvalidArgument for what RFC 8259 does not allow, or an object with a
    key twice."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        _too_deep()
    except ValueError as error:
        _refuse("", f"the body is not JSON: {error}")
    _check_depth(value)
    return value


def to_json(message: Message) -> Json:
    """The JSON value of a message."""
    known = _KNOWN_OUT.get(message.DESCRIPTOR.full_name)
    if known is not None:
        return known(message)
    out: dict[str, Json] = {}
    for field in _fields(message):
        if field.has_presence and not message.HasField(field.name):
            continue
        out[field.name] = _field_out(field, getattr(message, field.name))
    return out


def from_json(
    message: Message, value: Json, *, path: str = "", without: frozenset[str] = frozenset()
) -> None:
    """Fill a message from a JSON value.

    ``without`` names fields that may not be given here (they come from the URL). Raises InvalidArgument
    with the path of what is wrong in metadata ``path``.
    """
    known = _KNOWN_IN.get(message.DESCRIPTOR.full_name)
    if known is not None:
        known(message, value, path)
        return
    if not isinstance(value, dict):
        _refuse(path, f"expected an object, got {_kind(value)}")
    fields = {field.name: field for field in _fields(message)}
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        field = fields.get(name)
        if field is None or name in without:
            _refuse(where, f"unknown field {where!r}")
        if item is not None or _is_value(field):
            _field_in(message, field, item, where)


def from_texts(message: Message, field: FieldDescriptor, texts: Sequence[str], *, path: str) -> None:
    """Fill one field from the texts of a query parameter. Raises InvalidArgument."""
    if field.is_repeated:
        target = getattr(message, field.name)
        target.extend(_text_in(field, text, path) for text in texts)
    elif len(texts) != 1:
        _refuse(path, f"{path} was given {len(texts)} times")
    elif field.message_type is not None:
        from_json(getattr(message, field.name), texts[0], path=path)
    else:
        setattr(message, field.name, _text_in(field, texts[0], path))


def _field_out(field: FieldDescriptor, value: Any) -> Json:
    if _is_map(field):
        _, of_value = _entry(field)
        return {str(key): _single_out(of_value, value[key]) for key in sorted(value)}
    if not field.is_repeated:
        return _single_out(field, value)
    if field.cpp_type in _FLOATS:
        return [item if math.isfinite(item) else _float_out(item) for item in value]
    if field.cpp_type in _INTEGER_BITS:
        return list(value)
    return [_single_out(field, item) for item in value]


def _single_out(field: FieldDescriptor, value: Any) -> Json:
    if field.message_type is not None:
        return to_json(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    if field.cpp_type in _FLOATS:
        return _float_out(value)
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value


def _float_out(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _field_in(message: Message, field: FieldDescriptor, value: Json, path: str) -> None:
    if _is_map(field):
        _map_in(message, field, value, path)
    elif field.is_repeated:
        if not isinstance(value, list):
            _refuse(path, f"{path}: expected an array, got {_kind(value)}")
        target = getattr(message, field.name)
        for index, item in enumerate(value):
            if field.message_type is not None:
                from_json(target.add(), item, path=f"{path}[{index}]")
            else:
                target.append(_scalar_in(field, item, f"{path}[{index}]"))
    elif field.message_type is not None:
        member = getattr(message, field.name)
        member.SetInParent()
        from_json(member, value, path=path)
    else:
        setattr(message, field.name, _scalar_in(field, value, path))


def _map_in(message: Message, field: FieldDescriptor, value: Json, path: str) -> None:
    if not isinstance(value, dict):
        _refuse(path, f"{path}: expected an object, got {_kind(value)}")
    of_key, of_value = _entry(field)
    target = getattr(message, field.name)
    for name, item in value.items():
        key = _text_in(of_key, name, f"{path}[{name!r}]")
        if of_value.message_type is not None:
            from_json(target[key], item, path=f"{path}.{name}")
        else:
            target[key] = _scalar_in(of_value, item, f"{path}.{name}")


def _scalar_in(field: FieldDescriptor, value: Json, path: str) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_name.get(value) if isinstance(value, str) else None
        if known is None:
            names = ", ".join(each.name for each in field.enum_type.values)
            _refuse(path, f"{path}: expected one of {names}")
        return known.number
    if field.cpp_type in _INTEGER_BITS:
        return _integer_in(field, value, path)
    if field.cpp_type in _FLOATS:
        if isinstance(value, str) and value in _NONFINITE:
            return _NONFINITE[value]
        if isinstance(value, bool) or not isinstance(value, int | float):
            _refuse(path, f"{path}: expected a number, got {_kind(value)}")
        return _as_float(value, path)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            _refuse(path, f"{path}: expected true or false, got {_kind(value)}")
        return value
    if not isinstance(value, str):
        _refuse(path, f"{path}: expected a string, got {_kind(value)}")
    return _bytes_in(value, path) if field.type == FieldDescriptor.TYPE_BYTES else _string_in(value, path)


def _integer_in(field: FieldDescriptor, value: Json, path: str) -> int:
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and len(value) <= 20:
        value = int(value)  # as protobuf's own JSON writes 64-bit integers
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse(path, f"{path}: expected an integer, got {_kind(value)}")
    least, most = _INTEGER_BITS[field.cpp_type]
    if not least <= value <= most:
        _refuse(path, f"{path}: must be from {least} to {most}")
    return value


def _as_float(value: float, path: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse(path, f"{path}: the number is too large")
    return number


def _string_in(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(path, f"{path}: the string is not valid Unicode")
    return value


def _bytes_in(value: str, path: str) -> bytes:
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        _refuse(path, f"{path}: expected base64")


def _text_in(field: FieldDescriptor, text: str, path: str) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text not in ("true", "false"):
            _refuse(path, f"{path}: expected true or false")
        return text == "true"
    if field.cpp_type in _FLOATS:
        try:
            return float(text)
        except ValueError:
            _refuse(path, f"{path}: expected a number")
    return _scalar_in(field, text, path)


def _fields(message: Message) -> Sequence[FieldDescriptor]:
    return cast(Sequence[FieldDescriptor], message.DESCRIPTOR.fields)


def _entry(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """The key and the value of a map field."""
    kind = field.message_type
    assert kind is not None, "a map's entries are messages"
    return kind.fields_by_name["key"], kind.fields_by_name["value"]


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return bool(kind is not None and kind.GetOptions().map_entry)


def _is_value(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.full_name == "google.protobuf.Value" and not field.is_repeated


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
            return int(number) if whole else _float_out(number)
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


def _value_in(message: Message, given: Json, path: str) -> None:
    value = cast(struct_pb2.Value, message)
    match given:
        case None:
            value.null_value = struct_pb2.NULL_VALUE
        case bool():
            value.bool_value = given
        case int() | float():
            value.number_value = _as_float(given, path)
        case str():
            value.string_value = _string_in(given, path)
        case list():
            value.list_value.SetInParent()
            for index, item in enumerate(given):
                _value_in(value.list_value.values.add(), item, f"{path}[{index}]")
        case _:
            _struct_in(value.struct_value, given, path)


def _struct_in(message: Message, given: Json, path: str) -> None:
    struct = cast(struct_pb2.Struct, message)
    if not isinstance(given, dict):
        _refuse(path, f"{path}: expected an object, got {_kind(given)}")
    struct.SetInParent()
    for key, item in given.items():
        _value_in(struct.fields[_string_in(key, path)], item, f"{path}.{key}")


def _list_in(message: Message, given: Json, path: str) -> None:
    if not isinstance(given, list):
        _refuse(path, f"{path}: expected an array, got {_kind(given)}")
    for index, item in enumerate(given):
        _value_in(cast(struct_pb2.ListValue, message).values.add(), item, f"{path}[{index}]")


def _duration_in(message: Message, given: Json, path: str) -> None:
    seconds = isinstance(given, int | float) and not isinstance(given, bool)
    _text_known_in(message, f"{given:f}s" if seconds else given, path)


def _text_known_in(message: Message, given: Json, path: str) -> None:
    if not isinstance(given, str):
        _refuse(path, f"{path}: expected a string, got {_kind(given)}")
    try:
        json_format.ParseDict(cast(dict[str, Any], given), message)
    except (json_format.ParseError, ValueError):
        examples = {"Timestamp": "2026-01-31T12:00:00Z", "Duration": "90s", "FieldMask": "display_name,tags"}
        _refuse(path, f"{path}: expected a text like {examples[message.DESCRIPTOR.name]!r}")


def _text_known_out(message: Message) -> Json:
    return cast(timestamp_pb2.Timestamp | duration_pb2.Duration, message).ToJsonString()


def _mask_out(message: Message) -> Json:
    return ",".join(cast(field_mask_pb2.FieldMask, message).paths)


def _mask_in(message: Message, given: Json, path: str) -> None:
    if not isinstance(given, str):
        _refuse(path, f"{path}: expected a string, got {_kind(given)}")
    cast(field_mask_pb2.FieldMask, message).paths.extend(part for part in given.split(",") if part)


def _check_depth(value: Json) -> None:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for item in level
            if isinstance(item, list | dict)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    _too_deep()


def _too_deep() -> NoReturn:
    _refuse("", f"the JSON text is nested deeper than {MOST_LEVELS} levels")


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return out


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number; write it as the string {name!r}")


def _kind(value: Json) -> str:
    return _KINDS.get(type(value), "null")


def _refuse(path: str, message: str) -> NoReturn:
    raise InvalidArgument(message, reason=Reason.FIELD_INVALID, path=path)


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
_KNOWN_IN: Mapping[str, Callable[[Message, Json, str], None]] = {
    "google.protobuf.Timestamp": _text_known_in,
    "google.protobuf.Duration": _duration_in,
    "google.protobuf.FieldMask": _mask_in,
    "google.protobuf.Struct": _struct_in,
    "google.protobuf.Value": _value_in,
    "google.protobuf.ListValue": _list_in,
}
