"""MLflow's search grammar, and what it becomes: SQL in which nothing is from outside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_common.errors import InvalidArgument
from cairn_tracker.mlflow import search
from cairn_tracker.mlflow.grammar import Clause, Sorting, parse, parse_order
from cairn_tracker.mlflow.vocabulary import EXPERIMENTS, RUNS
from cairn_tracker.search import Parameters


def clause(text: str) -> tuple[str, str, str, object]:
    (found,) = parse(text, RUNS)
    return found.kind, found.key, found.comparator, found.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metrics.acc > 0.9", ("metric", "acc", ">", 0.9)),
        ("metric.acc>=-1e3", ("metric", "acc", ">=", -1000.0)),
        ("metrics.`val/loss (top 1)` < .5", ("metric", "val/loss (top 1)", "<", 0.5)),
        ('metrics."a b" != 2', ("metric", "a b", "!=", 2)),
        ("params.lr = '0.1'", ("parameter", "lr", "=", "0.1")),
        ('parameters.lr = "0.1"', ("parameter", "lr", "=", "0.1")),
        ("param.model LIKE 'res%'", ("parameter", "model", "LIKE", "res%")),
        ("tags.mlflow.parentRunId = 'x'", ("tag", "mlflow.parentRunId", "=", "x")),
        ("tag.`a.b c` ilike '%X%'", ("tag", "a.b c", "ILIKE", "%X%")),
        ("tags.a is not null", ("tag", "a", "IS NOT NULL", None)),
        ("params.a IS NULL", ("parameter", "a", "IS NULL", None)),
        ("status = 'FINISHED'", ("attribute", "status", "=", "FINISHED")),
        ("attributes.`Run name` = 'x'", ("attribute", "run_name", "=", "x")),
        ("attr.Created > 5", ("attribute", "start_time", ">", 5)),
        ("run_id IN ('a', \"b\",)", ("attribute", "run_id", "IN", ("a", "b"))),
        ("attributes.run_id NOT IN ('a')", ("attribute", "run_id", "NOT IN", ("a",))),
        ("datasets.name = 'mnist'", ("dataset", "name", "=", "mnist")),
        ("dataset.context IN ('train')", ("dataset", "context", "IN", ("train",))),
        ("tags.a = 'x AND y'", ("tag", "a", "=", "x AND y")),
    ],
)
def test_a_comparison_is_read(text: str, expected: object) -> None:
    assert clause(text) == expected


def test_comparisons_are_joined_by_and_alone() -> None:
    assert len(parse("metrics.a > 1 and params.b = 'x' AND tags.c != 'y'", RUNS)) == 3
    assert parse("  ", RUNS) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics.a > 1 OR metrics.b > 1", "Invalid clause(s) in filter string: 'OR'"),
        ("foo.a = 'x'", "Invalid entity type 'foo'. Valid values are ['metric', 'parameter', 'tag',"),
        ("foo = 'x'", "Invalid attribute key 'foo' specified."),
        ("metrics.a > 'x'", "Expected numeric value type for metric. Found 'x'"),
        ("metrics.a LIKE 'x'", "Expected numeric value type for metric"),
        ("params.a = 1", "Expected a quoted string value for parameter (e.g. 'my-value'). Got value 1"),
        ("params.a = b", "Parameter value is either not quoted"),
        ("params.a > 'b'", "Invalid comparator '>' not one of"),
        ("start_time = 'x'", "Expected numeric value type for numeric attribute: start_time. Found 'x'"),
        ("status IN ('a')", "Only ['run_id'] attributes support comparison with a list"),
        ("run_id IN ()", "but got empty list"),
        ("run_id IN (1)", "but got different type in list"),
        ("run_id IN ('a' 'b')", "ill-formed list"),
        ("run_id IN ('a'", "ill-formed list"),
        ("run_id = ('a')", "Invalid comparator"),
        ("metrics.a IS NULL", "only supported for tags and params, not for 'metric' 'a'"),
        ("datasets.size = 'x'", "Invalid dataset key 'size' specified."),
        ("'x' = 'y'", "Expected 'Identifier' found ''x''"),
        ("metrics.a >", "Invalid comparison clause"),
        ("metrics.a > 1 AND", "Invalid comparison clause"),
        ("params.a = 'x'; DROP TABLE runs", "Search filter contained multiple expression"),
        (" AND ".join(["metrics.a > 1"] * 101), "at most 100 comparisons"),
        ("tags.a = '" + "x" * 20_000 + "'", "at most 20,000"),
    ],
)
def test_what_cannot_be_read_is_refused_in_mlflows_words(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(text, RUNS)
    assert message in refused.value.message


def test_an_order_names_a_key_and_a_way() -> None:
    found = parse_order(["metrics.`a b` DESC", "params.x", "start_time asc"], RUNS)
    assert found == [
        Sorting("metric", "a b", True),
        Sorting("parameter", "x", False),
        Sorting("attribute", "start_time", False),
    ]
    for wrong in ("metrics.a DOWN", "foo", "metrics.a DESC x", "", "'x'"):
        with pytest.raises(InvalidArgument):
            parse_order([wrong], RUNS)
    with pytest.raises(InvalidArgument, match="duplicate fields"):
        parse_order(["metrics.a", "metric.a DESC"], RUNS)


def test_experiments_know_other_words() -> None:
    assert parse("experiment_id IN ('1', '2')", EXPERIMENTS)[0].value == ("1", "2")
    with pytest.raises(InvalidArgument, match="Invalid entity type 'metrics'"):
        parse("metrics.a > 1", EXPERIMENTS)
    for wrong in ("experiment_id > '1'", "experiment_id = 'x'", "creation_time > 1.5"):
        with pytest.raises(InvalidArgument):
            search.experiment_test(parse(wrong, EXPERIMENTS)[0], Parameters())


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text, RUNS)
    except InvalidArgument:
        pass


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_is_searched_for_is_only_ever_a_parameter(key: str, value: str) -> None:
    for kind in ("tag", "parameter"):
        known = Parameters()
        sql = search.run_test(Clause(kind, f"~{key}", "=", f"~{value}"), known)
        assert known.values == [f"~{key}", f"~{value}"]
        assert "~" not in sql
