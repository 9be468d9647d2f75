"""A search for runs as SQL: what the caller wrote goes into parameters, and only there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from cairn_tracker.expression import Comparison, Joined, Literal, Not, Operand, Tree, refuse
from cairn_tracker.model import RunState

#: The values of the keys that a page ends with; None where the run has none.
Place: TypeAlias = "Sequence[str | float | datetime | None]"

_TEXTS: Final = {
    "name": "display_name", "experiment": "experiment", "sweep": "sweep", "creator": "creator", "id": "uid",
    "command": "command", "git_commit": "git_commit", "git_branch": "git_branch", "cause": "cause",
    "message": "message", "group": "run_group", "notes": "notes",
}  # fmt: skip
_TIMES: Final = {
    "created": "create_time", "updated": "update_time", "started": "start_time", "ended": "end_time",
}  # fmt: skip
_COLUMNS: Final = {"last": "last", "min": "min", "max": "max", "count": "count"}
# Bytes of a param's name in `run_numbers`.
_LONGEST_KEY: Final = 1_000
_ALWAYS: Final = ("create_time", "update_time")
# Characters of a text that it is sorted by: a page token has them.
_SORTED: Final = 200
_AMONG: Final = "uid IN "
_SIGNS: Final = {"==": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


@dataclass(slots=True)
class Parameters:
    """The arguments of a statement, numbered as they come. The first is the team."""

    values: list[Any] = field(default_factory=list)

    def add(self, value: Any, kind: str) -> str:
        """Its place in the statement."""
        self.values.append(value)
        return f"${len(self.values)}::{kind}"


@dataclass(frozen=True, slots=True)
class Key:
    """Something that a listing is sorted by."""

    sql: str
    kind: str
    falling: bool
    # Whether every row of the listing has it.
    required: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Runs that a listing has behind each other: first those that have what it is sorted by, then the others.

    Each part is in an order that an index has, so that a page reads no more than its runs.
    """

    join: str
    test: str
    # NULL stands for what these runs have not, and so are not sorted by.
    keys: Sequence[Key | None]
    # What `join` is where `uid IN` tests narrow a listing down, with these in it: no index has its order,
    # so all that they leave is sorted before the runs themselves are looked up.
    narrowed: str = ""

    def joined(self, tests: list[str]) -> tuple[str, list[str]]:
        """The join, and which of the tests are left to be made of the runs."""
        inside = [test for test in tests if test.startswith(_AMONG)]
        if not (self.narrowed and inside):
            return self.join, tests
        moved = "".join(f" AND run_{test}" for test in inside)
        return self.narrowed.format(tests=moved), [test for test in tests if test not in inside]


def conditions(tree: Tree, given: Parameters) -> list[str]:
    """As `condition`, of which all have to hold."""
    if isinstance(tree, Joined) and tree.word == "and":
        return [test for part in tree.parts for test in conditions(part, given)]
    return [condition(tree, given)]


def condition(tree: Tree, given: Parameters) -> str:
    """An expression on a row of `runs` that is true or false, never NULL."""
    match tree:
        case Not(of):
            return f"NOT ({condition(of, given)})"
        case Joined(word, parts):
            return "(" + f" {word.upper()} ".join(condition(part, given) for part in parts) + ")"
        case Comparison():
            return _comparison(tree, given)


def kinds(operand: Operand) -> list[str]:
    """The types of what a listing is sorted by."""
    return [key.kind for key in parts(operand, False, Parameters())[0].keys if key is not None]


def parts(operand: Operand, falling: bool, given: Parameters) -> list[Part]:
    """The runs sorted by something. The parts have the same parameters."""
    if operand.kind == "metrics":
        # NaN counts as nothing: to the database it is greater than every number.
        column = f"{_COLUMNS[operand.aggregate]}::float8"
        rows = (
            f"FROM summaries WHERE team = $1 AND key = {given.add(operand.key, 'text')} AND {column} < 'NaN'"
        )
        key = Key(column, "float8", falling, required=True)
        return _with_and_without(rows, key, [], [], indexed=operand.aggregate == "last")
    if operand.kind == "config":
        value = _config(operand, given)
        number, text = f"run_number({value})", f"left({value} #>> '{{}}', {_SORTED})"
        texts = [Key(text, "text", falling)]
        if not _is_indexed(operand):
            return [Part("", "", [Key(number, "float8", falling), *texts])]
        rows = f"FROM run_numbers WHERE team = $1 AND key = {given.add(operand.key, 'text')}"
        return _with_and_without(rows, Key("number", "float8", falling, required=True), texts, texts)
    if operand.kind in _TIMES:
        column = _TIMES[operand.kind]
        return [Part("", "", [Key(column, "timestamptz", falling, required=column in _ALWAYS)])]
    if operand.kind == "state":
        return [Part("", "", [Key("state::float8", "float8", falling, required=True)])]
    return [Part("", "", [Key(f"left(nullif({_TEXTS[operand.kind]}, ''), {_SORTED})", "text", falling)])]


