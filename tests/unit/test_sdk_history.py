"""Every point of a metric is read, whatever the server makes of one request."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cairn._history import collect, flat_run


def series(key: str, points: dict[int, float], start: int, end: int, most: int) -> dict[str, Any] | None:
    """As the tracker answers: steps of their own if `most` suffices, else buckets of equal width."""
    steps = sorted(step for step in points if step >= start and (not end or step < end))
    if not steps:
        return None
    exact = len(steps) <= most
    width = 1 if exact else -(-(steps[-1] - steps[0] + 1) // most)
    buckets: dict[int, list[int]] = {}
    for step in steps:
        buckets.setdefault((step - steps[0]) // width, []).append(step)
    held = list(buckets.values())
    return {
        "key": key, "exact": exact, "steps": [str(each[0]) for each in held],
        "times": [float(each[-1]) for each in held], "last": [_text(points[each[-1]]) for each in held],
        "counts": [len(each) for each in held],
    }  # fmt: skip


def _text(value: float) -> Any:
    return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity"


@settings(max_examples=200, deadline=None)
@given(
    steps=st.sets(st.integers(0, 10**6) | st.integers(0, 300), max_size=300),
    most=st.integers(2, 40),
)
def test_every_point_comes_once_in_order(steps: set[int], most: int) -> None:
    points = {step: step / 7 for step in steps}

    def ask(keys: Sequence[str], start: int, end: int) -> list[dict[str, Any]]:
        found = series("loss", points, start, end, most)
        return [found] if found else []

    history = collect(ask, "r", ["loss"], most=most)
    assert (history.step, history.value) == (sorted(points), [points[step] for step in sorted(points)])
    assert len({len(column) for column in history.columns().values()}) == 1


def test_more_keys_than_a_request_takes_are_asked_for_in_turn() -> None:
    asked: list[int] = []

    def ask(keys: Sequence[str], start: int, end: int) -> list[dict[str, Any]]:
        asked.append(len(keys))
        return [found for key in keys if (found := series(key, {0: math.nan, 1: math.inf}, start, end, 9))]

    history = collect(ask, "r", [f"k{number}" for number in range(250)])
    assert asked == [100, 100, 50]
    assert len(history) == 500
    assert math.isnan(history.value[0])
    assert history.value[1] == math.inf


def test_a_history_is_csv_and_rows() -> None:
    history = collect(lambda *_: [series("a,b", {3: 0.5}, 0, 0, 9) or {}], "r", ["a,b"])
    file = io.StringIO()
    history.write_csv(file)
    assert file.getvalue() == 'run,key,step,time,value\nr,"a,b",3,3.0,0.5\n'
    assert history.rows() == [{"run": "r", "key": "a,b", "step": 3, "time": 3.0, "value": 0.5}]


def test_a_run_is_one_row() -> None:
    run = {
        "uid": "u",
        "display_name": "n",
        "params": {"lr": 1},
        "summary": {"loss": {"last": "NaN"}, "acc": {}},
    }
    row = flat_run(run)
    assert (row["uid"], row["name"], row["params.lr"], row["metrics.acc"]) == ("u", "n", 1, 0.0)
    assert math.isnan(row["metrics.loss"])
