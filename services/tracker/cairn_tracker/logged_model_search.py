"""Searches for logged models as SQL: what the caller wrote goes into parameters, and only there. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker.mlflow.grammar import LISTED, NUMERIC, TEXTUAL, Clause, Vocabulary, parse
from cairn_tracker.mlflow.search import number_test, text_test
from cairn_tracker.registry_search import FURTHEST
from cairn_tracker.search import Parameters

_MOST_ORDERS: Final = 10
_MILLIS: Final = "(extract(epoch FROM {0}) * 1000)::bigint"
#: What a search names, and the columns of it.
_NUMBERS: Final[Mapping[str, str]] = {
    name: _MILLIS.format(column)
    for column, names in {
        "create_time": ("creation_time", "creation_timestamp", "creation_timestamp_ms"),
        "update_time": ("last_updated_timestamp", "last_updated_timestamp_ms"),
    }.items()
    for name in names
}
_COLUMNS: Final[Mapping[str, str]] = {
    "name": "name", "model_id": "model_id", "experiment_id": "experiment_id", "model_type": "model_type",
    "source_run_id": "source_run_id",
    "status": "(ARRAY['PENDING', 'READY', 'FAILED'])[status]",
}  # fmt: skip
_TEXTS: Final = dict.fromkeys(_COLUMNS, "text")
VOCABULARY: Final = Vocabulary(
    entities={
        "attributes": "attribute", "attribute": "attribute", "metrics": "metric", "params": "parameter",
        "tags": "tag",
    },
    comparators={
        "attribute": TEXTUAL | LISTED, "metric": NUMERIC, "parameter": TEXTUAL | LISTED,
        "tag": TEXTUAL | LISTED,
    },
    attributes={**_TEXTS, **dict.fromkeys(_NUMBERS, "number")},
    lists=frozenset({*_COLUMNS, "parameter", "tag"}),
)  # fmt: skip
"""What can be searched for."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a metric was measured on; an empty digest is any."""

    name: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """What to sort by; a metric may be told of one dataset."""

    field_name: str
    falling: bool = False
    dataset: Dataset | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for."""

    team: str
    experiments: Sequence[str]
    text: str = ""
    datasets: Sequence[Dataset] = ()
    order_by: Sequence[Order] = ()
    # Of this run alone; empty: of any.
    source_run: str = ""


@dataclass(frozen=True, slots=True)
class Search:
    """What follows the table's name in a search, and the values for it."""

    rest: str
    values: Sequence[object]

    def statement(self, columns: str) -> str:
        """The whole statement."""
        return f"SELECT {columns} FROM logged_models m WHERE {self.rest}"  # noqa: S608


def search(query: Query, *, offset: int, limit: int) -> Search:
    """The search as SQL. Raises InvalidArgument for what cannot be read."""
    given = Parameters([query.team])
    clauses = parse(query.text, VOCABULARY)
    tests = [
        "team = $1",
        "delete_time IS NULL",
        f"experiment_id = ANY({given.add(list(query.experiments), 'text[]')})",
    ]
    if query.source_run:
        tests.append(f"source_run_id = {given.add(query.source_run, 'text')}")
    tests += [_test(clause, query.datasets, given) for clause in clauses]
    if query.datasets and not any(clause.kind == "metric" for clause in clauses):
        tests.append(f"EXISTS (SELECT FROM logged_model_metrics x WHERE {_own(query.datasets, given)})")
    order = _order(query.order_by, given)
    rest = f"{' AND '.join(tests)} ORDER BY {order} LIMIT {given.add(limit, 'integer')}"
    return Search(f"{rest} OFFSET {given.add(offset, 'bigint')}", given.values)


def page_token(query: Query, offset: int) -> str:
    """A token for the page that begins at this place, good for this search alone."""
    return base64.b64encode(json.dumps({**_shape(query), "offset": offset}).encode()).decode()


def offset(token: str, query: Query) -> int:
    """The place that a page begins at; 0 without a token. Raises InvalidArgument (PAGE_TOKEN_INVALID)."""
    if not token:
        return 0
    try:
        found = json.loads(base64.b64decode(token, validate=True))
        place = found.pop("offset")
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error, RecursionError):
        raise _bad_token("Invalid page token; begin again without it") from None
    for name, said in _shape(query).items():
        if found.get(name) != said:
            what = {"experiment_ids": "Experiment IDs", "filter_string": "Filter string"}.get(
                name, "Order by"
            )
            raise _bad_token(f"{what} in the page token does not match the requested one. Expected: {said}")
    if not isinstance(place, int) or not 0 <= place <= FURTHEST:
        raise _bad_token("Invalid page token; begin again without it")
    return place


def _shape(query: Query) -> dict[str, Any]:
    return {
        "experiment_ids": list(query.experiments),
        "filter_string": query.text or None,
        "order_by": [asdict(order) for order in query.order_by] or None,
    }


def _test(clause: Clause, datasets: Sequence[Dataset], given: Parameters) -> str:
    match clause.kind:
        case "metric":
            wanted = f"{_own(datasets, given)} AND x.key = {given.add(clause.key, 'text')}"
            test = number_test(clause, "x.value", given)
            return f"EXISTS (SELECT FROM logged_model_metrics x WHERE {wanted} AND {test})"
        case "attribute":
            if clause.key in _NUMBERS:
                return number_test(clause, _NUMBERS[clause.key], given)
            return text_test(clause, _COLUMNS[clause.key], given)
    column = "params" if clause.kind == "parameter" else "tags"
    return text_test(clause, f"({column} ->> {given.add(clause.key, 'text')})", given)


def _own(datasets: Sequence[Dataset], given: Parameters) -> str:
    """Metrics of the model in `m`, on one of the datasets."""
    own = "(x.team, x.model_id) = (m.team, m.model_id)"
    if not datasets:
        return own
    return f"{own} AND ({' OR '.join(_on(dataset, given) for dataset in datasets)})"


def _on(dataset: Dataset, given: Parameters) -> str:
    test = f"x.dataset_name = {given.add(dataset.name, 'text')}"
    return f"({test} AND x.dataset_digest = {given.add(dataset.digest, 'text')})" if dataset.digest else test


def _order(orders: Sequence[Order], given: Parameters) -> str:
    if len(orders) > _MOST_ORDERS:
        raise _bad(f"order_by: at most {_MOST_ORDERS} can be given")
    keys = [f"{_sorted(order, given)} {'DESC' if order.falling else 'ASC'} NULLS LAST" for order in orders]
    return ", ".join([*keys, "create_time DESC", "model_id"])


def _sorted(order: Order, given: Parameters) -> str:
    entity, dot, key = order.field_name.partition(".")
    if not dot:
        column = {**_NUMBERS, **_COLUMNS}.get(order.field_name)
        if column is None:
            raise _bad(f"Invalid order by field name: {order.field_name[:80]}")
        return column
    if entity != "metrics":
        raise _bad(f"Invalid order by field name: {order.field_name[:80]}. Only metrics are supported.")
    own = _own([order.dataset] if order.dataset else (), given)
    return (
        f"(SELECT x.value FROM logged_model_metrics x WHERE {own} AND x.key = {given.add(key, 'text')}"  # noqa: S608
        " ORDER BY x.timestamp DESC, x.step DESC, x.run_id LIMIT 1)"
    )


def _bad(message: str) -> InvalidArgument:
    return InvalidArgument(message[:500], field="order_by")


def _bad_token(message: str) -> InvalidArgument:
    return InvalidArgument(message[:500], reason=Reason.PAGE_TOKEN_INVALID)
