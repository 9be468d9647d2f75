"""Protobuf messages as JSON values, and back.

Out: snake_case names, 64-bit integers as numbers, enums as their names, timestamps as RFC 3339, durations
as ``"1.5s"``, and NaN and infinities as the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` (JSON has no
numbers for them). Fields that can be absent are left out when they are; all others are always there, so a
reader needs no defaults.

In: the same, and strict. What a message does not have is refused with its path, because a field that is
dropped in silence is a wish that nobody hears.
"""

from __future__ import annotations

from cairn_gateway.wire.common import Json
from cairn_gateway.wire.read import from_json, from_texts
from cairn_gateway.wire.text import dumps, loads
from cairn_gateway.wire.write import to_json

__all__ = ["Json", "dumps", "from_json", "from_texts", "loads", "to_json"]
