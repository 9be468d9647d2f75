"""Series out of columns that were read: kept buckets and points, cut into the buckets asked for. Pure.

A point is a bucket of one step, so both are rows of one kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cairn_tracker.batch import Bools, Floats, Ints
from cairn_tracker.buckets import WIDTH
from cairn_tracker.native import Labels, Numbers

#: A run's uid and a key.
Name: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one run in buckets. Parallel columns, ascending by step."""

    run: str
    key: str
    # Each bucket is one step.
    exact: bool
    steps: Ints
    # Of each bucket's last step; seconds since 1970.
    times: Floats
    last: Floats
    # Of the finite values; NaN where there are none.
    min: Floats
    max: Floats
    # Steps in the bucket.
    counts: Ints


@dataclass(frozen=True, slots=True)
class Extent:
    """How many steps a metric has, and between which."""

    run: str
    key: str
    steps: int
    low: int
    high: int


def width(extent: Extent, most: int) -> int:
    """Steps in a bucket, so that there are at most `most` of them; 1 where each step can have its own."""
    if extent.steps <= most:
        return 1
    return -(-(extent.high - extent.low + 1) // most)


@dataclass(frozen=True, slots=True)
class Rows:
    """Buckets and points, parallel columns by metric and step; `metric` points into `names`."""

    names: Sequence[Name]
    metric: Ints
    first_step: Ints
    last_step: Ints
    # Of the last step; microseconds since 1970.
    time: Ints
    last: Floats
    # Of the finite values; NaN where there are none.
    min: Floats
    max: Floats
    count: Ints

    def __len__(self) -> int:
        return len(self.metric)

    def only(self, rows: Bools) -> Rows:
        """Some of them."""
        return Rows(self.names, **{item.name: getattr(self, item.name)[rows] for item in fields(self)[1:]})

    def of(self, names: Sequence[Name]) -> Rows:
        """Those of some metrics, and of no others that there were."""
        places = {name: place for place, name in enumerate(names)}
        there = np.array([places.get(name, -1) for name in self.names], np.int64)
        if not len(there):
            return self
        metric = there[self.metric]
        some = self.only(metric >= 0)
        return _ordered(names, metric[metric >= 0], [getattr(some, item.name) for item in fields(self)[2:]])

    def starts(self) -> Ints:
        """The first row of each metric."""
        return _starts(self.metric)


def buckets(columns: Mapping[str, Numbers | Labels]) -> Rows:
    """Kept buckets as they were read: run, key, and the other columns."""
    names, metric = _named(columns)
    given = [_numbers(columns, name) for name in _BUCKET]
    return _ordered(names, metric, given)


def points(columns: Mapping[str, Numbers | Labels]) -> Rows:
    """Points as they were read, run, key, step, time and value; a step may be there several times."""
    names, metric = _named(columns)
    step, time, value = (_numbers(columns, name) for name in ("step", "time", "value"))
    finite = np.where(np.isfinite(value), value, np.nan)
    return _ordered(names, metric, [step, step, time, value, finite, finite, np.ones(len(step), np.int64)])


def together(one: Rows, other: Rows) -> Rows:
    """The rows of both; `other` has no metric that `one` has not."""
    if not len(other):
        return one
    moved = other.of(one.names)
    return _ordered(
        one.names,
        np.concatenate((one.metric, moved.metric)),
        [np.concatenate((getattr(one, item.name), getattr(moved, item.name))) for item in fields(one)[2:]],
    )


def repeats(rows: Rows) -> bool:
    """Whether a step of a metric is there more than once."""
    again = (rows.metric[1:] == rows.metric[:-1]) & (rows.first_step[1:] == rows.first_step[:-1])
    return bool(again.any())


def extents(rows: Rows) -> list[Extent]:
    """What there is of each metric."""
    starts = rows.starts()
    if not len(starts):
        return []
    ends = np.append(starts[1:], len(rows)) - 1
    counts = np.add.reduceat(rows.count, starts)
    found = zip(
        rows.metric[starts].tolist(), counts.tolist(), rows.first_step[starts].tolist(),
        rows.last_step[ends].tolist(), strict=True,
    )  # fmt: skip
    return [
        Extent(run, key, steps, low, high)
        for (run, key), steps, low, high in ((rows.names[metric], *rest) for metric, *rest in found)
    ]


def by_step(rows: Rows, most: int) -> list[Series]:
    """Points in at most `most` buckets for each metric, as many steps wide as that needs."""
    there = extents(rows)
    lows, widths = np.zeros(len(rows.names), np.int64), np.ones(len(rows.names), np.int64)
    for metric, extent in zip(rows.metric[rows.starts()].tolist(), there, strict=True):
        lows[metric], widths[metric] = extent.low, width(extent, most)
    place = (rows.first_step - lows[rows.metric]) // widths[rows.metric]
    return _drawn(rows, place, [extent.steps <= most for extent in there])


def by_bucket(rows: Rows, most: int) -> list[Series]:
    """Kept buckets, and points at the ends of a range, in at most `most` buckets of whole kept ones."""
    starts, number = rows.starts(), rows.first_step // WIDTH
    if not len(starts):
        return []
    lows, widths = np.zeros(len(rows.names), np.int64), np.ones(len(rows.names), np.int64)
    metric, ends = rows.metric[starts], np.append(starts[1:], len(rows)) - 1
    lows[metric] = number[starts]
    widths[metric] = -(-(number[ends] - number[starts] + 1) // most)
    place = (number - lows[rows.metric]) // widths[rows.metric]
    return _drawn(rows, place, [False] * len(starts))


_BUCKET = ("first_step", "last_step", "time", "last", "min", "max", "count")


def _drawn(rows: Rows, place: Ints, exact: Sequence[bool]) -> list[Series]:
    starts = _starts(rows.metric, place)
    if not len(starts):
        return []
    ends = np.append(starts[1:], len(rows)) - 1
    steps, times, last = rows.first_step[starts], rows.time[ends] / 1e6, rows.last[ends]
    least, most = np.fmin.reduceat(rows.min, starts), np.fmax.reduceat(rows.max, starts)
    counts, metric = np.add.reduceat(rows.count, starts), rows.metric[starts]
    begins = _starts(metric)
    made = []
    for begin, end, whole in zip(begins, np.append(begins[1:], len(metric)), exact, strict=True):
        run, key = rows.names[metric[begin]]
        some = slice(begin, end)
        made.append(
            Series(
                run, key, whole, steps=steps[some], times=times[some], last=last[some],
                min=least[some], max=most[some], counts=counts[some],
            )
        )  # fmt: skip
    return made


def _starts(*columns: Ints) -> Ints:
    """Where a row differs from the one before it."""
    new = np.zeros(max(0, len(columns[0]) - 1), np.bool_)
    for column in columns:
        new |= column[1:] != column[:-1]
    found: Ints = np.flatnonzero(np.append(np.ones(min(1, len(columns[0])), np.bool_), new))
    return found


def _named(columns: Mapping[str, Numbers | Labels]) -> tuple[list[Name], Ints]:
    """The metrics that there are, sorted, and for each row which one it is of."""
    if not columns:
        return [], np.empty(0, np.int64)
    run, key = columns["run"], columns["key"]
    assert isinstance(run, Labels)
    assert isinstance(key, Labels)
    runs, keys = _ranked(run), _ranked(key)
    code = runs.indexes * len(keys.texts) + keys.indexes
    there, metric = np.unique(code, return_inverse=True)
    names = [(runs.texts[each // len(keys.texts)], keys.texts[each % len(keys.texts)]) for each in there]
    return names, metric.astype(np.int64)


def _ranked(labels: Labels) -> Labels:
    order = sorted(range(len(labels.texts)), key=labels.texts.__getitem__)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return Labels([labels.texts[place] for place in order], rank[labels.indexes])


def _numbers(columns: Mapping[str, Numbers | Labels], name: str) -> npt.NDArray[np.generic]:
    found = columns.get(name, _NONE)
    assert isinstance(found, np.ndarray)
    return found


_NONE = np.empty(0, np.int64)


def _ordered(names: Sequence[Name], metric: Ints, columns: Sequence[Numbers]) -> Rows:
    """By metric and step; of rows of the same step none is said to be first."""
    first_step = columns[0]
    falling = (metric[1:] < metric[:-1]) | ((metric[1:] == metric[:-1]) & (first_step[1:] < first_step[:-1]))
    if falling.any():
        order = np.lexsort((first_step, metric))
        metric, columns = metric[order], [column[order] for column in columns]
    return Rows(names, metric, *columns)
