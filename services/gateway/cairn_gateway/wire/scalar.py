"""Single values of JSON, and texts of a query, as a field's value."""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from cairn_gateway.wire.common import FLOATS, INTEGER_RANGES, NONFINITE, Json, kind_of, refuse


def scalar_in(field: FieldDescriptor, value: Json, path: str) -> Any:
    """One value of a field that is no message. Raises InvalidArgument."""
    if field.enum_type is not None:
        known = field.enum_type.values_by_name.get(value) if isinstance(value, str) else None
        if known is None:
            names = ", ".join(each.name for each in field.enum_type.values)
            refuse(path, f"{path}: expected one of {names}")
        return known.number
    if field.cpp_type in INTEGER_RANGES:
        return _integer_in(field, value, path)
    if field.cpp_type in FLOATS:
        if isinstance(value, str) and value in NONFINITE:
            return NONFINITE[value]
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(path, f"{path}: expected a number, got {kind_of(value)}")
        return as_float(value, path)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            refuse(path, f"{path}: expected true or false, got {kind_of(value)}")
        return value
    if not isinstance(value, str):
        refuse(path, f"{path}: expected a string, got {kind_of(value)}")
    return _bytes_in(value, path) if field.type == FieldDescriptor.TYPE_BYTES else string_in(value, path)


def _integer_in(field: FieldDescriptor, value: Json, path: str) -> int:
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and len(value) <= 20:
        value = int(value)  # as protobuf's own JSON writes 64-bit integers
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(path, f"{path}: expected an integer, got {kind_of(value)}")
    least, most = INTEGER_RANGES[field.cpp_type]
    if not least <= value <= most:
        refuse(path, f"{path}: must be from {least} to {most}")
    return value


def as_float(value: float, path: str) -> float:
    """A finite float. Raises InvalidArgument."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        refuse(path, f"{path}: the number is too large")
    return number


def string_in(value: str, path: str) -> str:
    """A string that can be encoded. Raises InvalidArgument."""
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(path, f"{path}: the string is not valid Unicode")
    return value


def _bytes_in(value: str, path: str) -> bytes:
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        refuse(path, f"{path}: expected base64")


def text_in(field: FieldDescriptor, text: str, path: str) -> Any:
    """One text of a query, or a key of a map, as a field's value. Raises InvalidArgument."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text not in ("true", "false"):
            refuse(path, f"{path}: expected true or false")
        return text == "true"
    if field.cpp_type in FLOATS:
        try:
            return float(text)
        except ValueError:
            refuse(path, f"{path}: expected a number")
    return scalar_in(field, text, path)
