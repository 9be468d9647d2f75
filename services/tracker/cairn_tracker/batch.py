"""What a batch of events says: checked, and laid out in columns. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cairn.job.v1 import events_pb2

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

LONGEST_KEY = 250
# What JSON and a spreadsheet can still count exactly.
LAST_STEP = 2**53 - 1
# Year 9999.
_LAST_TIME = 253_402_300_800.0
_LONGEST_LINE = 64 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STREAMS = {
    events_pb2.Line.STREAM_STDOUT: "stdout",
    events_pb2.Line.STREAM_STDERR: "stderr",
    events_pb2.Line.STREAM_PLATFORM: "platform",
    events_pb2.Line.STREAM_LAUNCH: "launch",
}
#: What the stream of a line can be called.
STREAMS = tuple(_STREAMS.values())


class RunKey(NamedTuple):
    """Which run."""

    team: str
    uid: str


class MetricKey(NamedTuple):
    """Which metric of which run."""

    team: str
    run: str
    key: str


@dataclass(frozen=True, slots=True)
class Event:
    """One job event from the bus, with the time at which the bus stored it (seconds since 1970)."""

    run: RunKey
    stored: float
    message: events_pb2.JobEvent

    @property
    def arm(self) -> str:
        return self.message.WhichOneof("event") or ""

    @property
    def span(self) -> tuple[int, int]:
        """The bytes of its segment that it stands for; of no length for an event that has none."""
        return self.message.start_offset, self.message.end_offset


@dataclass(slots=True)
class Points:
    """Points of many runs in columns of one length; `metrics` is what `metric` points into."""

    metrics: list[MetricKey]
    writers: list[str]
    metric: Ints
    writer: Ints
    step: Ints
    attempt: Ints
    segment: Ints
    position: Ints
    cell: Ints
    # Microseconds since 1970.
    time: Ints
    value: Floats
    # Points left out, by run.
    rejected: dict[RunKey, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, slots=True)
class Line:
    """A console line, before it has its place in the run."""

    run: RunKey
    writer: str
    attempt: int
    rank: int
    stream: str
    number: int
    time: float
    text: str


def points(events: Iterable[Event]) -> Points:
    """The points of `points_logged` events. A bad key or step costs that column or row, nothing else."""
    metrics: dict[MetricKey, int] = {}
    writers: dict[str, int] = {}
    rejected: dict[RunKey, int] = {}
    chunks: list[tuple[Any, ...]] = []
    for event in events:
        first_cell = 0
        for block in event.message.points_logged.blocks:
            cells = len(block.values)
            chunk, lost = _block(event, block, first_cell, metrics, writers)
            if lost:
                rejected[event.run] = rejected.get(event.run, 0) + lost
            if chunk is not None:
                chunks.append(chunk)
            first_cell += cells
    columns: list[Any] = (
        [np.concatenate(column) for column in zip(*chunks, strict=True)] if chunks else list(_EMPTY)
    )
    metric, writer, step, attempt, segment, position, cell, time, value = columns
    return Points(
        metrics=list(metrics),
        writers=list(writers),
        metric=metric,
        writer=writer,
        step=step,
        attempt=attempt,
        segment=segment,
        position=position,
        cell=cell,
        time=time,
        value=value,
        rejected=rejected,
    )


def lines(events: Iterable[Event]) -> list[Line]:
    """The lines of `lines_logged` events, in the order of the events."""
    return [
        Line(
            run=event.run,
            writer=event.message.writer,
            attempt=event.message.attempt,
            rank=line.rank,
            stream=_STREAMS.get(line.stream, "stdout"),
            number=line.number,
            time=line.time if 0 <= line.time < _LAST_TIME else event.stored,
            text=line.text[:_LONGEST_LINE],
        )
        for event in events
        for line in event.message.lines_logged.lines
    ]


def is_key(key: str) -> bool:
    """Whether a metric can have this name: 1 to 250 bytes without control characters."""
    return 0 < len(key.encode()) <= LONGEST_KEY and _CONTROL.search(key) is None


_EMPTY = [np.empty(0, np.int64) for _ in range(8)] + [np.empty(0, np.float64)]


def _block(
    event: Event,
    block: events_pb2.PointBlock,
    first_cell: int,
    metrics: dict[MetricKey, int],
    writers: dict[str, int],
) -> tuple[tuple[Any, ...] | None, int]:
    """The columns of one block, and how many of its points were left out."""
    rows, width = len(block.steps), len(block.keys)
    cells = len(block.values)
    if rows * width != cells or len(block.times) != rows or not cells:
        return None, max(cells, rows)
    steps = np.array(block.steps, dtype=np.int64)
    good_rows = (steps >= 0) & (steps <= LAST_STEP)
    good_keys = np.array([is_key(key) for key in block.keys])
    good: Bools = (good_rows[:, None] & good_keys[None, :]).ravel()
    kept = int(good.sum())
    if not kept:
        return None, cells
    # A key that is no good gets no number: nothing of it is left after the mask.
    numbers = [
        metrics.setdefault(MetricKey(*event.run, key), len(metrics)) if usable else -1
        for key, usable in zip(block.keys, good_keys, strict=True)
    ]
    message = event.message
    writer = writers.setdefault(message.writer, len(writers))
    return (
        np.tile(np.array(numbers, np.int64), rows)[good],
        np.full(kept, writer, np.int64),
        np.repeat(steps, width)[good],
        np.full(kept, message.attempt, np.int64),
        np.full(kept, message.segment, np.int64),
        np.full(kept, message.start_offset, np.int64),
        np.arange(first_cell, first_cell + cells, dtype=np.int64)[good],
        np.repeat(_micros(block.times, event.stored), width)[good],
        np.array(block.values, dtype=np.float64)[good],
    ), cells - kept


def _micros(times: Sequence[float], stored: float) -> Ints:
    """Whole microseconds; a time that is none becomes the one at which the bus stored the event."""
    seconds = np.array(times, dtype=np.float64)
    sane = (seconds >= 0) & (seconds < _LAST_TIME)
    return np.rint(np.where(sane, seconds, stored) * 1e6).astype(np.int64)
