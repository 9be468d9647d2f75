"""Reads the plain values of a document field by field; every refusal names the path and the cure. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import IntEnum
from typing import TypeVar

from cairn_quota.validity import LARGEST, TreeInvalid

E = TypeVar("E", bound=IntEnum)
_SPANS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SIZES = {"MiB": 1, "Mi": 1, "GiB": 1024, "Gi": 1024, "TiB": 1024**2, "Ti": 1024**2}


class Fields:
    """A mapping of a document. Everything in it has to be asked for by `known`, else it is refused."""

    def __init__(self, value: object, path: str, known: tuple[str, ...]) -> None:
        self.path = path
        self._values = mapping(value, path)
        for name in self._values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(known))}"
                raise TreeInvalid(self.at(name[:80]), f"is not a field here; {meant}")

    def at(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Whether it is there and not empty."""
        return self._values.get(name) is not None

    def get(self, name: str) -> object:
        """The value; None where absent."""
        return self._values.get(name)

    def text(self, name: str, default: str = "") -> str:
        """A text."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise TreeInvalid(self.at(name), f"{value!r:.80} is not a text; put it in quotes")
        if len(value) > 200 or any(c < " " or c == "\x7f" for c in value):
            raise TreeInvalid(self.at(name), "at most 200 characters, no line breaks")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise TreeInvalid(self.at(name), f"{value!r:.80} is neither true nor false")
        return default if value is None else value

    def whole(self, name: str, default: int | None = None) -> int | None:
        """A whole number, its sign not looked at."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
            raise TreeInvalid(self.at(name), f"{value!r:.80} is not a whole number")
        return value

    def scaled(self, name: str, scale: int, default: int | None = None) -> int | None:
        """A number times `scale`, exactly; `2.5` with scale 1000 is 2500."""
        return default if self.get(name) is None else scaled(self.get(name), self.at(name), scale)

    def span(self, name: str) -> int | None:
        """A time such as 90s, 30m, 12h or 7d, in milliseconds."""
        value = self.get(name)
        if value is None:
            return None
        match = re.fullmatch(r"(-?\d{1,9})(ms|s|m|h|d|w)", value) if isinstance(value, str) else None
        if match is None:
            raise TreeInvalid(self.at(name), f"{value!r:.80} is no length of time; give 90s, 30m, 12h or 7d")
        if match[1].startswith("-"):
            raise TreeInvalid(self.at(name), f"{value} cannot be negative")
        return int(match[1]) * _SPANS[match[2]]

    def moment(self, name: str) -> datetime | None:
        """A moment of ISO 8601; without an offset it is UTC."""
        value = self.get(name)
        if value is None:
            return None
        try:
            found = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        except ValueError:
            raise TreeInvalid(
                self.at(name), f"{value!r:.80} is no moment; give one such as 2026-12-24T08:00:00Z"
            ) from None
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)

    def choice(self, name: str, kind: type[E], default: E) -> E:
        """One of an enum, as it is written: lower case, `-` or `_`."""
        value = self.get(name)
        if value is None:
            return default
        found = {one.name.lower(): one for one in kind}.get(str(value).lower().replace("-", "_"))
        if found is None:
            names = ", ".join(written(one) for one in kind if one or one.name != "NONE")
            raise TreeInvalid(self.at(name), f"{value!r:.80} is not one of {names}")
        return found


def written(value: IntEnum) -> str:
    """An enum's value as a tree file has it."""
    return value.name.lower()


def mapping(value: object, path: str) -> Mapping[str, object]:
    """A mapping; nothing at all is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TreeInvalid(path or "the file", f"is to be a mapping of names to values, not {value!r:.80}")
    return value


def sequence(value: object, path: str) -> list[object]:
    """A list; nothing at all is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise TreeInvalid(path, f"is to be a list, not {value!r:.80}")
    return value


def scaled(value: object, path: str, scale: int) -> int:
    """A number times `scale`, which has to come out whole."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 40:
            raise ValueError
        number = Decimal(str(value)) * scale
        if not number.is_finite() or number != number.to_integral_value() or abs(number) > LARGEST:
            raise ValueError
    except (ValueError, InvalidOperation):
        raise TreeInvalid(
            path, f"{value!r:.80} is not a number in steps of 1/{scale:,} and of at most {LARGEST // scale:,}"
        ) from None
    if number < 0:
        raise TreeInvalid(path, f"{value} cannot be negative")
    return int(number)


def size(value: object, path: str) -> int:
    """Memory such as 512GiB, in thousandths of a MiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(\w+)", value) if isinstance(value, str) else None
    if match is None or match[2] not in _SIZES:
        raise TreeInvalid(
            path, f"{value!r:.80} is no amount of memory; give a number and a unit, such as 512GiB"
        )
    return scaled(match[1], path, 1000 * _SIZES[match[2]])
