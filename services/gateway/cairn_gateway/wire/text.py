"""JSON texts, strictly."""

from __future__ import annotations

import json
from typing import NoReturn

from cairn_gateway.wire.common import Json, refuse

MOST_LEVELS = 32
"""Of nesting in a body: a protobuf reader stops at 100 messages, and a JSON level can be three of them."""


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
        refuse("", f"the body is not JSON: {error}")
    _check_depth(value)
    return value


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
    refuse("", f"the JSON text is nested deeper than {MOST_LEVELS} levels")


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    out = dict(pairs)
    if len(out) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return out


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number; write it as the string {name!r}")
