"""Snapshots as JSON, to be replayed anywhere: `{"cairn_snapshot": 1, "snapshot": {...}}`."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from cairn_scheduler.engine.world import Snapshot

VERSION = 1


class BadFile(ValueError):
    """It is no snapshot, or one of a version that is not known here."""


def dump(snapshot: Snapshot) -> str:
    """The file's text. The same snapshot is always the same text."""
    return json.dumps({"cairn_snapshot": VERSION, "snapshot": _plain(snapshot)}, separators=(",", ":"))


def load(text: str) -> Snapshot:
    """Raises BadFile with what is wrong and where."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BadFile(f"not JSON: {error}") from None
    if not isinstance(data, dict) or "cairn_snapshot" not in data:
        raise BadFile("not a snapshot: it has no field cairn_snapshot")
    if data["cairn_snapshot"] != VERSION:
        raise BadFile(f"version {data['cairn_snapshot']} of snapshots is not known here, only {VERSION}")
    snapshot = _value(Snapshot, data.get("snapshot"), "snapshot")
    assert isinstance(snapshot, Snapshot)
    return snapshot


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return sorted([_plain(key), _plain(one)] for key, one in value.items())
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(kind: Any, data: Any, where: str) -> Any:
    """Reads plain data as a type of `world`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if data is None else _value(arguments[0], data, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(kind, data, where)
    if origin is tuple:
        return _sequence(arguments, data, where)
    if origin is not None and issubclass(origin, Mapping):
        pairs = _list(data, where)
        return {
            _value(arguments[0], _list(pair, where)[0], where): _value(arguments[1], pair[1], where)
            for pair in pairs
        }
    if issubclass(kind, StrEnum):
        if data not in list(kind):
            raise BadFile(f"{where}: {data!r} is none of {', '.join(kind)}")
        return kind(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise BadFile(f"{where}: {data!r} is no {kind.__name__}")
    return data


def _object(kind: type, data: Any, where: str) -> Any:
    hints = _hints(kind)
    if not isinstance(data, dict):
        raise BadFile(f"{where}: expected an object")
    unknown = data.keys() - hints.keys()
    if unknown:
        raise BadFile(f"{where}: unknown field {min(unknown)}")
    try:
        return kind(**{name: _value(hints[name], one, f"{where}.{name}") for name, one in data.items()})
    except TypeError as error:
        raise BadFile(f"{where}: {error}") from None


def _sequence(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    items = _list(data, where)
    if len(arguments) == 2 and arguments[1] is ...:
        return tuple(_value(arguments[0], one, f"{where}[{at}]") for at, one in enumerate(items))
    if len(items) != len(arguments):
        raise BadFile(f"{where}: expected {len(arguments)} items")
    return tuple(_value(one, item, where) for one, item in zip(arguments, items, strict=True))


def _list(data: Any, where: str) -> list[Any]:
    if not isinstance(data, list):
        raise BadFile(f"{where}: expected a list")
    return data
