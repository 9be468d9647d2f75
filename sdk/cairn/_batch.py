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
from cairn._frames import Frame
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
    frames: Iterable[Frame], *, shapes: Mapping[int, tuple[str, ...]], start: int, cuts: Collection[int] = ()
) -> Iterator[Message]:
    """Messages for frames that follow each other from offset `start` on.

    `cuts` are offsets where a message has to end, because one that did may have gone out already. What
    cannot be read is left out with a warning.
    """
    builder: _Builder | None = None
    end = start
    for frame in frames:
        kind = frame.payload[0]
        if kind == _frames.POINT:
            if not isinstance(builder, _Points):
                if builder is not None:
                    yield Message(builder.arm, start, end, builder.body())
                    start = end
                builder = _Points(shapes)
            builder.add(frame.payload)
        elif kind == _frames.LINE:
            if not isinstance(builder, _Lines):
                if builder is not None:
                    yield Message(builder.arm, start, end, builder.body())
                    start = end
                builder = _Lines()
            builder.add(frame.payload)
        elif kind != _frames.SHAPE:
            if builder is not None:
                yield Message(builder.arm, start, end, builder.body())
                start = end
            builder = _other(frame.payload)
        end = frame.end
        if builder is not None and (builder.full or end in cuts):
            yield Message(builder.arm, start, end, builder.body())
            start, builder = end, None
    if builder is not None:
        yield Message(builder.arm, start, end, builder.body())


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

    def add(self, payload: bytes) -> None:
        _, number, time, step = _frames.POINT_HEAD.unpack_from(payload)
        block = self._open.get(number) or self._new_block(number)
        if block is None:
            return
        block.times.append(time)
        block.steps.append(step)
        block.values.append(payload[_frames.POINT_HEAD.size :])
        self._rows += 1
        self._bytes += len(payload)
        self.full = self._rows >= MAX_ROWS or self._bytes >= MAX_BYTES

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
