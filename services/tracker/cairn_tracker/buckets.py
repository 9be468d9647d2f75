"""Points as buckets of 1,024 steps: what charts of long series are drawn from. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from cairn_tracker.batch import Bools, Floats, Ints, MetricKey, Points
from cairn_tracker.model import Summary, Tail

#: Steps of one bucket: bucket n has the steps from n * WIDTH on.
WIDTH = 1024
#: The bucket of a `step` in SQL, also of one below 0: division there cuts towards 0.
BUCKET = f"intDiv(step, {WIDTH}) - (step < 0 AND step % {WIDTH} != 0)"
_SHIFT = 10
_NO_STEP = np.iinfo(np.int64).max


@dataclass(slots=True)
class Buckets:
    """Parallel columns, by metric and then by step; `metrics` is what `metric` points into.

    Of a step that was logged again only the value that shows is in them.
    """

    metrics: Sequence[MetricKey] = ()
    metric: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    first_step: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    last_step: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    # Of the last step; microseconds since 1970.
    time: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    last: Floats = field(default_factory=lambda: np.empty(0, np.float64))
    # Of the finite values; NaN (and step 0) where there are none. The steps are the first that have them.
    min: Floats = field(default_factory=lambda: np.empty(0, np.float64))
    min_step: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    max: Floats = field(default_factory=lambda: np.empty(0, np.float64))
    max_step: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    # Steps with a value, finite or not.
    count: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.metric)

    @property
    def number(self) -> Ints:
        """Which bucket of its metric each one is."""
        return self.first_step >> _SHIFT

    def only(self, rows: Bools) -> Buckets:
        """Some of them."""
        kept = {item.name: getattr(self, item.name)[rows] for item in fields(self)[1:]}
        return Buckets(self.metrics, **kept)

    def extend(self, row: int, tail: Tail) -> None:
        """Puts what a bucket held before in front of what was added to it."""
        self.first_step[row] = tail.first_step
        self.count[row] += tail.count
        # Of equal values the first step counts; any comparison with NaN is false.
        if tail.min is not None and not self.min[row] < tail.min:
            self.min[row], self.min_step[row] = tail.min, tail.min_step
        if tail.max is not None and not self.max[row] > tail.max:
            self.max[row], self.max_step[row] = tail.max, tail.max_step

    def tail(self, row: int) -> Tail:
        """A bucket as a later batch needs it."""
        least, most = float(self.min[row]), float(self.max[row])
        return Tail(
            first_step=int(self.first_step[row]),
            count=int(self.count[row]),
            min=None if math.isnan(least) else least,
            min_step=int(self.min_step[row]),
            max=None if math.isnan(most) else most,
            max_step=int(self.max_step[row]),
        )


def buckets(points: Points) -> Buckets:
    """The buckets that these points alone make."""
    if not len(points):
        return Buckets()
    order = _shown(points)
    metric, step = points.metric[order], points.step[order]
    starts = _starts(metric, step >> _SHIFT)
    ends = np.append(starts[1:], len(metric)) - 1
    value, time = points.value[order], points.time[order]
    least, least_step = _extremes(value, step, starts, sign=1.0)
    most, most_step = _extremes(value, step, starts, sign=-1.0)
    return Buckets(
        metrics=points.metrics,
        metric=metric[starts],
        first_step=step[starts],
        last_step=step[ends],
        time=time[ends],
        last=value[ends],
        min=least,
        min_step=least_step,
        max=most,
        max_step=most_step,
        count=ends - starts + 1,
    )


def _shown(points: Points) -> Ints | slice:
    """The rows whose values show, by metric and step."""
    metric, step = points.metric, points.step
    if not np.any((metric[1:] < metric[:-1]) | ((metric[1:] == metric[:-1]) & (step[1:] <= step[:-1]))):
        return slice(None)
    # The last key sorts first: by metric and step, then from the earliest to the latest value of a step, in
    # the same order as `series_in_store.LATEST_FIRST` has it.
    by_name = np.argsort(np.argsort(np.array(points.writers)))
    order = np.lexsort(
        (
            by_name[points.writer],
            points.cell,
            points.position,
            points.segment,
            points.time,
            points.attempt,
            step,
            metric,
        )
    )
    metric, step = metric[order], step[order]
    shown: Ints = order[np.append((metric[1:] != metric[:-1]) | (step[1:] != step[:-1]), True)]
    return shown


def summaries(made: Buckets) -> list[tuple[MetricKey, int, int, Summary]]:
    """Of each metric the rows of its buckets (from, and to before), and what they come to, with the last one
    as the tail."""
    starts = _starts(made.metric)
    if not len(starts):
        return []
    ends = np.append(starts[1:], len(made))
    last = ends - 1
    least, least_step = _extremes(made.min, made.min_step, starts, sign=1.0)
    most, most_step = _extremes(made.max, made.max_step, starts, sign=-1.0)
    # Lists first: to take numbers out of arrays one by one costs ten times as much.
    tails = zip(
        made.first_step[last].tolist(), made.count[last].tolist(),
        _none_for_nan(made.min[last]), made.min_step[last].tolist(),
        _none_for_nan(made.max[last]), made.max_step[last].tolist(), strict=True,
    )  # fmt: skip
    found = zip(
        made.metric[starts].tolist(), starts.tolist(), ends.tolist(),
        made.last[last].tolist(), made.last_step[last].tolist(),
        np.add.reduceat(made.count, starts).tolist(),
        _none_for_nan(least), least_step.tolist(), _none_for_nan(most), most_step.tolist(),
        (Tail(*tail) for tail in tails), made.time[last].tolist(), strict=True,
    )  # fmt: skip
    return [(made.metrics[metric], start, end, Summary(*values)) for metric, start, end, *values in found]


def _none_for_nan(values: Floats) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _starts(*columns: Ints) -> Ints:
    """Rows at which one of the columns changes."""
    if not len(columns[0]):
        return np.empty(0, np.int64)
    changed = np.zeros(len(columns[0]) - 1, np.bool_)
    for column in columns:
        changed |= column[1:] != column[:-1]
    return np.flatnonzero(np.append(True, changed))


def _extremes(value: Floats, step: Ints, starts: Ints, *, sign: float) -> tuple[Floats, Ints]:
    """The least finite value (of the negated ones, with sign -1) from each start on, and its first step."""
    finite = np.where(np.isfinite(value), value * sign, np.nan)
    least = np.fmin.reduceat(finite, starts)
    lengths = np.diff(np.append(starts, len(value)))
    there = finite == np.repeat(least, lengths)
    first = np.minimum.reduceat(np.where(there, step, _NO_STEP), starts)
    return least * sign, np.where(first == _NO_STEP, 0, first)
