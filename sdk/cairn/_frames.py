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

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Frame(NamedTuple):
    """A whole record: where it begins and ends in its segment, and its payload."""

    start: int
    end: int
    payload: bytes


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

    __slots__ = ("_pack", "_size", "keys", "number")

    def __init__(self, number: int, keys: tuple[str, ...]) -> None:
        self.number = number
        self.keys = keys
        packer = struct.Struct(f"<BIdq{len(keys)}d")
        self._pack = packer.pack
        self._size = packer.size

    def definition(self) -> bytes:
        """The frame that must come before the first row."""
        return frame(_SHAPE_HEAD.pack(SHAPE, self.number) + json.dumps(self.keys).encode())

    def row(self, values: Iterable[float], step: int, time: float) -> bytes:
        """A frame with one value for each key. Raises struct.error for what is no number."""
        payload = self._pack(POINT, self.number, time, step, *values)
        return HEADER.pack(self._size, crc32(payload)) + payload


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
    while position + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, position)
        begin = position + HEADER.size
        # A file system may leave zeros after a power cut, and crc32(b"") is zero: empty is not a frame.
        if not 0 < length <= _MAX_PAYLOAD or begin + length > len(data):
            return
        payload = data[begin : begin + length]
        if crc32(payload) != checksum:
            return
        yield Frame(base + position, base + begin + length, payload)
        position = begin + length


def check_key(key: object) -> str:
    """A metric key as it may be stored. Raises ValueError that says what is wrong with it."""
    if not isinstance(key, str) or not key:
        raise ValueError(f"a metric key is a string that is not empty, not {key!r}")
    if _CONTROL.search(key):
        raise ValueError(f"the metric key {key!r} holds control characters")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise ValueError(f"the metric key {key[:40]!r}... is longer than {MAX_KEY_BYTES} bytes")
    return key
