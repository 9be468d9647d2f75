"""From spool frames to messages of the bus: columns of points, bundles of lines, other events as they are.

Messages of one writer follow each other without gap or overlap; each says which bytes of which segment it
stands for, and the tracker keeps a mark per writer, so a message that comes twice counts once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError

from cairn import _frames
from cairn._frames import Frame, Rows
from cairn.job.v1 import events_pb2

_log = logging.getLogger("cairn")

MAX_ROWS = 4_096
MAX_LINES = 4_096
MAX_BYTES = 256 * 1024
_SOON = {f"attempt_{word}": f"attempt.{word}" for word in ("started", "ended", "beat", "shipped")}
_POINTS_LOGGED = events_pb2.JobEvent.POINTS_LOGGED_FIELD_NUMBER
_VALUES = events_pb2.PointBlock.VALUES_FIELD_NUMBER
_BLOCKS = events_pb2.PointsLogged.BLOCKS_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose events these are; without a job the attempt is empty and 0."""

    team: str
    run_uid: str
    attempt_uid: str = ""
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """What goes out: `arm` of JobEvent, encoded as `body`, for the bytes [start, end) of a segment."""

    arm: str
    start: int
    end: int
    body: bytes

    @property
    def is_soon(self) -> bool:
        """Whether it goes where no points and lines are ahead of it."""
        return self.arm in _SOON

    def subject(self, identity: Identity) -> str:
        """Where it goes: what the scheduler has to hear soon not behind points and lines."""
        event = _SOON.get(self.arm) or f"run.{self.arm.replace('_', '-')}"
        return f"cairn.v1.job.{event}.{identity.team}.{identity.run_uid}"

    def encode(self, identity: Identity, *, writer: str, segment: int) -> bytes:
        """The serialized JobEvent."""
        head = events_pb2.JobEvent(
            team=identity.team, run_uid=identity.run_uid,
            attempt_uid=identity.attempt_uid, attempt=identity.attempt,
            writer=writer, segment=segment, start_offset=self.start, end_offset=self.end,
        )  # fmt: skip
        # Encoded messages that are put one after the other are merged by whoever decodes them.
        return head.SerializeToString() + self.body


class _Builder(Protocol):
    """A message in the making; `full` says that it should go out."""

    @property
    def arm(self) -> str: ...

    @property
    def full(self) -> bool: ...

    def body(self) -> bytes: ...


def messages(
    records: Iterable[Frame | Rows], *, shapes: Mapping[int, tuple[str, ...]], start: int,
    cuts: Collection[int] = (),
) -> Iterator[Message]:  # fmt: skip
    """Messages for records that follow each other from offset `start` on.

    `cuts` are offsets where a message has to end, because one that did may have gone out already. What
    cannot be read is left out with a warning.
    """
    making = _Making(start, cuts)
    for record in records:
        if isinstance(record, Rows):
            yield from making.points(record, shapes)
        else:
            if record.payload[0] == _frames.LINE:
                if not isinstance(making.builder, _Lines):
                    yield from making.close()
                    making.builder = _Lines()
                making.builder.add(record.payload)
            elif record.payload[0] != _frames.SHAPE:
                yield from making.close()
                making.builder = _other(record.payload)
            yield from making.reach(record.end)
    yield from making.close()


