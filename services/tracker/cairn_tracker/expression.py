"""The language in which runs are searched, from its text to a tree. Pure.

config.lr < 0.01 and metrics.acc > 0.9 and "night" in tags
state in ("failed", "timed_out") or not (name =~ "^base" and max(metrics.`val acc`) >= .5)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from cairn_common.errors import InvalidArgument, Reason

_LONGEST: Final = 4_000
# Comparisons, and parentheses or `not` within each other.
_MOST_TERMS: Final = 100
_DEEPEST: Final = 50
_LARGEST_NUMBER: Final = 400

Literal: TypeAlias = "str | float | bool | None"

#: Fields of a run by the names that the language has for them.
FIELDS: Final = (
    "name", "state", "experiment", "sweep", "creator", "id", "command", "git_commit", "git_branch",
    "cause", "message", "created", "updated", "started", "ended", "tags",
    "group", "notes",
)  # fmt: skip
AGGREGATES: Final = ("last", "min", "max", "count")
_OPPOSITE: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_TOKEN: Final = re.compile(
    r"""\s*(?:
      (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<key>(?:config|params|metrics)
        (?:\.`[^`]*` | \.[\w./\-]+ | \[\s*(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*\]))
    | (?P<word>[A-Za-z_]\w*)
    | (?P<sign>==|=~|!~|!=|<=|>=|<|>|=|\(|\)|,)
    )""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Operand:
    """What a run is looked at for: a field, `config` or `metrics`, and its key."""

    kind: str
    key: str
    # Of a metric: one of `AGGREGATES`.
    aggregate: str
    place: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """`operator` is one of == != < <= > >= =~ in; `values` has one item but for `in`."""

    operand: Operand
    operator: str
    values: tuple[Literal, ...]
    place: int


@dataclass(frozen=True, slots=True)
class Not:
    """What it holds for, this does not, and the other way round."""

    of: Tree


@dataclass(frozen=True, slots=True)
class Joined:
    """`word` is `and` or `or`."""

    word: str
    parts: tuple[Tree, ...]


Tree: TypeAlias = "Comparison | Not | Joined"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: int


def parse(text: str) -> Tree:
    """The tree of an expression. Raises InvalidArgument that names the place which cannot be read."""
    if len(text) > _LONGEST:
        raise InvalidArgument(
            f"filter: {len(text):,} characters; at most {_LONGEST:,}",
            reason=Reason.FIELD_INVALID,
            field="filter",
        )
    return _Parser(text).whole()


def order(text: str) -> tuple[Operand, bool]:
    """What a listing is sorted by, and whether from the greatest down."""
    words = text.rsplit(None, 1)
    falling = len(words) == 2 and words[1].lower() == "desc"
    if falling or (len(words) == 2 and words[1].lower() == "asc"):
        text = words[0]
    parser = _Parser(text, field="order_by")
    operand = parser.operand()
    if parser.now.kind != "end" or operand.kind == "tags":
        refuse(
            "order_by", parser.now.place, "a field, config.KEY or metrics.KEY, then asc or desc, is expected"
        )
    return operand, falling


def refuse(field: str, place: int, what: str) -> NoReturn:
    """Raises InvalidArgument for what stands at a place (counted from 1)."""
    raise InvalidArgument(
        f"{field}: at character {place + 1}: {what}",
        reason=Reason.FIELD_INVALID,
        field=field,
        position=str(place + 1),
    )


class _Parser:
    """From left to right, one token ahead."""

    def __init__(self, text: str, *, field: str = "filter") -> None:
        self._field = field
        self._tokens = self._read(text)
        self._terms = 0
        self.now = next(self._tokens)

    def whole(self) -> Tree:
        tree = self._either(0)
        if self.now.kind != "end":
            self._refuse(f"`and`, `or` or the end is expected, not {self.now.text[:40]!r}")
        return tree

    def operand(self) -> Operand:
        token = self.now
        if token.kind == "word" and token.text in AGGREGATES:
            self._next()
            self._expect("(")
            inner = self._named(self.now, token.text)
            if inner.kind != "metrics":
                self._refuse(f"{token.text}() is of a metric, as in {token.text}(metrics.loss)", inner.place)
            self._next()
            self._expect(")")
            return inner
        made = self._named(token, "last")
        self._next()
        return made

    def _read(self, text: str) -> Iterator[_Token]:
        place, end = 0, len(text.rstrip())
        while place < end:
            found = _TOKEN.match(text, place)
            if found is None or found.lastgroup is None:
                start = place + len(text[place:]) - len(text[place:].lstrip())
                refuse(self._field, start, f"{text[start : start + 20]!r} cannot be read")
            yield _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))
            place = found.end()
        while True:
            yield _Token("end", "", end)

    def _either(self, depth: int) -> Tree:
        return self._joined("or", depth)

    def _joined(self, word: str, depth: int) -> Tree:
        def part() -> Tree:
            return self._joined("and", depth) if word == "or" else self._single(depth)

        parts = [part()]
        while self._is(word):
            self._next()
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(word, tuple(parts))

    def _single(self, depth: int) -> Tree:
        if depth > _DEEPEST:
            self._refuse(f"more than {_DEEPEST} parentheses within each other")
        if self._is("not"):
            self._next()
            return Not(self._single(depth + 1))
        if self.now.text == "(" and self.now.kind == "sign":
            self._next()
            tree = self._either(depth + 1)
            self._expect(")")
            return tree
        return self._comparison()

    def _comparison(self) -> Tree:
        self._terms += 1
        if self._terms > _MOST_TERMS:
            self._refuse(f"more than {_MOST_TERMS} comparisons")
        place = self.now.place
        if self._is_literal():
            return self._turned(self._literal(), place)
        operand = self.operand()
        negated, operator = self._operator()
        values = self._list() if operator == "in" else (self._literal(),)
        made = Comparison(operand, operator, values, place)
        return Not(made) if negated else made

    def _turned(self, value: Literal, place: int) -> Tree:
        """A comparison that begins with its value, as `"night" in tags` and `0.9 < metrics.acc`."""
        negated, operator = self._operator()
        operand = self.operand()
        if operator == "in":
            if operand.kind != "tags":
                self._refuse(
                    "only tags can be looked into; `x in (...)` has its list on the right", operand.place
                )
        elif operator in _OPPOSITE:
            operator = _OPPOSITE[operator]
        else:
            self._refuse(f"{operator} has its pattern on the right", place)
        made = Comparison(operand, operator, (value,), place)
        return Not(made) if negated else made

    def _operator(self) -> tuple[bool, str]:
        """Whether it is turned into its opposite, and the operator."""
        token = self.now
        if self._is("not"):
            self._next()
            if not self._is("in"):
                self._refuse("`in` is expected after `not`")
        if self._is("in"):
            self._next()
            return token.text.lower() == "not", "in"
        signs = {"=": "==", "!~": "=~", "!=": "=="}
        if token.kind != "sign" or token.text in "(),":
            self._refuse("a comparison (== != < <= > >= =~ !~ in) is expected")
        self._next()
        return token.text.startswith("!"), signs.get(token.text, token.text)

    def _list(self) -> tuple[Literal, ...]:
        self._expect("(")
        values = [self._literal()]
        while self.now.text == "," and self.now.kind == "sign":
            self._next()
            values.append(self._literal())
        self._expect(")")
        return tuple(values)

    def _is_literal(self) -> bool:
        return self.now.kind in ("number", "text") or any(
            self._is(word) for word in ("true", "false", "null", "none")
        )

    def _literal(self) -> Literal:
        token = self.now
        if not self._is_literal():
            self._refuse("a number, a text in quotes, true, false or null is expected")
        self._next()
        if token.kind == "number":
            if len(token.text) > _LARGEST_NUMBER:
                self._refuse("a number of too many digits", token.place)
            return float(token.text)
        if token.kind == "text":
            return self._text(token)
        return {"true": True, "false": False}.get(token.text.lower())

    def _text(self, token: _Token) -> str:
        text = re.sub(r"\\([\\\"'])", r"\1", token.text[1:-1])
        if "\0" in text:
            self._refuse("a zero byte", token.place)
        return text

    def _named(self, token: _Token, aggregate: str) -> Operand:
        if token.kind == "word" and token.text in FIELDS:
            return Operand(token.text, "", "", token.place)
        if token.kind != "key":
            self._refuse(
                f"config.KEY, metrics.KEY or a field ({', '.join(FIELDS)}) is expected,"
                f" not {token.text[:40]!r}",
                token.place,
            )
        kind = "metrics" if token.text.startswith("metrics") else "config"
        rest = token.text[re.match(r"\w+", token.text).end() :]  # type: ignore[union-attr]
        if rest.startswith("["):
            key = self._text(_Token("text", rest[1:-1].strip(), token.place))
        else:
            key = rest[1:].strip("`")
        if not key or "\0" in key:
            self._refuse("a key that is empty or has a zero byte", token.place)
        return Operand(kind, key, aggregate if kind == "metrics" else "", token.place)

    def _is(self, word: str) -> bool:
        return self.now.kind == "word" and self.now.text.lower() == word

    def _expect(self, sign: str) -> None:
        if self.now.text != sign or self.now.kind != "sign":
            self._refuse(f"{sign!r} is expected")
        self._next()

    def _next(self) -> None:
        self.now = next(self._tokens)

    def _refuse(self, what: str, place: int | None = None) -> NoReturn:
        refuse(self._field, self.now.place if place is None else place, what)
