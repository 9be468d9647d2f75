"""Points of MLflow's clients as the tracker's columns: no point twice, however often it was sent. Pure.

A point is its run, key, step, time and value. So these are its place in the table, where for other points it
is the place in a writer's spool; the order of such places is that in which MLflow takes the last point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cairn_tracker.batch import Floats, Ints, MetricKey, Points, RunKey

WRITER: Final = "mlflow"
_MICROS: Final = 1000


@dataclass(frozen=True, slots=True)
class Call:
    """The points of one call, in parallel columns."""

    seq: int
    run: RunKey
    keys: Sequence[str]
    steps: Sequence[int]
    # Milliseconds since 1970.
    times: Sequence[int]
    points: Sequence[float]


def points(calls: Sequence[Call]) -> Points:
    """The points of calls, by metric, step, time and value."""
    numbers: dict[MetricKey, int] = {}
    for call in calls:
        for key in dict.fromkeys(call.keys):
            numbers.setdefault(MetricKey(*call.run, key), len(numbers))
    metrics = sorted(numbers)
    ranks = {metric: rank for rank, metric in enumerate(metrics)}
    metric = np.array([rank for call in calls for rank in _ranks(call, ranks)], np.int64)
    step = np.array([step for call in calls for step in call.steps], np.int64)
    time = np.array([time for call in calls for time in call.times], np.int64)
    value = np.array([point for call in calls for point in call.points], np.float64)
    place, nan = _rank(value), np.isnan(value).astype(np.int64)
    order = np.lexsort((nan, place, time, step, metric))
    columns = [column[order] for column in (metric, step, time, place, nan)]
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    metric, step, time, place, nan = (column[fresh] for column in columns)
    zeros = np.zeros(len(metric), np.int64)
    return Points(
        metrics=metrics,
        writers=[WRITER],
        metric=metric,
        writer=zeros,
        step=step,
        attempt=zeros,
        segment=time,
        position=place,
        cell=nan,
        time=time * _MICROS,
        value=value[order][fresh],
    )


def latest(
    keys: Sequence[str], values: Sequence[float], steps: Sequence[int], times: Sequence[int]
) -> list[tuple[str, float, int, int]]:
    """Of each metric its last point (key, value, step, time), by key."""
    found: dict[str, tuple[tuple[int, int, float], float]] = {}
    for key, value, step, time in zip(keys, values, steps, times, strict=True):
        rank = (step, time, 0.0 if value != value else value)
        known = found.get(key)
        if known is None or rank > known[0]:
            found[key] = (rank, value)
    return [(key, value, rank[0], rank[1]) for key, (rank, value) in sorted(found.items())]


def _ranks(call: Call, ranks: Mapping[MetricKey, int]) -> Iterator[int]:
    """Of each point its metric's place."""
    known = {key: ranks[MetricKey(*call.run, key)] for key in set(call.keys)}
    return map(known.__getitem__, call.keys)


def _rank(value: Floats) -> Ints:
    """A whole number for each value, in the same order; NaN counts as 0."""
    bits = np.where(np.isnan(value), 0.0, value + 0.0).view(np.int64)
    ranks: Ints = np.where(bits < 0, np.int64(-(2**63)) - bits, bits)
    return ranks
