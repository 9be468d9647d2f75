"""MLflow's search grammar: comparisons joined by AND, and the keys that a listing is sorted by. Pure.

Who may be compared with what is a `Vocabulary`'s to say; refusals have the words of MLflow's own server, as
its users know them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeAlias

from cairn_common.errors import InvalidArgument

#: What a key is compared with: a text, a number, several texts, or (IS NULL) nothing.
Value: TypeAlias = "str | int | float | tuple[str, ...] | None"

NUMERIC: Final = frozenset({">", ">=", "!=", "=", "<", "<="})
TEXTUAL: Final = frozenset({"!=", "=", "LIKE", "ILIKE"})
LISTED: Final = frozenset({"IN", "NOT IN"})
NULL: Final = frozenset({"IS NULL", "IS NOT NULL"})

LONGEST: Final = 20_000
MOST_CLAUSES: Final = 100

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^'\\]|''|\\.)*')
    |(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.`])
    |(?P<sign><=|>=|!=|<>|==|=|<|>)
    |(?P<open>\()|(?P<close>\))|(?P<comma>,)
    |(?P<name>\w+\.'[^']*'|(?:`[^`]*`|"[^"]*"|[^\s<>=!,()'"`;]+)+)
    )""",
    re.VERBOSE,
)
_QUOTED = re.compile(r"""(['"])(.*)\1""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What can be searched for."""

    # Words before the dot -> the kind of entity that they stand for.
    entities: Mapping[str, str]
    # Kinds of entity -> comparators that they know. `attribute` is that of texts.
    comparators: Mapping[str, Set[str]]
    # Attributes of the thing itself: `text` or `number`.
    attributes: Mapping[str, str]
    # Keys of further kinds of which only these are known: {"dataset": {"name", "digest"}}.
    closed: Mapping[str, Set[str]] = field(default_factory=dict)
    # Attributes, and kinds, that can be compared with a list.
    lists: Set[str] = frozenset()
    # Other names of attributes.
    aliases: Mapping[str, str] = field(default_factory=dict)
    # Kinds whose values are numbers.
    numbers: Set[str] = frozenset({"metric"})


@dataclass(frozen=True, slots=True)
class Clause:
    """One comparison."""

    kind: str
    key: str
    comparator: str
    value: Value


@dataclass(frozen=True, slots=True)
class Sorting:
    """Something that a listing is sorted by."""

    kind: str
    key: str
    falling: bool


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str

    @property
    def word(self) -> str:
        return self.text.upper() if self.kind == "name" else ""


def parse(text: str, vocabulary: Vocabulary) -> list[Clause]:
    """The comparisons of a filter, all of which have to hold; none of an empty one.

    Raises InvalidArgument.
    """
    tokens = _tokens(text, "filter")
    clauses: list[Clause] = []
    place = 0
    while place < len(tokens):
        if clauses:
            if tokens[place].word != "AND":
                _refuse(f"Invalid clause(s) in filter string: '{tokens[place].text}'")
            place += 1
        clause, place = _clause(tokens, place, vocabulary)
        clauses.append(clause)
        if len(clauses) > MOST_CLAUSES:
            _refuse(f"a filter has at most {MOST_CLAUSES} comparisons")
    return clauses


def parse_order(texts: Sequence[str], vocabulary: Vocabulary) -> list[Sorting]:
    """What a listing is sorted by. Raises InvalidArgument."""
    found: list[Sorting] = []
    for text in texts:
        tokens = _tokens(text, "order_by")
        if not 1 <= len(tokens) <= 2 or tokens[0].kind != "name":
            _refuse(f"Invalid order_by clause '{text}'. Could not be parsed.")
        word = tokens[1].word if len(tokens) == 2 else "ASC"
        if word not in ("ASC", "DESC"):
            _refuse(f"Invalid ordering key in order_by clause '{text}'.")
        kind, key = identifier(tokens[0].text, vocabulary)
        if any((item.kind, item.key) == (kind, key) for item in found):
            _refuse(f"`order_by` contains duplicate fields: {list(texts)}")
        found.append(Sorting(kind, key, word == "DESC"))
    return found


def identifier(text: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """The kind and key of `metrics.acc` and the like; a name without a dot is an attribute's."""
    before, dot, key = text.partition(".")
    # A dot inside quotes belongs to the name.
    if not dot or (before.startswith(("`", '"')) and not before.endswith(before[0])):
        before, key = "attribute", text
    before = _bare(before)
    kind = vocabulary.entities.get(before)
    if kind is None:
        kinds = list(dict.fromkeys(vocabulary.entities.values()))
        _refuse(f"Invalid entity type '{before}'. Valid values are {kinds}")
    key = _bare(key)
    known = vocabulary.attributes.keys()
    if kind == "attribute":
        if key not in known and vocabulary.aliases.get(key) not in known:
            _refuse(f"Invalid attribute key '{key}' specified. Valid keys are '{set(known)}'")
        key = vocabulary.aliases.get(key, key)
    elif kind in vocabulary.closed and key not in vocabulary.closed[kind]:
        _refuse(f"Invalid {kind} key '{key}' specified. Valid keys are '{set(vocabulary.closed[kind])}'")
    return kind, key


def _tokens(text: str, what: str) -> list[_Token]:
    if len(text) > LONGEST:
        _refuse(f"{what}: {len(text):,} characters; at most {LONGEST:,}")
    return list(_cut(text.strip(), what))


def _cut(text: str, what: str) -> Iterator[_Token]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.end() == place:
            rest = text[place : place + 80].strip()
            if what == "filter" and rest[:1] == ";" and rest.strip(";"):
                _refuse(
                    f"Search filter contained multiple expression '{text[:200]}'. Provide AND-ed expression "
                    "list."
                )
            if what == "filter":
                _refuse(f"Invalid clause(s) in filter string: '{rest}'")
            _refuse(f"Invalid order_by clause '{text[:200]}'. Could not be parsed.")
        yield _Token(match.lastgroup or "", match[match.lastgroup or 0])
        place = match.end()


def _clause(tokens: Sequence[_Token], place: int, vocabulary: Vocabulary) -> tuple[Clause, int]:
    if tokens[place : place + 1] == [] or tokens[place].kind != "name":
        found = tokens[place].text if place < len(tokens) else ""
        _refuse(f"Invalid comparison clause. Expected 'Identifier' found '{found}'")
    name = tokens[place].text
    comparator, place = _comparator(tokens, place + 1, name)
    kind, key = identifier(name, vocabulary)
    if comparator in NULL:
        if comparator not in vocabulary.comparators[kind]:
            names = {"tag": "tags", "parameter": "params"}
            kinds = " and ".join(
                name for item, name in names.items() if comparator in vocabulary.comparators.get(item, ())
            )
            _refuse(f"IS NULL / IS NOT NULL is only supported for {kinds}, not for '{kind}' '{key}'")
        return Clause(kind, key, comparator, None), place
    if place >= len(tokens):
        _refuse("Invalid comparison clause. Expected 3 tokens found 2")
    value, place = _value(tokens, place, kind, key, vocabulary)
    _check_comparator(kind, key, comparator, value, vocabulary)
    return Clause(kind, key, comparator, value), place


def _comparator(tokens: Sequence[_Token], place: int, name: str) -> tuple[str, int]:
    words = [token.word for token in tokens[place : place + 3]] + ["", "", ""]
    if place < len(tokens) and tokens[place].kind == "sign":
        return tokens[place].text, place + 1
    for known in ("IS NOT NULL", "NOT IN", "IS NULL", "IN", "LIKE", "ILIKE"):
        parts = known.split()
        if words[: len(parts)] == parts:
            return known, place + len(parts)
    return _refuse(f"Invalid clause(s) in filter string: '{name}'")


def _value(
    tokens: Sequence[_Token], place: int, kind: str, key: str, vocabulary: Vocabulary
) -> tuple[Value, int]:
    token = tokens[place]
    if token.kind == "open":
        listed = kind in vocabulary.lists
        if kind in vocabulary.numbers and not listed:
            _refuse(f"Expected numeric value type for metric. Found {_listing(tokens, place)}")
        if kind in ("parameter", "tag") and not listed:
            _refuse(
                f"Expected a quoted string value for {kind} (e.g. 'my-value'). "
                f"Got value {_listing(tokens, place)}"
            )
        if key not in vocabulary.lists and not listed:
            named = sorted(name for name in vocabulary.lists if name in vocabulary.attributes)
            _refuse(f"Only {named} attributes support comparison with a list of quoted string values.")
        return _list(tokens, place + 1)
    numeric = kind in vocabulary.numbers or (kind == "attribute" and vocabulary.attributes[key] == "number")
    if numeric:
        if token.kind != "number":
            what = "metric" if kind != "attribute" else f"numeric attribute: {key}"
            _refuse(f"Expected numeric value type for {what}. Found {token.text}")
        return _number(token.text), place + 1
    quoted = _QUOTED.fullmatch(token.text)
    if quoted is not None:
        return quoted[2], place + 1
    if token.kind == "name":
        _refuse(
            "Parameter value is either not quoted or unidentified quote types used for string value "
            f"{token.text}. Use either single or double quotes."
        )
    what = "attributes" if kind == "attribute" else f"{kind} (e.g. 'my-value')"
    return _refuse(f"Expected a quoted string value for {what}. Got value {token.text}")


def _listing(tokens: Sequence[_Token], place: int) -> str:
    """A list as it was written, to tell of it."""
    texts = [token.text for token in tokens[place:]]
    return "".join(texts[: texts.index(")") + 1] if ")" in texts else texts)[:200]


def _list(tokens: Sequence[_Token], place: int) -> tuple[tuple[str, ...], int]:
    found: list[str] = []
    start = place
    while place < len(tokens) and tokens[place].kind != "close":
        token = tokens[place]
        if found and token.kind == "comma":
            place += 1
            if place < len(tokens) and tokens[place].kind == "close":
                break
            token = tokens[place] if place < len(tokens) else token
        elif found:
            _refuse_list()
        quoted = _QUOTED.fullmatch(token.text)
        if quoted is None:
            if token.kind == "number":
                _refuse(
                    "While parsing a list in the query, expected string value, punctuation, or whitespace, "
                    f"but got different type in list: {token.text}"
                )
            _refuse_list()
        found.append(quoted[2])
        place += 1
    if place >= len(tokens):
        _refuse_list()
    if place == start:
        _refuse(
            "While parsing a list in the query, expected a non-empty list of string values, "
            "but got empty list"
        )
    return tuple(found), place + 1


def _check_comparator(kind: str, key: str, comparator: str, value: Value, vocabulary: Vocabulary) -> None:
    known = vocabulary.comparators[kind]
    if kind == "attribute" and vocabulary.attributes[key] == "number":
        known = NUMERIC
    listed = isinstance(value, tuple)
    if comparator not in known or listed != (comparator in LISTED):
        _refuse(f"Invalid comparator '{comparator}' not one of '{set(known)}'")


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _bare(text: str) -> str:
    """Without the quotes around it."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "`\"'":
        return text[1:-1]
    return text


def _refuse_list() -> NoReturn:
    _refuse(
        "While parsing a list in the query, expected a non-empty list of string values, "
        "but got ill-formed list."
    )


def _refuse(message: str) -> NoReturn:
    raise InvalidArgument(message, field="filter")
