"""A leaderboard: what is ranked, and what counts as worse."""

from __future__ import annotations

from datetime import UTC, datetime

from cairn_tracker.board import Evaluation, Regression, board, numbers

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def told(
    model: int,
    number: int,
    *,
    data: int = 1,
    of: str = "net",
    aliases: tuple[str, ...] = (),
    **metrics: float,
) -> Evaluation:
    return Evaluation(f"{of}-on-digits", number, of, model, data, metrics, NOW, aliases)


def test_the_newest_evaluation_of_each_version_counts_and_the_best_comes_first() -> None:
    made = board([told(2, 4, acc=0.7), told(3, 3, acc=0.8), told(2, 2, acc=0.99), told(1, 1, loss=1.0)])
    assert (made.metric, made.metric_keys) == ("acc", ["acc", "loss"])
    assert [(row.evaluation.model_number, row.evaluation.number) for row in made.rows] == [
        (3, 3),
        (2, 4),
        (1, 1),
    ]


def test_what_is_better_the_smaller_is_ranked_so() -> None:
    made = board([told(1, 1, loss=2.0), told(2, 2, loss=1.0)])
    assert [row.evaluation.model_number for row in made.rows] == [2, 1]
    assert not any(row.regressions for row in made.rows)


def test_worse_than_the_version_before_or_than_production_is_flagged() -> None:
    made = board(
        [
            told(4, 4, acc=0.8, loss=0.5),
            told(3, 3, acc=0.7, loss=0.4),
            told(1, 1, acc=0.9, loss=0.6, aliases=("production",)),
        ]
    )
    flagged = {row.evaluation.model_number: list(row.regressions) for row in made.rows}
    assert flagged == {
        4: [Regression("loss", 3, "", 0.4, 0.5), Regression("acc", 1, "production", 0.9, 0.8)],
        3: [Regression("acc", 1, "production", 0.9, 0.7)],
        1: [],
    }


def test_other_data_other_models_and_what_is_tolerated_are_no_regression() -> None:
    assert not any(
        row.regressions
        for row in board(
            [told(2, 2, acc=0.5, data=2), told(1, 1, acc=0.9), told(2, 1, of="mlp", acc=0.1)]
        ).rows
    )
    pair = [told(2, 2, acc=0.85), told(1, 1, acc=0.9)]
    assert not any(row.regressions for row in board(pair, tolerance=0.06).rows)
    assert any(row.regressions for row in board(pair, tolerance=0.04).rows)
    assert board([]).rows == []


def test_only_numbers_are_metrics() -> None:
    assert numbers({"a": 1, "b": "NaN", "c": True, "d": None, "e": 0.5}) == {"a": 1.0, "e": 0.5}
    assert numbers("x") == {}
