"""Searches of the registry as SQL: what the caller wrote goes into parameters, and only there. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker.clauses import Clause, Order, parse, parse_order
from cairn_tracker.search import Parameters

PROMPT: Final = "mlflow.prompt.is_prompt"

_SIGNS: Final = ("=", "!=", "LIKE", "ILIKE")
_LISTS: Final = ("IN", "NOT IN")
_NUMERIC: Final = ("=", "!=", "<", "<=", ">", ">=")
_MOST_ORDERS: Final = 10
FURTHEST: Final = 10**9

#: What a search names, and the columns of it.
MODELS: Final[Mapping[str, str]] = {"name": "name"}
VERSIONS: Final[Mapping[str, str]] = {
    "name": "model", "version_number": "number", "run_id": "run_id", "source_path": "source",
}  # fmt: skip
_LISTED: Final = frozenset({"name", "run_id"})
_MODEL_ORDERS: Final[Mapping[str, str]] = {
    "name": "name", "creation_timestamp": "create_time", "timestamp": "update_time",
    "last_updated_timestamp": "update_time",
}  # fmt: skip
_VERSION_ORDERS: Final[Mapping[str, str]] = {
    "name": "model", "version_number": "number", "creation_timestamp": "create_time",
    "last_updated_timestamp": "update_time",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Search:
    """What follows the FROM of a search, and the values for it."""

    where: str
    order: str
    limit: str
    values: Sequence[object]

    def statement(self, columns: str, source: str) -> str:
        """The whole statement over a subquery, of which $1 is the team."""
        return f"SELECT {columns} FROM ({source}) x WHERE {self.where} ORDER BY {self.order} {self.limit}"  # noqa: S608


def models(team: str, text: str, order_by: Sequence[str], *, offset: int, limit: int) -> Search:
    """A search for models. Raises InvalidArgument for what cannot be read."""
    given = Parameters([team])
    tests = _tests(parse(text), MODELS, given)
    order = _order(order_by, _MODEL_ORDERS, natural=(), ties=("name",))
    return _search(tests, order, given, offset=offset, limit=limit)


def versions(team: str, text: str, order_by: Sequence[str], *, offset: int, limit: int) -> Search:
    """A search for versions of models. Raises InvalidArgument for what cannot be read."""
    given = Parameters([team])
    tests = _tests(parse(text), VERSIONS, given, model_tags=True)
    order = _order(
        order_by,
        _VERSION_ORDERS,
        natural=(Order("last_updated_timestamp", True),),
        ties=("model", "number DESC"),
    )
    return _search(tests, order, given, offset=offset, limit=limit)


def page_token(offset: int) -> str:
    """A token as MLflow's server makes it, for the page that begins at this place."""
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


def offset(token: str) -> int:
    """The place that a page begins at; 0 without a token. Raises InvalidArgument (PAGE_TOKEN_INVALID)."""
    if not token:
        return 0
    try:
        place = json.loads(base64.b64decode(token, validate=True))["offset"]
        if isinstance(place, int) and 0 < place <= FURTHEST:
            return place
    except (ValueError, TypeError, KeyError, binascii.Error, RecursionError):
        pass
    raise InvalidArgument(
        "Invalid page token, could not base64-decode",
        reason=Reason.PAGE_TOKEN_INVALID,
    )


def _search(tests: Sequence[str], order: str, given: Parameters, *, offset: int, limit: int) -> Search:
    rest = f"LIMIT {given.add(limit, 'integer')} OFFSET {given.add(offset, 'bigint')}"
    return Search(" AND ".join(tests) or "true", order, rest, given.values)


def _tests(
    clauses: Sequence[Clause], columns: Mapping[str, str], given: Parameters, *, model_tags: bool = False
) -> list[str]:
    prompts = _asks_for_prompts(clauses)
    found = []
    for clause in clauses:
        if clause.entity in ("tag", "tags"):
            if prompts or clause.key != PROMPT:
                found.append(_tag(clause, given))
        elif clause.entity in ("", "attribute"):
            found.append(_attribute(clause, columns, given))
        else:
            raise _bad(
                f"Invalid entity type '{clause.entity}'. Valid entity types are ('attribute', 'tag', 'tags')"
            )
    if not prompts:
        tags = "(tags || model_tags)" if model_tags else "tags"
        found.append(f"coalesce({tags} ->> '{PROMPT}', '') <> 'true'")
    return found