def _with_and_without(
    rows: str, key: Key, with_it: Sequence[Key], without: Sequence[Key], *, indexed: bool = True
) -> list[Part]:
    """Runs with a row of their own somewhere, by one of its columns (an index may have its order), and
    those without."""
    of = f"SELECT run_uid AS sorted_uid, {key.sql} AS sorted {rows}"
    join = f"JOIN ({of}) o ON o.sorted_uid = runs.uid"
    # OFFSET keeps the planner from putting the runs in between.
    narrowed = (
        f"JOIN ({of}{{tests}} ORDER BY sorted{' DESC' * key.falling} OFFSET 0) o ON o.sorted_uid = runs.uid"
    )
    none = f"NOT EXISTS (SELECT {rows} AND run_uid = runs.uid)"
    first = Key("o.sorted", key.kind, key.falling, required=True)
    found = Part(join, "", [first, *with_it], narrowed="" if indexed else narrowed)
    return [found, Part("", none, [None, *without])]


def after(keys: Sequence[Key], place: Place, given: Parameters) -> str:
    """Whether a row comes after a place, of keys of which those without a value come last."""
    if not keys:
        return "false"
    if len(keys) > 1 and all(key.required and key.falling == keys[0].falling for key in keys):
        columns = ", ".join(key.sql for key in keys)
        at = ", ".join(given.add(value, key.kind) for key, value in zip(keys, place, strict=True))
        return f"({columns}) {'<' if keys[0].falling else '>'} ({at})"
    (key, *others), (value, *rest) = keys, place
    deeper = after(others, rest, given)
    if value is None:
        return f"({key.sql} IS NULL AND {deeper})"
    at = given.add(value, key.kind)
    sign = "<" if key.falling else ">"
    if key.required:
        # The first half says nothing new; an index begins with it.
        return f"({key.sql} {sign}= {at} AND ({key.sql} {sign} {at} OR {deeper}))"
    return f"({key.sql} {sign} {at} OR {key.sql} IS NULL OR ({key.sql} = {at} AND {deeper}))"


def order(keys: Sequence[Key]) -> str:
    """The ORDER BY of keys."""
    # Without a word of NULLs where there are none: indexes have those elsewhere.
    return ", ".join(
        f"{key.sql} {'DESC' if key.falling else 'ASC'}{'' if key.required else ' NULLS LAST'}" for key in keys
    )


def _comparison(tree: Comparison, given: Parameters) -> str:
    operand = tree.operand
    if operand.kind == "tags":
        return _tags(tree, given)
    if operand.kind == "metrics":
        return _metric(tree, given)
    if operand.kind == "config":
        return _each(tree, lambda value: _config_is(tree, value, given))
    if operand.kind == "state":
        return _each(tree, lambda value: _state(tree, value, given))
    if operand.kind in _TIMES:
        return _each(tree, lambda value: _time(tree, value, given))
    return _each(tree, lambda value: _text(tree, _TEXTS[operand.kind], value, given))


def _each(tree: Comparison, one: Any) -> str:
    return _any([_sure(one(value)) for value in tree.values])


def _any(tests: Sequence[str]) -> str:
    # One alone goes without what hides a join from the planner.
    return tests[0] if len(tests) == 1 else f"({' OR '.join(tests)})"


def _sure(test: str) -> str:
    return test if test.startswith(_AMONG) else f"coalesce({test}, false)"


def _tags(tree: Comparison, given: Parameters) -> str:
    value = tree.values[0]
    if tree.operator != "in" or len(tree.values) != 1 or not isinstance(value, str):
        refuse("filter", tree.place, 'tags are asked for as "name" in tags')
    return f"tags @> ARRAY[{given.add(value, 'text')}]"


