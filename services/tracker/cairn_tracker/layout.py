"""The points of a batch of events, checked, and laid out in columns all at once. Pure.

Columns stay the bytes that they came as until all of the batch is together: nothing is done point by point,
and little block by block, for a batch can be a few wide blocks or thousands of single points.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cairn.job.v1 import events_pb2
from cairn_tracker.batch import (
    LAST_STEP,
    LAST_TIME,
    Bools,
    Event,
    Floats,
    Ints,
    MetricKey,
    Points,
    RunKey,
    is_key,
)

# Bytes of a packed integer from this one on have another one behind them.
_MORE = 0x80
_CONTINUED = bytes(range(_MORE, 0x100))
# A metric that cannot be: nothing of it is kept.
_NONE = -1


def points(events: Iterable[Event]) -> Points:
    """The points of `points_logged` events. A bad key or step costs that column or row, nothing else."""
    blocks = _Blocks()
    for event in events:
        if not isinstance(event.message, events_pb2.PointsEvent):
            continue
        first_cell = 0
        for block in event.message.points_logged.blocks:
            first_cell += blocks.add(event, block, first_cell)
    return blocks.points()


def without(points: Points, metrics: Collection[MetricKey]) -> Points:
    """The points of all metrics but these, which count as rejected."""
    kept = np.array([metric not in metrics for metric in points.metrics], np.bool_)
    rows = kept[points.metric]
    rejected = dict(points.rejected)
    for number, count in zip(*np.unique(points.metric[~rows], return_counts=True), strict=True):
        run = RunKey(*points.metrics[int(number)][:2])
        rejected[run] = rejected.get(run, 0) + int(count)
    columns = ("writer", "step", "attempt", "segment", "position", "cell", "time", "value")
    return replace(
        points,
        metrics=[metric for metric, good in zip(points.metrics, kept, strict=True) if good],
        metric=(np.cumsum(kept) - 1)[points.metric[rows]],
        rejected=rejected,
        **{name: getattr(points, name)[rows] for name in columns},
    )


@dataclass(slots=True)
class _Blocks:
    """Blocks beside each other: of each what is the same for all of its points, and its columns as bytes."""

    metrics: dict[MetricKey, int] = field(default_factory=dict)
    writers: dict[str, int] = field(default_factory=dict)
    rejected: dict[RunKey, int] = field(default_factory=dict)
    runs: list[RunKey] = field(default_factory=list)
    # Rows, width, attempt, segment, position, first cell, writer, and where in `numbers` its keys begin.
    facts: list[tuple[int, ...]] = field(default_factory=list)
    stored: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    steps: list[bytes] = field(default_factory=list)
    times: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    _known: dict[tuple[RunKey, tuple[str, ...]], int] = field(default_factory=dict)

    def add(self, event: Event, columns: events_pb2.PointColumns, first_cell: int) -> int:
        """Takes a block whose columns fit together; counts the points of any other. How many it had."""
        names, steps, times, values = tuple(columns.keys), columns.steps, columns.times, columns.values
        rows, width, cells = _count(steps), len(names), len(values) >> 3
        if not cells or rows < 0 or len(values) != 8 * rows * width or len(times) != 8 * rows:
            self._reject(event.run, max(cells, rows))
            return cells
        message = event.message
        writer = self.writers.setdefault(message.writer, len(self.writers))
        keys = self._keys(event.run, names)
        self.runs.append(event.run)
        self.facts.append(
            (rows, width, message.attempt, message.segment, message.start_offset, first_cell, writer, keys)
        )
        self.stored.append(event.stored)
        self.steps.append(steps)
        self.times.append(times)
        self.values.append(values)
        return cells

    def points(self) -> Points:
        """All of it, by metric and then as it came."""
        metrics = sorted(self.metrics)
        facts = np.array(self.facts, np.int64).reshape(-1, 8)
        rows, width, attempt, segment, position, first_cell, writer, keys = facts.T
        step = _integers(b"".join(self.steps))
        value = np.frombuffer(b"".join(self.values), "<f8")
        # Of each row its block, of each cell its row, and which of the block's keys it is of.
        row_block = np.repeat(np.arange(len(rows)), rows)
        row_width = width[row_block]
        cell_row = np.repeat(np.arange(len(row_block)), row_width)
        cell = np.arange(len(value))
        metric = self._ranks(metrics)[cell + (keys[row_block] - np.cumsum(row_width) + row_width)[cell_row]]
        good = ((step >= 0) & (step <= LAST_STEP))[cell_row] & (metric != _NONE)
        order = _by(metric, len(metrics))
        if not good.all():
            self._reject_cells(row_block[cell_row[~good]])
            order = order[good[order]]
        row = cell_row[order]
        block = row_block[row]
        size = rows * width
        return Points(
            metrics=metrics,
            writers=list(self.writers),
            metric=metric[order],
            writer=writer[block],
            step=step[row],
            attempt=attempt[block],
            segment=segment[block],
            position=position[block],
            cell=order + (first_cell - np.cumsum(size) + size)[block],
            time=_micros(b"".join(self.times), np.array(self.stored)[row_block])[row],
            value=value[order],
            rejected=self.rejected,
        )

    def _keys(self, run: RunKey, keys: tuple[str, ...]) -> int:
        """Where the numbers of these keys begin."""
        place = self._known.get((run, keys))
        if place is None:
            place = self._known[run, keys] = len(self.numbers)
            self.numbers += [self._number(MetricKey(*run, key)) for key in keys]
        return place

    def _number(self, metric: MetricKey) -> int:
        number = self.metrics.get(metric)
        if number is None:
            if not is_key(metric.key):
                return _NONE
            number = self.metrics[metric] = len(self.metrics)
        return number

    def _ranks(self, metrics: Sequence[MetricKey]) -> Ints:
        """For each of `numbers` the place of its metric among these."""
        ranks = np.full(len(metrics) + 1, _NONE, np.int64)
        ranks[[self.metrics[metric] for metric in metrics]] = np.arange(len(metrics))
        found: Ints = ranks[np.array(self.numbers, np.int64)]
        return found

    def _reject(self, run: RunKey, points: int) -> None:
        if points:
            self.rejected[run] = self.rejected.get(run, 0) + points

    def _reject_cells(self, blocks: Ints) -> None:
        for block, count in zip(*np.unique(blocks, return_counts=True), strict=True):
            self._reject(self.runs[int(block)], int(count))


def _count(packed: bytes) -> int:
    """How many integers are in a packed field; -1 where the last one is cut off."""
    if packed and packed[-1] >= _MORE:
        return -1
    return len(packed.translate(None, _CONTINUED))


def _by(metric: Ints, count: int) -> Ints:
    """The order by metric (-1 first), and in a metric as it was."""
    # Numpy sorts 16 bits by radix, five times faster.
    narrow = metric.astype(np.int16) if count < 2**15 else metric
    order: Ints = np.argsort(narrow, kind="stable")
    return order


def _integers(packed: bytes) -> Ints:
    """A packed field of sint64."""
    raw = np.frombuffer(packed, np.uint8)
    last = np.flatnonzero(raw < _MORE)
    first = np.append(0, last[:-1] + 1) if len(last) else last
    length = last - first + 1
    found = np.zeros(len(last), np.uint64)
    # One of more than ten bytes is none of 64 bits, and whatever it becomes is its writer's own loss.
    for place in range(min(int(length.max(initial=0)), 10)):
        there: Bools = length > place
        found[there] |= (raw[first[there] + place] & np.uint64(0x7F)) << np.uint64(7 * place)
    signs = np.negative((found & np.uint64(1)).astype(np.int64))
    return (found >> np.uint64(1)).astype(np.int64) ^ signs


def _micros(packed: bytes, stored: Floats) -> Ints:
    """Microseconds, to the millisecond: what is finer is noise that costs a byte a point. A time that is none
    becomes the one at which the bus stored the event."""
    seconds = np.frombuffer(packed, "<f8")
    sane = (seconds >= 0) & (seconds < LAST_TIME)
    return np.rint(np.where(sane, seconds, stored) * 1e3).astype(np.int64) * 1000
