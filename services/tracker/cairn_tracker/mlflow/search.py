"""Comparisons of MLflow's grammar as SQL: what a caller wrote goes into parameters, and only there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cairn_common.errors import InvalidArgument
from cairn_tracker.mlflow.grammar import Clause, Sorting
from cairn_tracker.search import Parameters

_INT64: Final = 2**63
_STATUS: Final = (
    "CASE r.state WHEN 1 THEN 'SCHEDULED' WHEN 4 THEN 'FINISHED' WHEN 5 THEN 'FAILED' WHEN 6 THEN 'KILLED'"
    " WHEN 7 THEN 'FAILED' ELSE 'RUNNING' END"
)
_MILLIS: Final = "floor(extract(epoch FROM {}) * 1000)::bigint"
USER: Final = "coalesce(nullif(r.user_id, ''), regexp_replace(r.creator, '^.*/', ''))"
_RUN_ATTRIBUTES: Final[Mapping[str, str]] = {
    "run_id": "r.uid",
    "run_name": "r.display_name",
    "status": _STATUS,
    "user_id": USER,
    "artifact_uri": "'mlflow-artifacts:/' || (SELECT e.number FROM experiments e WHERE e.team = r.team"
    " AND e.id = r.experiment) || '/' || r.uid || '/artifacts'",
    "start_time": _MILLIS.format("r.start_time"),
    "end_time": _MILLIS.format("r.end_time"),
}
#: Tags that are a field of the run, and what a run has there that no client of MLflow made.
FIELDS: Final[Mapping[str, str]] = {
    "mlflow.runName": "nullif(r.display_name, '')",
    "mlflow.note.content": "nullif(r.notes, '')",
}
FALLBACKS: Final[Mapping[str, str]] = {
    "mlflow.source.git.commit": "nullif(r.git_commit, '')",
    "mlflow.source.git.branch": "nullif(r.git_branch, '')",
    "mlflow.source.name": "nullif(r.command, '')",
}
_EXPERIMENT_ATTRIBUTES: Final[Mapping[str, str]] = {
    "name": "display_name",
    "experiment_id": "number",
    "creation_time": _MILLIS.format("create_time"),
    "last_update_time": _MILLIS.format("update_time"),
}
_SIGNS: Final[Mapping[str, str]] = {
    ">": ">", ">=": ">=", "=": "=", "!=": "<>", "<": "<", "<=": "<=", "LIKE": "LIKE", "ILIKE": "ILIKE",
}  # fmt: skip


def run_test(clause: Clause, given: Parameters) -> str:
    """A comparison on `runs r`. The first parameter is the team."""
    match clause.kind:
        case "metric":
            return _metric(clause, given)
        case "parameter":
            return _unguessed(text_test(clause, f"(r.params ->> {given.add(clause.key, 'text')})", given))
        case "tag":
            return _unguessed(text_test(clause, _tag(clause.key, given), given))
        case "dataset":
            return _dataset(clause, given)
    if clause.key in ("start_time", "end_time"):
        return number_test(clause, _RUN_ATTRIBUTES[clause.key], given)
    return text_test(clause, _RUN_ATTRIBUTES[clause.key], given)


def run_order(order: Sequence[Sorting], given: Parameters) -> tuple[list[str], list[str]]:
    """The joins that a listing of runs needs to be sorted, and what it is sorted by: without a value last,
    NaN just before; then newest first."""
    joins: list[str] = []
    terms: list[str] = []
    for place, item in enumerate(order):
        way = "DESC" if item.falling else "ASC"
        if item.kind == "metric":
            name = f"o{place}"
            joins.append(
                "LEFT JOIN (SELECT run_uid, last FROM summaries"  # noqa: S608
                f" WHERE team = $1 AND key = {given.add(item.key, 'text')}) {name} ON {name}.run_uid = r.uid"
            )
            terms.append(f"CASE WHEN {name}.last IS NULL THEN 2 WHEN {name}.last = 'NaN' THEN 1 ELSE 0 END")
            terms.append(f"{name}.last {way}")
            continue
        if item.kind == "attribute":
            value = _RUN_ATTRIBUTES[item.key]
        elif item.kind == "tag":
            value = _tag(item.key, given)
        elif item.kind == "parameter":
            value = f"(r.params ->> {given.add(item.key, 'text')})"
        else:
            raise InvalidArgument(f"Invalid identifier type '{item.kind}'", field="order_by")
        collation = "" if item.key in ("start_time", "end_time") else ' COLLATE "C"'
        terms.append(f"({value}){collation} {way} NULLS LAST")
    if not any((item.kind, item.key) == ("attribute", "start_time") for item in order):
        terms.append("r.start_time DESC NULLS LAST")
    return joins, [*terms, "r.uid"]


def experiment_test(clause: Clause, given: Parameters) -> str:
    """A comparison on a row of `experiments`."""
    if clause.kind == "tag":
        return text_test(clause, f"(labels ->> {given.add(clause.key, 'text')})", given)
    column = _EXPERIMENT_ATTRIBUTES[clause.key]
    if clause.key == "experiment_id":
        if clause.comparator not in ("=", "!=", "IN", "NOT IN"):
            raise InvalidArgument(
                f"Invalid comparator for experiment_id: {clause.comparator}", field="filter"
            )
        texts = clause.value if isinstance(clause.value, tuple) else (str(clause.value),)
        sign = "= ANY" if clause.comparator in ("=", "IN") else "<> ALL"
        return f"number {sign}({given.add([experiment_number(text) for text in texts], 'bigint[]')})"
    if clause.key == "name":
        if clause.comparator in ("IN", "NOT IN"):
            raise InvalidArgument(
                f"Invalid comparator for string attribute: {clause.comparator}", field="filter"
            )
        return text_test(clause, column, given)
    if isinstance(clause.value, float):
        raise InvalidArgument(
            f"Invalid value for numeric attribute '{clause.key}': '{clause.value}'", field="filter"
        )
    return number_test(clause, column, given)


def experiment_order(order: Sequence[Sorting]) -> str:
    """What experiments are sorted by: of itself the newest first."""
    if any(item.kind != "attribute" for item in order):
        raise InvalidArgument("Invalid order_by entity: tag", field="order_by")
    wanted = list(order) or [
        Sorting("attribute", "creation_time", True), Sorting("attribute", "experiment_id", False),
    ]  # fmt: skip
    if not any(item.key == "experiment_id" for item in wanted):
        wanted.append(Sorting("attribute", "experiment_id", True))
    collated = {"name": ' COLLATE "C"'}
    return ", ".join(
        f"{_EXPERIMENT_ATTRIBUTES[item.key]}{collated.get(item.key, '')} {'DESC' if item.falling else 'ASC'}"
        for item in wanted
    )


def experiment_number(text: str) -> int:
    """An experiment's id as a number. Raises InvalidArgument for what is none."""
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    raise InvalidArgument(
        f"Invalid experiment ID '{text[:100]}'. Experiment ID must be a valid integer.", field="experiment_id"
    )


