"""What a spool record is in bytes.

A frame is ``u32 length, u32 crc32, payload``, little-endian; a payload begins with its kind. Points refer
to a *shape*, a list of metric keys that is written once per segment, so that logging packs numbers only.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple
from zlib import crc32

SHAPE = 1
POINT = 2
LINE = 3
EVENT = 4  # a serialized JobEvent that holds its arm and nothing else
JSON = 5  # {"arm": ..., "value": ...}: an event of a process that does not want to import protobuf

HEADER = struct.Struct("<II")
_SHAPE_HEAD = struct.Struct("<BI")
POINT_HEAD = struct.Struct("<BIdq")
DOUBLE = struct.Struct("<d")
_LINE_HEAD = struct.Struct("<BdBiq")

# A row wider than this is written as several: a message on the bus must hold at least one.
MAX_KEYS = 1_024
MAX_KEY_BYTES = 250
# Well under the bus's limit for one message.
MAX_EVENT_BYTES = 512 * 1024
# Whatever claims to be longer is not a frame.
_MAX_PAYLOAD = 1024 * 1024
# Points that are looked at together: first so few, then each time so many times as many, up to this.
_POINT = bytes([POINT])
_FEW_ROWS, _MORE_ROWS, _MANY_ROWS = 8, 8, 4_096

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Frame(NamedTuple):
    """A whole record: where it begins and ends in its segment, and its payload."""

    start: int
    end: int
    payload: bytes


class Rows(NamedTuple):
    """Whole points of one shape that follow each other: `size` bytes of the segment each, from `start` on.

    `values` are as packed doubles are.
    """

    start: int
    size: int
    shape: int
    times: tuple[float, ...]
    steps: tuple[int, ...]
    values: tuple[bytes, ...]

    @property
    def end(self) -> int:
        return self.start + self.size * len(self.steps)


@dataclass(frozen=True, slots=True)
class LineRecord:
    """One console line; `stream` is the number of cairn.job.v1.Line.Stream."""

    time: float
    stream: int
    rank: int
    number: int
    text: str


class Shape:
    """A list of keys with its number in the segment; packs rows of values for them."""

    __slots__ = ("keys", "number", "pack", "size", "whole")

    def __init__(self, number: int, keys: tuple[str, ...]) -> None:
        self.number = number
        self.keys = keys
        packer = struct.Struct(f"<BIdq{len(keys)}d")
        # The payload: kind, number, time, step, values. Its size, and that of the frame.
        self.pack = packer.pack
        self.size = packer.size
        self.whole = HEADER.size + packer.size

    def definition(self) -> bytes:
        """The frame that must come before the first row."""
        return frame(_SHAPE_HEAD.pack(SHAPE, self.number) + json.dumps(self.keys).encode())

    def row(self, values: Iterable[float], step: int, time: float) -> bytes:
        """A frame with one value for each key. Raises struct.error for what is no number."""
        payload = self.pack(POINT, self.number, time, step, *values)
        return HEADER.pack(self.size, crc32(payload)) + payload


def frame(payload: bytes) -> bytes:
    return HEADER.pack(len(payload), crc32(payload)) + payload


def line_frame(line: LineRecord) -> bytes:
    head = _LINE_HEAD.pack(LINE, line.time, line.stream, line.rank, line.number)
    return frame(head + line.text.encode("utf-8", "replace"))


def parse_line(payload: bytes) -> LineRecord:
    _, time, stream, rank, number = _LINE_HEAD.unpack_from(payload)
    return LineRecord(time, stream, rank, number, payload[_LINE_HEAD.size :].decode("utf-8", "replace"))


def json_frame(arm: str, value: Mapping[str, Any]) -> bytes:
    return frame(bytes([JSON]) + json.dumps({"arm": arm, "value": value}).encode())


def parse_shape(payload: bytes) -> tuple[int, tuple[str, ...]]:
    _, number = _SHAPE_HEAD.unpack_from(payload)
    return number, tuple(json.loads(payload[_SHAPE_HEAD.size :]))


def split_frames(data: bytes, base: int) -> Iterator[Frame]:
    """The whole frames at the front of `data`, which lies at offset `base` of its segment.

    Ends at the first one that is cut off or damaged.
    """
    position = 0
    while (frame := _frame(data, position, base)) is not None:
        yield frame
        position = frame.end - base


def split_rows(data: bytes, base: int) -> Iterator[Frame | Rows]:
    """As `split_frames`, with points of one shape taken together, which costs a tenth."""
    position, most = 0, _FEW_ROWS
    while True:
        found: Frame | Rows | None = None
        if data[position + HEADER.size : position + HEADER.size + 1] == _POINT:
            found = _rows(data, position, base, most)
        # More of the same are likely to follow where all that were looked at were the same.
        whole = isinstance(found, Rows) and len(found.steps) == most
        most = min(most * _MORE_ROWS, _MANY_ROWS) if whole else _FEW_ROWS
        found = found or _frame(data, position, base)
        if found is None:
            return
        yield found
        position = found.end - base


def _frame(data: bytes, position: int, base: int) -> Frame | None:
    """The record there; None where it is cut off or damaged."""
    begin = position + HEADER.size
    if begin > len(data):
        return None
    length, checksum = HEADER.unpack_from(data, position)
    # A file system may leave zeros after a power cut, and crc32(b"") is zero: empty is not a frame.
    if not 0 < length <= _MAX_PAYLOAD or begin + length > len(data):
        return None
    payload = data[begin : begin + length]
    return Frame(base + position, base + begin + length, payload) if crc32(payload) == checksum else None


def _rows(data: bytes, position: int, base: int, most: int) -> Rows | None:
    """The points of one shape from there on, `most` at most; None without a whole one."""
    length, _ = HEADER.unpack_from(data, position)
    size = HEADER.size + length
    count = min(most, (len(data) - position) // size)
    if count == 0 or not POINT_HEAD.size <= length <= _MAX_PAYLOAD:
        return None
    row, payload = _row_structs(length)
    part = data[position : position + count * size]
    lengths, sums, kinds, shapes, times, steps, values = zip(*row.iter_unpack(part), strict=True)
    found = tuple(map(crc32, chain.from_iterable(payload.iter_unpack(part))))
    alike = (lengths.count(length), kinds.count(POINT), shapes.count(shapes[0]))
    if alike != (count, count, count) or found != sums:
        heads = zip(lengths, kinds, shapes, strict=True)
        wanted = (length, POINT, shapes[0])
        good = (head == wanted and a == b for head, a, b in zip(heads, found, sums, strict=True))
        count = next(place for place, is_good in enumerate(good) if not is_good)
    if count == 0:
        return None
    return Rows(base + position, size, shapes[0], times[:count], steps[:count], values[:count])


@lru_cache(64)
def _row_structs(length: int) -> tuple[struct.Struct, struct.Struct]:
    """A point in a frame with a payload so long: all of it in parts, and its payload in one."""
    values = length - POINT_HEAD.size
    return struct.Struct(f"<IIBIdq{values}s"), struct.Struct(f"<{HEADER.size}x{length}s")


def check_key(key: object) -> str:
    """A metric key as it may be stored. Raises ValueError that says what is wrong with it."""
    if not isinstance(key, str) or not key:
        raise ValueError(f"a metric key is a string that is not empty, not {key!r}")
    if _CONTROL.search(key):
        raise ValueError(f"the metric key {key!r} holds control characters")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise ValueError(f"the metric key {key[:40]!r}... is longer than {MAX_KEY_BYTES} bytes")
    return key
