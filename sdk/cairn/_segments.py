"""The files of a spool, ``<spool>/<writer>/<segment:08d>.seg``, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from cairn import _frames
from cairn._frames import Frame, Rows
from cairn._ids import is_uid

_READ_BYTES = 2 * 1024 * 1024

Record = TypeVar("Record", Frame, Frame | Rows)


def segment_path(folder: Path, segment: int) -> Path:
    return folder / f"{segment:08d}.seg"


def segments(folder: Path) -> list[int]:
    """Numbers of the segments in a writer's folder, in order."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".seg") and name[:-4].isdigit())


def media_folder(spool: Path) -> Path:
    """Where the files of what a spool says of media lie, each named by the SHA-256 of its bytes."""
    return spool.parent / "media"


def writers(spool: Path) -> list[Path]:
    """Folders of all writers in a spool."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(spool) if is_uid(entry.name))
    except FileNotFoundError:
        return []


class SegmentReader:
    """Reads the whole records of one segment from `offset` on; ask again when the file has grown."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = 0
        self.shapes: dict[int, tuple[str, ...]] = {}
        while self.offset < offset and self._take(_frames.split_rows, offset):
            pass
        self.offset = offset

    def has_more(self) -> bool:
        """Whether something was written behind the offset: what a segment has its room for is zeros."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                return any(os.pread(file.fileno(), _frames.HEADER.size, self.offset))
        except FileNotFoundError:
            return False

    def read(self) -> list[Frame]:
        """The next records (about 2 MiB of them at most), shape definitions included."""
        return self._take(_frames.split_frames)

    def read_rows(self) -> list[Frame | Rows]:
        """As `read`, with points of one shape that follow each other taken together."""
        return self._take(_frames.split_rows)

    def _take(self, split: Callable[[bytes, int], Iterator[Record]], end: int | None = None) -> list[Record]:
        size = _READ_BYTES if end is None else min(_READ_BYTES, end - self.offset)
        try:
            with open(self.path, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, self.offset)
        except FileNotFoundError:
            return []
        found = list(split(data, self.offset))
        for record in found:
            if isinstance(record, Frame) and record.payload[0] == _frames.SHAPE:
                number, keys = _frames.parse_shape(record.payload)
                self.shapes[number] = keys
        if found:
            self.offset = found[-1].end
        return found


def read_all(folder: Path) -> Iterator[tuple[SegmentReader, Frame]]:
    """Every whole record of one writer, in order, with the reader that knows its shapes."""
    for segment in segments(folder):
        reader = SegmentReader(segment_path(folder, segment))
        while frames := reader.read():
            for frame in frames:
                yield reader, frame
