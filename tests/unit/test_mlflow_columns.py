"""Points of MLflow's clients: which one is the last, and which are the same."""

from __future__ import annotations

import math
import random

import numpy as np

from cairn_tracker.batch import RunKey
from cairn_tracker.buckets import buckets, summaries
from cairn_tracker.mlflow.columns import Call, latest, points

RUN = RunKey("main", "r1")


def call(*rows: tuple[str, float, int, int], run: RunKey = RUN) -> Call:
    """Points of key, value, step and time."""
    keys, values, steps, times = zip(*rows, strict=True)
    return Call(1, run, keys, steps, times, values)


def test_the_last_point_is_the_greatest_by_step_time_and_value() -> None:
    rows = [("a", 1.0, 5, 10), ("a", 2.0, 5, 10), ("a", 0.5, 5, 11), ("a", 9.0, 5, 9), ("a", 7.0, 4, 100)]
    for _ in range(10):
        random.shuffle(rows)
        keys, values, steps, times = zip(*rows, strict=True)
        assert latest(keys, values, steps, times) == [("a", 0.5, 5, 11)]
        # What Cairn's own view shows of the step is the same.
        ((_, _, _, summary),) = summaries(buckets(points([call(*rows)])))
        assert (summary.last, summary.last_step, summary.last_time) == (0.5, 5, 11_000)


def test_nan_counts_as_zero_and_less_than_what_is_greater() -> None:
    assert latest("aa", [math.nan, 1.0], [0, 0], [1, 1]) == [("a", 1.0, 0, 1)]
    ((key, value, _, _),) = latest("aa", [math.nan, -1.0], [0, 0], [1, 1])
    assert (key, math.isnan(value)) == ("a", True)


def test_a_point_that_is_sent_again_is_the_same_point() -> None:
    rows = [("a", 1.0, 1, 10), ("b", math.nan, 1, 10), ("a", -0.0, 2, 10), ("a", math.inf, 3, 10)]
    once, twice = points([call(*rows)]), points([call(*rows), call(*rows)])
    assert len(once) == len(twice) == 4
    for name in ("metric", "step", "segment", "position", "cell", "time"):
        assert np.array_equal(getattr(once, name), getattr(twice, name))


def test_points_that_differ_in_anything_are_kept_apart() -> None:
    rows = [
        ("a", 1.0, 1, 10), ("a", 2.0, 1, 10), ("a", 1.0, 2, 10), ("a", 1.0, 1, 11), ("a", 0.0, 1, 10),
        ("a", math.nan, 1, 10), ("b", 1.0, 1, 10),
    ]  # fmt: skip
    found = points([call(*rows), call(*rows, run=RunKey("main", "r2"))])
    assert len(found) == 2 * len(rows)
    places = list(zip(found.metric, found.step, found.segment, found.position, found.cell, strict=True))
    assert len(set(places)) == 2 * len(rows)


def test_places_have_the_order_of_the_values() -> None:
    values = sorted([-math.inf, -1e300, -1.0, -1e-300, 0.0, 1e-300, 1.0, 1e300, math.inf])
    found = points([call(*(("a", value, 1, 1) for value in values))])
    assert list(found.value) == values
    assert all(np.diff(found.position) > 0)
