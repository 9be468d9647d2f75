"""Points that are followed are joined to what was read before."""

from __future__ import annotations

from cairn._http import Json
from cairn._tailing import joined_with


def series(steps: list[int], *, exact: bool = True) -> Json:
    values = [float(step) for step in steps]
    whole = {"min": values, "max": values, "counts": [1] * len(steps)}
    return {"key": "loss", "exact": exact, "steps": steps, "times": values, "last": values, **whole}


def points(*steps: int) -> Json:
    return {**series(list(steps)), "min": [], "max": [], "counts": []}


def test_steps_that_were_read_already_are_there_once() -> None:
    assert joined_with(series([1, 2, 3]), points(2, 3, 4)) == series([1, 2, 3, 4])
    assert joined_with(series([1, 2]), points(1, 2)) == series([1, 2])


def test_a_new_metric_is_as_if_it_had_been_read() -> None:
    assert joined_with(None, points(5, 6)) == series([5, 6])


def test_buckets_go_on_with_single_steps() -> None:
    joined = joined_with(series([0, 10], exact=False), points(20, 21))
    assert joined == series([0, 10, 20, 21], exact=False)
