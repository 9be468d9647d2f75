"""Searches of the registry as SQL: what the caller wrote goes into parameters, and only there. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker.mlflow.grammar import LISTED, TEXTUAL, Clause, Sorting, Vocabulary, parse, parse_order
from cairn_tracker.mlflow.search import number_test, text_test
from cairn_tracker.search import Parameters

PROMPT: Final = "mlflow.prompt.is_prompt"

FURTHEST: Final = 10**9
_MOST_ORDERS: Final = 10
_ENTITIES: Final = {"attribute": "attribute", "tag": "tag", "tags": "tag"}
_COMPARATORS: Final = {"attribute": TEXTUAL | LISTED, "tag": TEXTUAL}
_TIMES: Final[Mapping[str, str]] = {"timestamp": "last_updated_timestamp"}

#: What searches name, and what they sort by.
MODELS: Final = Vocabulary(_ENTITIES, _COMPARATORS, {"name": "text"}, lists=frozenset({"name"}))
VERSIONS: Final = Vocabulary(
    _ENTITIES,
    _COMPARATORS,
    {"name": "text", "run_id": "text", "source_path": "text", "version_number": "number"},
    lists=frozenset({"name", "run_id"}),
)
_MODEL_ORDERS: Final = Vocabulary(
    _ENTITIES, _COMPARATORS, {"name": "text", "last_updated_timestamp": "number"}, aliases=_TIMES
)
_VERSION_ORDERS: Final = Vocabulary(
    _ENTITIES,
    _COMPARATORS,
    {
        "name": "text",
        "version_number": "number",
        "creation_timestamp": "number",
        "last_updated_timestamp": "number",
    },
)
_MODEL_COLUMNS: Final[Mapping[str, str]] = {"name": "name", "last_updated_timestamp": "update_time"}
_VERSION_COLUMNS: Final[Mapping[str, str]] = {
    "name": "model", "version_number": "number", "run_id": "run_id", "source_path": "source",
    "creation_timestamp": "create_time", "last_updated_timestamp": "update_time",
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
    tests = _tests(parse(text, MODELS), _MODEL_COLUMNS, given)
    order = _order(_sorting(order_by, _MODEL_ORDERS), _MODEL_COLUMNS, ties=("name",))
    return _search(tests, order, given, offset=offset, limit=limit)


def versions(team: str, text: str, order_by: Sequence[str], *, offset: int, limit: int) -> Search:
    """A search for versions of models. Raises InvalidArgument for what cannot be read."""
    given = Parameters([team])
    tests = _tests(parse(text, VERSIONS), _VERSION_COLUMNS, given, model_tags=True)
    wanted = _sorting(order_by, _VERSION_ORDERS) or [Sorting("attribute", "last_updated_timestamp", True)]
    order = _order(wanted, _VERSION_COLUMNS, ties=("model", "number DESC"))
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
        if clause.kind == "tag":
            if prompts or clause.key != PROMPT:
                found.append(text_test(clause, f"(tags ->> {given.add(clause.key, 'text')})", given))
        elif clause.key == "version_number":
            if isinstance(clause.value, float):
                raise InvalidArgument(
                    f"Invalid value for numeric attribute 'version_number': {clause.value!r}", field="filter"
                )
            found.append(number_test(clause, columns[clause.key], given))
        else:
            found.append(text_test(clause, columns[clause.key], given))
    if not prompts:
        tags = "(tags || model_tags)" if model_tags else "tags"
        found.append(f"coalesce({tags} ->> '{PROMPT}', '') <> 'true'")
    return found


def _asks_for_prompts(clauses: Sequence[Clause]) -> bool:
    for clause in clauses:
        if clause.kind == "tag" and clause.key == PROMPT:
            wanted = str(clause.value).lower()
            return (clause.comparator, wanted) in (("=", "true"), ("!=", "false"))
    return False


def _sorting(order_by: Sequence[str], vocabulary: Vocabulary) -> list[Sorting]:
    if len(order_by) > _MOST_ORDERS:
        raise InvalidArgument(f"order_by: at most {_MOST_ORDERS} can be given", field="order_by")
    found = parse_order(order_by, vocabulary)
    for item in found:
        if item.kind != "attribute":
            raise InvalidArgument(
                f"Invalid order by key '{item.kind}.{item.key}' specified. Valid keys are "
                f"'{set(vocabulary.attributes)}'",
                field="order_by",
            )
    return found


def _order(wanted: Sequence[Sorting], columns: Mapping[str, str], *, ties: Sequence[str]) -> str:
    named = [columns[item.key] for item in wanted]
    # Names compare by their bytes, as MLflow's own databases do.
    keys = [f"{_collated(columns[item.key])} {'DESC' if item.falling else 'ASC'}" for item in wanted]
    return ", ".join([*keys, *(_collated(tie) for tie in ties if tie.split()[0] not in named)])


def _collated(column: str) -> str:
    return f'{column} COLLATE "C"' if column in ("name", "model") else column