def _tag(key: str, given: Parameters) -> str:
    if key in FIELDS:
        return f"({FIELDS[key]})"
    label = f"(r.labels ->> {given.add(key, 'text')})"
    return f"coalesce({label}, {FALLBACKS[key]})" if key in FALLBACKS else label


def _unguessed(test: str) -> str:
    """The same for a WHERE. Of a text inside of JSON the database knows nothing and guesses that next to no
    row has it: it would look up a metric of each that has, one by one. Here it guesses half of them."""
    return f"coalesce({test}, false)"


def _metric(clause: Clause, given: Parameters) -> str:
    """NaN fulfils `!=` alone: to the database it is greater than every number."""
    value = _as_float(clause.value)
    wanted = f"s.team = $1 AND s.key = {given.add(clause.key, 'text')}"
    test = f"s.last {_SIGNS[clause.comparator]} {given.add(value, 'float8')}"
    test += " OR s.last = 'NaN'" if clause.comparator == "!=" else " AND s.last <> 'NaN'"
    return f"r.uid IN (SELECT s.run_uid FROM summaries s WHERE {wanted} AND ({test}))"  # noqa: S608


def _dataset(clause: Clause, given: Parameters) -> str:
    column = "i.labels ->> 'mlflow.data.context'" if clause.key == "context" else f"d.{clause.key}"
    return (
        "EXISTS (SELECT FROM run_inputs i JOIN described_datasets d ON d.team = i.team"
        " AND d.uid = i.dataset_uid WHERE i.team = r.team AND i.run_uid = r.uid AND "
        f"{text_test(clause, f'({column})', given)})"
    )


def number_test(clause: Clause, column: str, given: Parameters) -> str:
    """A comparison of a number."""
    value = clause.value
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise InvalidArgument(f"{clause.key}: {value} has more than 64 bits", field="filter")
    kind = "float8" if isinstance(value, float) else "bigint"
    return f"{column} {_SIGNS[clause.comparator]} {given.add(value, kind)}"


def text_test(clause: Clause, column: str, given: Parameters) -> str:
    """A comparison of a text. Patterns have no escapes."""
    match clause.comparator:
        case "IS NULL" | "IS NOT NULL":
            return f"{column} {clause.comparator}"
        case "IN" | "NOT IN":
            sign = "= ANY" if clause.comparator == "IN" else "<> ALL"
            return f"{column} {sign}({given.add(list(_texts(clause.value)), 'text[]')})"
    pattern = clause.comparator in ("LIKE", "ILIKE")
    escape = " ESCAPE ''" if pattern else ""
    return f"{column} {_SIGNS[clause.comparator]} {given.add(clause.value, 'text')}{escape}"


def _texts(value: Any) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (str(value),)


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InvalidArgument(f"{value} is no number that a metric can have", field="filter") from None