class _Making:
    """The message that is being made, which begins at `start`, and how far the records have been taken."""

    def __init__(self, start: int, cuts: Collection[int]) -> None:
        self.builder: _Builder | None = None
        self._start = self._end = start
        self._cuts = cuts

    def points(self, rows: Rows, shapes: Mapping[int, tuple[str, ...]]) -> Iterator[Message]:
        """Takes rows; gives the messages that are full with them, or have to end among them."""
        taken = 0
        while taken < len(rows.steps):
            if not isinstance(self.builder, _Points):
                yield from self.close()
                self.builder = _Points(shapes)
            begin = rows.start + taken * rows.size
            to = min((cut for cut in self._cuts if begin < cut <= rows.end), default=rows.end)
            taken += self.builder.take(rows, taken, max(1, (to - begin) // rows.size))
            yield from self.reach(rows.start + taken * rows.size)

    def reach(self, end: int) -> Iterator[Message]:
        """All up to `end` has been taken."""
        self._end = end
        if self.builder is not None and (self.builder.full or end in self._cuts):
            yield from self.close()

    def close(self) -> Iterator[Message]:
        """The message as it is now, if there is one."""
        if self.builder is not None:
            yield Message(self.builder.arm, self._start, self._end, self.builder.body())
            self._start, self.builder = self._end, None


class _Points:
    """Rows by shape.

    Blocks that are being filled share no key: when a shape comes that overlaps with them, all are sealed, so
    that of two values for one key and step the later one stays behind the earlier one.
    """

    arm = "points_logged"

    def __init__(self, shapes: Mapping[int, tuple[str, ...]]) -> None:
        self._shapes = shapes
        self._sealed: list[bytes] = []
        self._open: dict[int, _Block] = {}
        self._taken: set[str] = set()
        self._rows = 0
        self._bytes = 0
        self.full = False

    def take(self, rows: Rows, first: int, most: int) -> int:
        """Takes `most` of the rows from the first one on, or fewer that fill it; how many (1 at least)."""
        block = self._open.get(rows.shape) or self._new_block(rows.shape)
        size = rows.size - _frames.HEADER.size
        room = min(MAX_ROWS - self._rows, -(-(MAX_BYTES - self._bytes) // size))
        count = min(most, len(rows.steps) - first, max(1, room))
        if block is None:
            return count
        block.times += rows.times[first : first + count]
        block.steps += rows.steps[first : first + count]
        block.values += rows.values[first : first + count]
        self._rows += count
        self._bytes += count * size
        self.full = self._rows >= MAX_ROWS or self._bytes >= MAX_BYTES
        return count

    def body(self) -> bytes:
        self._seal()
        return _field(_POINTS_LOGGED, b"".join(self._sealed))

    def _new_block(self, number: int) -> _Block | None:
        keys = self._shapes.get(number)
        if keys is None:
            _log.warning("cairn: a spool holds points without their keys; they are left out")
            return None
        if not self._taken.isdisjoint(keys):
            self._seal()
        self._taken.update(keys)
        self._bytes += sum(map(len, keys))
        block = self._open[number] = _Block(keys)
        return block

    def _seal(self) -> None:
        self._sealed += [_field(_BLOCKS, block.encode()) for block in self._open.values()]
        self._open = {}
        self._taken = set()


class _Block:
    __slots__ = ("keys", "steps", "times", "values")

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.steps: list[int] = []
        self.times: list[float] = []
        self.values: list[bytes] = []

    def encode(self) -> bytes:
        """A PointBlock. The spool holds values as a packed field does, so they are not unpacked."""
        rest = events_pb2.PointBlock(keys=self.keys, steps=self.steps, times=self.times)
        return rest.SerializeToString() + _field(_VALUES, b"".join(self.values))


class _Lines:
    arm = "lines_logged"

    def __init__(self) -> None:
        self._event = events_pb2.JobEvent()
        self._lines = self._event.lines_logged.lines
        self._bytes = 0
        self.full = False

    def add(self, payload: bytes) -> None:
        line = _frames.parse_line(payload)
        self._lines.add(
            time=line.time, stream=cast(events_pb2.Line.Stream.ValueType, line.stream),
            rank=line.rank, number=line.number, text=line.text,
        )  # fmt: skip
        self._bytes += len(payload)
        self.full = self._bytes >= MAX_BYTES or len(self._lines) >= MAX_LINES

    def body(self) -> bytes:
        return self._event.SerializeToString()


@dataclass(frozen=True, slots=True)
class _Single:
    arm: str
    encoded: bytes
    full: bool = True

    def body(self) -> bytes:
        return self.encoded


def _other(payload: bytes) -> _Single | None:
    """An event that is a message of its own; None for one that nobody can read."""
    event = events_pb2.JobEvent()
    try:
        if payload[0] == _frames.EVENT:
            event.ParseFromString(payload[1:])
        elif payload[0] == _frames.JSON:
            value = json.loads(payload[1:])
            ParseDict({value["arm"]: value["value"]}, event)
    except (DecodeError, ParseError, ValueError, KeyError, TypeError) as error:
        _log.warning("cairn: an event in a spool cannot be read and is left out: %s", error)
        return None
    arm = event.WhichOneof("event")
    return _Single(arm, event.SerializeToString()) if arm else None


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    length = len(data)
    head = bytearray([number << 3 | 2]) if number < 16 else bytearray([number << 3 & 127 | 130, number >> 4])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    head.append(length)
    return bytes(head) + data
