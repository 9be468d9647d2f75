"""Searches for traces as SQL: what the caller wrote goes into parameters, and only there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cairn_common.errors import InvalidArgument
from cairn_tracker.mlflow.grammar import LISTED, NULL, TEXTUAL, Clause, Vocabulary, parse, parse_order
from cairn_tracker.mlflow.search import number_test, text_test
from cairn_tracker.search import Parameters

_RUN: Final = "(metadata ->> 'mlflow.sourceRun')"
_NAME: Final = "(tags ->> 'mlflow.traceName')"
_COLUMNS: Final[Mapping[str, str]] = {
    "trace_id": "trace_id", "timestamp_ms": "request_time", "execution_time_ms": "execution_duration",
    "end_time_ms": "(request_time + execution_duration)", "client_request_id": "client_request_id",
    "status": "(ARRAY['OK', 'ERROR', 'IN_PROGRESS'])[state]", "name": _NAME, "run_id": _RUN,
}  # fmt: skip
VOCABULARY: Final = Vocabulary(
    entities={
        "attribute": "attribute", "attributes": "attribute", "attr": "attribute", "trace": "attribute",
        "tag": "tag", "tags": "tag", "metadata": "metadata", "request_metadata": "metadata",
        "feedback": "feedback", "expectation": "expectation",
    },
    comparators={
        "attribute": TEXTUAL | LISTED | NULL, "tag": TEXTUAL | NULL, "metadata": TEXTUAL | NULL,
        "feedback": TEXTUAL | NULL, "expectation": TEXTUAL | NULL,
    },
    attributes={
        key: "number" if key.endswith("_ms") else "text" for key in _COLUMNS
    },
    lists=frozenset({"trace_id", "run_id", "status", "name", "client_request_id"}),
    aliases={
        "timestamp": "timestamp_ms", "execution_time": "execution_time_ms", "end_time": "end_time_ms",
        "request_id": "trace_id", "state": "status",
    },
)  # fmt: skip
"""What can be searched for."""


@dataclass(frozen=True, slots=True)
class Search:
    """What follows the table's name in a search, and the values for it."""

    rest: str
    values: Sequence[object]

    def statement(self, columns: str) -> str:
        """The whole statement."""
        return f"SELECT {columns} FROM traces WHERE {self.rest}"  # noqa: S608


def search(
    team: str, experiments: Sequence[str], text: str, order_by: Sequence[str], *, offset: int, limit: int
) -> Search:
    """The search as SQL. Raises InvalidArgument for what cannot be read."""
    given = Parameters([team])
    tests = ["team = $1", f"experiment_id = ANY({given.add(list(experiments), 'text[]')})"]
    tests += [_test(clause, given) for clause in parse(text, VOCABULARY)]
    order = [
        f"{_column(item.kind, item.key, given)} {'DESC' if item.falling else 'ASC'} NULLS LAST"
        for item in parse_order(order_by, VOCABULARY)
    ]
    keys = ", ".join([*order, "request_time DESC", "trace_id"])
    rest = f"{' AND '.join(tests)} ORDER BY {keys} LIMIT {given.add(limit, 'integer')}"
    return Search(f"{rest} OFFSET {given.add(offset, 'bigint')}", given.values)


def _test(clause: Clause, given: Parameters) -> str:
    if clause.kind in ("feedback", "expectation"):
        return _said(clause, given)
    column = _column(clause.kind, clause.key, given)
    number = clause.kind == "attribute" and VOCABULARY.attributes[clause.key] == "number"
    if number and clause.comparator not in NULL:
        return number_test(clause, column, given)
    return text_test(clause, column, given)


def _said(clause: Clause, given: Parameters) -> str:
    """A comparison with what is said of a trace, by its name."""
    name, sign = given.add(clause.key, "text"), "" if clause.kind == "expectation" else "NOT "
    value = "true" if clause.comparator in NULL else text_test(clause, "(a.content ->> 'value')", given)
    there = (
        "EXISTS (SELECT FROM assessments a WHERE a.team = $1 AND a.trace_id = traces.trace_id"
        f" AND a.valid AND {sign}a.expected AND a.name = {name} AND {value})"
    )
    return f"NOT {there}" if clause.comparator == "IS NULL" else there


def _column(kind: str, key: str, given: Parameters) -> str:
    if kind == "attribute":
        return _COLUMNS[key]
    if kind not in ("tag", "metadata"):
        raise InvalidArgument(f"order_by: traces are not sorted by {kind}", field="order_by")
    return f"({'tags' if kind == 'tag' else 'metadata'} ->> {given.add(key, 'text')})"