def _metric(tree: Comparison, given: Parameters) -> str:
    """Without the row's own value: the metric's runs are looked up once, by its index."""
    operand = tree.operand
    column = _COLUMNS[operand.aggregate]
    wanted = f"team = $1 AND key = {given.add(operand.key, 'text')}"
    if tree.values == (None,) and tree.operator == "==":
        return f"uid NOT IN (SELECT run_uid FROM summaries WHERE {wanted})"  # noqa: S608
    tests = []
    for value in tree.values:
        if isinstance(value, bool) or not isinstance(value, float) or tree.operator == "=~":
            refuse("filter", tree.place, "a metric is compared with numbers")
        # NaN is greater than every number to the database, and to nobody else.
        tests.append(f"({column} {_sign(tree)} {given.add(value, 'float8')} AND {column}::float8 <> 'NaN')")
    return f"uid IN (SELECT run_uid FROM summaries WHERE {wanted} AND ({' OR '.join(tests)}))"  # noqa: S608


def _config(operand: Operand, given: Parameters) -> str:
    """A param by its whole name, or by the way into nested ones."""
    flat = f"params -> {given.add(operand.key, 'text')}"
    if "." not in operand.key:
        return f"({flat})"
    return f"coalesce({flat}, params #> {given.add(operand.key.split('.'), 'text[]')})"


def _is_indexed(operand: Operand) -> bool:
    """Whether the numbers that params have under a key are in `run_numbers`: all but those in lists."""
    short = len(operand.key.encode()) <= _LONGEST_KEY
    return short and not any(step.strip().lstrip("+-").isdigit() for step in operand.key.split("."))


def _config_is(tree: Comparison, value: Literal, given: Parameters) -> str:
    if value is None or isinstance(value, bool):
        if tree.operator not in ("==", "in"):
            refuse("filter", tree.place, "true, false and null can only be equal or not")
        found = _config(tree.operand, given)
        if value is None:
            return f"coalesce({found}, 'null') = 'null'"
        return f"lower({found} #>> '{{}}') = {given.add(str(value).lower(), 'text')}"
    if isinstance(value, float):
        if tree.operator == "=~":
            refuse("filter", tree.place, "a pattern is a text in quotes")
        if _is_indexed(tree.operand):
            wanted = f"team = $1 AND key = {given.add(tree.operand.key, 'text')}"
            at = given.add(value, "float8")
            return f"uid IN (SELECT run_uid FROM run_numbers WHERE {wanted} AND number {_sign(tree)} {at})"  # noqa: S608
        return f"run_number({_config(tree.operand, given)}) {_sign(tree)} {given.add(value, 'float8')}"
    return _text(tree, f"({_config(tree.operand, given)} #>> '{{}}')", value, given)


def _state(tree: Comparison, value: Literal, given: Parameters) -> str:
    if tree.operator not in ("==", "in"):
        refuse("filter", tree.place, "a state can only be equal or not")
    name = value.upper() if isinstance(value, str) else ""
    if name not in RunState.__members__:
        known = ", ".join(state.name.lower() for state in RunState)
        refuse("filter", tree.place, f"a state is one of {known}")
    return f"state = {given.add(int(RunState[name]), 'smallint')}"


def _time(tree: Comparison, value: Literal, given: Parameters) -> str:
    column = _TIMES[tree.operand.kind]
    if value is None and tree.operator == "==":
        return f"{column} IS NULL"
    try:
        time = datetime.fromisoformat(value if isinstance(value, str) else "")
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        refuse("filter", tree.place, 'a time is written as "2026-01-31" or "2026-01-31T12:00:00Z"')
    if tree.operator == "=~":
        refuse("filter", tree.place, "a time has no pattern")
    return f"{column} {_sign(tree)} {given.add(time, 'timestamptz')}"


def _text(tree: Comparison, sql: str, value: Literal, given: Parameters) -> str:
    if value is None and tree.operator == "==":
        return f"coalesce({sql}, '') = ''"
    if not isinstance(value, str):
        refuse("filter", tree.place, "this is compared with a text in quotes")
    return f"{sql} {'~' if tree.operator == '=~' else _sign(tree)} {given.add(value, 'text')}"


def _sign(tree: Comparison) -> str:
    return _SIGNS["==" if tree.operator == "in" else tree.operator]
