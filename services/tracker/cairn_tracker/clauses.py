"""Filters and orders of searches as MLflow's clients write them: comparisons joined by AND. Pure.

    name LIKE 'resnet%' AND tags.`data set` != 'old' AND run_id IN ('a', 'b')

An expression of Cairn's own searches is read by `expression`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from cairn_common.errors import InvalidArgument

Value: TypeAlias = "str | float | tuple[str, ...]"

_LONGEST: Final = 20_000
_MOST: Final = 100
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'[^']*'|"[^"]*")
    | (?P<name>[A-Za-z_][\w\-]*(?:\.(?:`[^`]*`|"[^"]*"|'[^']*'|[\w.\-/]+))?|`[^`]*`)
    | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<sign><=|>=|!=|<>|=|<|>)
    | (?P<mark>[(),])
    )""",
    re.VERBOSE,
)
_A_LIST: Final = "While parsing a list in the query, expected a non-empty list of string values"
_WORDS = frozenset({"AND", "LIKE", "ILIKE", "IN", "NOT", "IS", "NULL"})


@dataclass(frozen=True, slots=True)
class Clause:
    """One comparison: `tags.key = 'x'` is of the entity `tags`; without a dot it is of none (empty)."""

    entity: str
    key: str
    operator: str
    value: Value
    # The value as it stands there, without quotes.
    text: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What to sort by, and whether the least comes last."""

    key: str
    falling: bool


def parse(text: str) -> list[Clause]:
    """The comparisons of a filter; an empty one has none. Raises InvalidArgument."""
    if len(text) > _LONGEST:
        raise _bad(f"Invalid filter: more than {_LONGEST:,} characters")
    tokens = _tokens(text)
    if not tokens:
        return []
    found = [_clause(part, text) for part in _split(tokens)]
    if len(found) > _MOST:
        raise _bad(f"Invalid filter: more than {_MOST} comparisons")
    return found


def parse_order(text: str, valid: Collection[str]) -> Order:
    """`name DESC`. Raises InvalidArgument for what is none of the valid keys."""
    words = text.replace("`", "").split()
    if not 1 <= len(words) <= 2:
        raise _bad(f"Invalid order_by clause '{text[:80]}'. Could not be parsed.", field="order_by")
    if len(words) == 2 and words[1].lower() not in ("asc", "desc"):
        raise _bad(f"Invalid ordering key in order_by clause '{text[:80]}'.", field="order_by")
    key = words[0].removeprefix("attribute.")
    if key not in valid:
        raise _bad(
            f"Invalid attribute key '{key}' specified. Valid keys are '{set(valid)}'",
            field="order_by",
        )
    return Order(key, falling=len(words) == 2 and words[1].lower() == "desc")


def _tokens(text: str) -> list[str]:
    found, place = [], 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _bad(f"Invalid clause(s) in filter string: {text[place:].strip()[:80]}")
        found.append(match[0].strip())
        place = match.end()
    return found


def _split(tokens: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token.upper() == "AND":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _clause(tokens: Sequence[str], text: str) -> Clause:
    operator, rest = _operator(tokens[1:])
    if not operator or tokens[0].upper() in _WORDS:
        raise _bad(f"Invalid clause(s) in filter string: {' '.join(tokens)[:80] or text[:80]}")
    if tokens[0][0] not in "`_" and not tokens[0][0].isalpha():
        raise _bad(f"Invalid comparison clause. Expected 'Identifier' found '{tokens[0][:80]}'")
    entity, dot, key = tokens[0].partition(".") if tokens[0][0] != "`" else ("", "", tokens[0])
    if not dot:
        entity, key = "", entity or key
    quoted = len(key) >= 2 and key[0] == key[-1] and key[0] in "`'\""
    value = _value(rest, operator, text)
    shown = rest[0] if isinstance(value, float) else str(value)
    return Clause(entity, key[1:-1] if quoted else key, operator, value, shown)


def _operator(tokens: Sequence[str]) -> tuple[str, Sequence[str]]:
    words = [token.upper() for token in tokens[:2]]
    if words == ["NOT", "IN"]:
        return "NOT IN", tokens[2:]
    if words and (words[0] in ("LIKE", "ILIKE", "IN") or words[0][0] in "<>=!"):
        return "!=" if words[0] == "<>" else words[0], tokens[1:]
    return "", tokens


def _value(tokens: Sequence[str], operator: str, text: str) -> Value:
    if operator in ("IN", "NOT IN"):
        return _texts(tokens)
    if len(tokens) != 1 or tokens[0] in "(),":
        raise _bad(f"Invalid clause(s) in filter string: {text[:80]}")
    token = tokens[0]
    if token[0] in "'\"":
        return token[1:-1]
    try:
        return float(token)
    except ValueError:
        raise _bad(
            "Parameter value is either not quoted or unidentified quote types used for string value "
            f"{token[:80]}. Use either single or double quotes."
        ) from None


def _texts(tokens: Sequence[str]) -> tuple[str, ...]:
    inside = tokens[1:-1]
    if len(tokens) < 2 or tokens[0] != "(" or tokens[-1] != ")":
        raise _bad(f"{_A_LIST}, but got ill-formed list.")
    if not inside:
        raise _bad(f"{_A_LIST}, but got empty list")
    values, commas = inside[::2], inside[1::2]
    if any(comma != "," for comma in commas) or any(value[0] not in "'\"" for value in values):
        raise _bad(
            "While parsing a list in the query, expected string value, punctuation, or whitespace, but got "
            f"different type in list: {' '.join(tokens)[:80]}"
        )
    return tuple(value[1:-1] for value in values)


def _bad(message: str, *, field: str = "filter") -> InvalidArgument:
    return InvalidArgument(message, field=field)