def _asks_for_prompts(clauses: Sequence[Clause]) -> bool:
    for clause in clauses:
        if clause.entity in ("tag", "tags") and clause.key == PROMPT:
            wanted = str(clause.value).lower()
            return (clause.operator, wanted) in (("=", "true"), ("!=", "false"))
    return False


def _tag(clause: Clause, given: Parameters) -> str:
    if clause.operator not in _SIGNS:
        raise _bad(f"Invalid comparator for tag: {clause.operator}")
    if not isinstance(clause.value, str):
        raise _bad(f"Expected a quoted string value for tag (e.g. 'my-value'). Got value {clause.text}")
    return _texts(f"(tags ->> {given.add(clause.key, 'text')})", clause, given)


def _attribute(clause: Clause, columns: Mapping[str, str], given: Parameters) -> str:
    if clause.key not in columns:
        raise _bad(f"Invalid attribute key '{clause.key}' specified. Valid keys are '{set(columns)}'")
    column = columns[clause.key]
    if column == "number":
        return _number(column, clause, given)
    if clause.operator in _LISTS:
        if clause.key not in _LISTED:
            raise _bad(f"Invalid comparator for attribute: {clause.operator}")
        test = f"{column} = ANY({given.add(list(_strings(clause)), 'text[]')})"
        return test if clause.operator == "IN" else f"NOT ({test})"
    if clause.operator not in _SIGNS:
        raise _bad(f"Invalid comparator for attribute: {clause.operator}")
    if not isinstance(clause.value, str):
        raise _bad(
            "Expected a quoted string value or a list of quoted string values for attributes. Got value "
            f"{clause.text}"
        )
    return _texts(column, clause, given)


def _strings(clause: Clause) -> Collection[str]:
    assert isinstance(clause.value, tuple), "the parser gives a list for IN"
    return clause.value


def _texts(column: str, clause: Clause, given: Parameters) -> str:
    """A comparison of texts. Patterns have no escapes, as with SQLite."""
    escape = " ESCAPE ''" if clause.operator in ("LIKE", "ILIKE") else ""
    return f"{column} {clause.operator} {given.add(clause.value, 'text')}{escape}"


def _number(column: str, clause: Clause, given: Parameters) -> str:
    if clause.operator not in _NUMERIC:
        raise _bad(f"Invalid comparator for attribute {clause.key}: {clause.operator}")
    try:
        value = float(clause.value) if not isinstance(clause.value, tuple) else float("nan")
    except ValueError:
        value = float("nan")
    if value != int(value) if abs(value) < FURTHEST else True:
        raise _bad(f"Invalid value for numeric attribute '{clause.key}': {clause.value!r}")
    return f"{column} {clause.operator} {given.add(int(value), 'bigint')}"


def _order(
    order_by: Sequence[str], columns: Mapping[str, str], *, natural: Sequence[Order], ties: Sequence[str]
) -> str:
    if len(order_by) > _MOST_ORDERS:
        raise _bad(f"order_by: at most {_MOST_ORDERS} can be given", field="order_by")
    orders = [parse_order(text, columns) for text in order_by] or list(natural)
    named = [columns[order.key] for order in orders]
    if len(set(named)) < len(named):
        raise _bad(f"`order_by` contains duplicate fields: {list(order_by)}", field="order_by")
    # Names compare by their bytes, as MLflow's own databases do.
    keys = [f"{_sorted(columns[order.key])} {'DESC' if order.falling else 'ASC'}" for order in orders]
    keys += [_sorted(tie) for tie in ties if tie.split()[0] not in named]
    return ", ".join(keys)


def _sorted(column: str) -> str:
    return f'{column} COLLATE "C"' if column in ("name", "model") else column


def _bad(message: str, *, field: str = "filter") -> InvalidArgument:
    return InvalidArgument(message[:500], field=field)
