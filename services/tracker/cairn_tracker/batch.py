"""What a batch of events says: its points as columns (made by `layout`), its lines one by one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from cairn.job.v1 import events_pb2

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

#: What an event of points is called.
POINTS = "points_logged"
LONGEST_KEY = 250
# What JSON and a spreadsheet can still count exactly.
LAST_STEP = 2**53 - 1
# Year 9999. Seconds since 1970.
LAST_TIME = 253_402_300_800.0
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


@dataclass(slots=True)
class Event:
    """One job event from the bus, with the time at which the bus stored it (seconds since 1970).

    `arm` is the name of what it says; what says points is always a PointsEvent.
    """

    run: RunKey
    stored: float
    message: events_pb2.JobEvent | events_pb2.PointsEvent
    arm: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.message, events_pb2.PointsEvent):
            self.arm = POINTS
            return
        self.arm = self.message.WhichOneof("event") or ""
        if self.arm == POINTS:
            self.message = events_pb2.PointsEvent.FromString(self.message.SerializeToString())

    @property
    def span(self) -> tuple[int, int]:
        """The bytes of its segment that it stands for; of no length for an event that has none."""
        return self.message.start_offset, self.message.end_offset


@dataclass(slots=True)
class Points:
    """Points of many runs in columns of one length, by metric and then as they came.

    `metrics`, in order, is what `metric` points into.
    """

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
            time=line.time if 0 <= line.time < LAST_TIME else event.stored,
            text=line.text[:_LONGEST_LINE],
        )
        for event in events
        if isinstance(event.message, events_pb2.JobEvent)
        for line in event.message.lines_logged.lines
    ]


def is_key(key: str) -> bool:
    """Whether a metric can have this name: 1 to 250 bytes without control characters."""
    return 0 < len(key.encode()) <= LONGEST_KEY and _CONTROL.search(key) is None
