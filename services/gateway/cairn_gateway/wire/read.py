"""From JSON values to protobuf messages; strict, with the path of what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from google.protobuf import field_mask_pb2, json_format, struct_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cairn_gateway.wire.common import Json, entry_of, fields_of, is_map, is_value, kind_of, refuse
from cairn_gateway.wire.scalar import as_float, scalar_in, string_in, text_in


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
        refuse(path, f"expected an object, got {kind_of(value)}")
    fields = {field.name: field for field in fields_of(message)}
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        field = fields.get(name)
        if field is None or name in without:
            refuse(where, f"unknown field {where!r}")
        if item is not None or is_value(field):
            _field_in(message, field, item, where)


def from_texts(message: Message, field: FieldDescriptor, texts: Sequence[str], *, path: str) -> None:
    """Fill one field from the texts of a query parameter. Raises InvalidArgument."""
    if field.is_repeated:
        target = getattr(message, field.name)
        target.extend(text_in(field, text, path) for text in texts)
    elif len(texts) != 1:
        refuse(path, f"{path} was given {len(texts)} times")
    elif field.message_type is not None:
        from_json(getattr(message, field.name), texts[0], path=path)
    else:
        setattr(message, field.name, text_in(field, texts[0], path))


def _field_in(message: Message, field: FieldDescriptor, value: Json, path: str) -> None:
    if is_map(field):
        _map_in(message, field, value, path)
    elif field.is_repeated:
        if not isinstance(value, list):
            refuse(path, f"{path}: expected an array, got {kind_of(value)}")
        target = getattr(message, field.name)
        for index, item in enumerate(value):
            if field.message_type is not None:
                from_json(target.add(), item, path=f"{path}[{index}]")
            else:
                target.append(scalar_in(field, item, f"{path}[{index}]"))
    elif field.message_type is not None:
        member = getattr(message, field.name)
        member.SetInParent()
        from_json(member, value, path=path)
    else:
        setattr(message, field.name, scalar_in(field, value, path))


def _map_in(message: Message, field: FieldDescriptor, value: Json, path: str) -> None:
    if not isinstance(value, dict):
        refuse(path, f"{path}: expected an object, got {kind_of(value)}")
    of_key, of_value = entry_of(field)
    target = getattr(message, field.name)
    for name, item in value.items():
        key = text_in(of_key, name, f"{path}[{name!r}]")
        if of_value.message_type is not None:
            from_json(target[key], item, path=f"{path}.{name}")
        else:
            target[key] = scalar_in(of_value, item, f"{path}.{name}")


def _value_in(message: Message, given: Json, path: str) -> None:
    value = cast(struct_pb2.Value, message)
    match given:
        case None:
            value.null_value = struct_pb2.NULL_VALUE
        case bool():
            value.bool_value = given
        case int() | float():
            value.number_value = as_float(given, path)
        case str():
            value.string_value = string_in(given, path)
        case list():
            value.list_value.SetInParent()
            for index, item in enumerate(given):
                _value_in(value.list_value.values.add(), item, f"{path}[{index}]")
        case _:
            _struct_in(value.struct_value, given, path)


def _struct_in(message: Message, given: Json, path: str) -> None:
    struct = cast(struct_pb2.Struct, message)
    if not isinstance(given, dict):
        refuse(path, f"{path}: expected an object, got {kind_of(given)}")
    struct.SetInParent()
    for key, item in given.items():
        _value_in(struct.fields[string_in(key, path)], item, f"{path}.{key}")


def _list_in(message: Message, given: Json, path: str) -> None:
    if not isinstance(given, list):
        refuse(path, f"{path}: expected an array, got {kind_of(given)}")
    for index, item in enumerate(given):
        _value_in(cast(struct_pb2.ListValue, message).values.add(), item, f"{path}[{index}]")


def _duration_in(message: Message, given: Json, path: str) -> None:
    seconds = isinstance(given, int | float) and not isinstance(given, bool)
    _text_known_in(message, f"{given:f}s" if seconds else given, path)


def _text_known_in(message: Message, given: Json, path: str) -> None:
    if not isinstance(given, str):
        refuse(path, f"{path}: expected a string, got {kind_of(given)}")
    try:
        json_format.ParseDict(cast(dict[str, Any], given), message)
    except (json_format.ParseError, ValueError):
        examples = {"Timestamp": "2026-01-31T12:00:00Z", "Duration": "90s", "FieldMask": "display_name,tags"}
        refuse(path, f"{path}: expected a text like {examples[message.DESCRIPTOR.name]!r}")


def _mask_in(message: Message, given: Json, path: str) -> None:
    if not isinstance(given, str):
        refuse(path, f"{path}: expected a string, got {kind_of(given)}")
    cast(field_mask_pb2.FieldMask, message).paths.extend(part for part in given.split(",") if part)


_KNOWN_IN: Mapping[str, Callable[[Message, Json, str], None]] = {
    "google.protobuf.Timestamp": _text_known_in,
    "google.protobuf.Duration": _duration_in,
    "google.protobuf.FieldMask": _mask_in,
    "google.protobuf.Struct": _struct_in,
    "google.protobuf.Value": _value_in,
    "google.protobuf.ListValue": _list_in,
}
