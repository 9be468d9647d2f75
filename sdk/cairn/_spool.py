"""A spool: what one process logged, in append-only segment files ``<spool>/<writer>/<segment:08d>.seg``.

Each record is one `os.write` to an O_APPEND file, so whatever a call returned from survives SIGKILL; a
background thread brings it to the disk within a second, so a power cut takes at most that much.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

from cairn import _frames
from cairn._frames import LineRecord, Shape
from cairn._ids import new_uid
from cairn._segments import segment_path

_log = logging.getLogger("cairn")

SEGMENT_BYTES = 8 * 1024 * 1024
RING_BYTES = 64 * 1024 * 1024
_MAX_SHAPES = 4_096
_MAX_CHECKED = 16
_SYNC_SECONDS = 0.5
# The disk is full: the segment is as it was, and goes on when there is room.
_KEEP_SEGMENT = {errno.ENOSPC, errno.EDQUOT}

_POINT, _head, _crc32, _os_write = _frames.POINT, _frames.HEADER.pack, crc32, os.write
_to_disk = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A record that the disk did not take; `write` tries again."""

    write: Callable[[], None]
    size: int
    points: int


class Writer:
    """Appends records to one process's segments. Safe in threads, after fork, and in signal handlers.

    No method raises for a disk that is full or gone: records wait in memory (at most `ring_bytes`, the
    oldest are dropped and counted in `dropped`) until it takes them again.
    """

    def __init__(
        self, spool: Path, *, segment_bytes: int = SEGMENT_BYTES, ring_bytes: int = RING_BYTES
    ) -> None:
        self.spool = spool
        self.dropped = 0
        self._dropped_told = 0
        self._segment_bytes = segment_bytes
        self._ring_bytes = ring_bytes
        self._warned = False
        self._reason = ""
        self._begin()
        _reset_after_fork(self)

    def _begin(self) -> None:
        """A life of its own for this process: called when made, and in the child after a fork."""
        self.uid = new_uid()
        # Re-entrant: a signal handler may log while the same thread is in here.
        self._lock = threading.RLock()
        self._file = -1
        self._segment = 0
        self._offset = 0
        self._shapes: dict[tuple[Any, ...], Shape] = {}
        # Wide rows have no shape of their own; this spares them the check of every key.
        self._checked: set[tuple[Any, ...]] = set()
        self._retired: list[int] = []
        self._ring: deque[_Kept] = deque()
        self._ring_size = 0
        self._dirty = False
        self._closed = False
        self._wake = threading.Event()
        self._syncer: threading.Thread | None = None

    def _after_fork(self) -> None:
        inherited = [self._file, *self._retired]
        self._begin()
        for file in inherited:
            if file >= 0:
                os.close(file)

    @property
    def folder(self) -> Path:
        return self.spool / self.uid

    @property
    def waiting(self) -> int:
        """Records that the disk has not taken yet."""
        return len(self._ring)

    @property
    def waiting_points(self) -> int:
        """Points among them."""
        return sum(kept.points for kept in self._ring)

    def points(self, keys: tuple[Any, ...], values: Collection[Any], step: int, time: float) -> None:
        """Appends one row. Raises struct.error, TypeError, OverflowError or ValueError, with nothing written,
        if a value is no number or a key cannot be one.
        """
        with self._lock:
            shape = self._shapes.get(keys)
            if shape is None:
                self._new_row(keys, values, step, time)
                return
            # What follows is `Shape.row` and `_write` without the time that calls take, for a loop waits.
            payload = shape.pack(_POINT, shape.number, time, step, *values)
            data = _head(shape.size, _crc32(payload)) + payload
            if not self._ring:
                try:
                    written = _os_write(self._file, data)
                    offset = self._offset + written
                    if written == shape.whole and self._dirty and offset < self._segment_bytes:
                        self._offset = offset
                    else:
                        self._written(data, written)
                    return
                except OSError as error:
                    self._refused(error)
            self._put(partial(self._put_row, keys, tuple(values), step, time), len(data), len(keys))

    def lines(self, lines: Sequence[LineRecord]) -> None:
        """Appends console lines, in one write."""
        self._append(b"".join(map(_frames.line_frame, lines)))

    def event(self, job_event: bytes) -> None:
        """Appends a serialized JobEvent that holds an arm only. Raises ValueError if it is too large."""
        _check_size(len(job_event))
        self._append(_frames.frame(bytes([_frames.EVENT]) + job_event))

    def json(self, arm: str, value: Mapping[str, Any]) -> None:
        """Appends an event as JSON. Raises ValueError if it is too large, TypeError if it is not JSON."""
        data = _frames.json_frame(arm, value)
        _check_size(len(data))
        self._append(data)

    def flush(self) -> None:
        """Brings everything to the disk, and tries again what it refused before."""
        with self._lock:
            self._retry()
            self._dirty = False
            files = [*self._retired, *([os.dup(self._file)] if self._file >= 0 else [])]
            self._retired = []
        for file in files:
            try:
                _to_disk(file)
            except OSError as error:
                self._refused(error)
            finally:
                os.close(file)

    def close(self) -> None:
        """Flushes and lets go of the file; a record appended later opens a new segment."""
        self.flush()
        with self._lock:
            self._closed = True
            self._wake.set()
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _new_row(self, keys: tuple[Any, ...], values: Collection[Any], step: int, time: float) -> None:
        if not keys:
            return
        if keys not in self._checked:
            for key in keys:
                _frames.check_key(key)
            self._checked = {*self._checked, keys} if len(self._checked) < _MAX_CHECKED else {keys}
        struct.pack(f"{len(keys)}d", *values)  # raises now if a value is no number
        self._put(partial(self._put_row, keys, tuple(values), step, time), 8 * len(keys), len(keys))

    def _put_row(self, keys: tuple[str, ...], values: tuple[Any, ...], step: int, time: float) -> None:
        """Writes a row and the definitions that its segment lacks; a wide one as several rows, at once."""
        if self._file < 0 or len(self._shapes) >= _MAX_SHAPES:
            self._open()
        parts: list[bytes] = []
        fresh: list[Shape] = []
        for first in range(0, len(keys), _frames.MAX_KEYS):
            some = keys[first : first + _frames.MAX_KEYS]
            shape = self._shapes.get(some)
            if shape is None:
                shape = Shape(len(self._shapes) + len(fresh), some)
                fresh.append(shape)
                parts.append(shape.definition())
            parts.append(shape.row(values[first : first + _frames.MAX_KEYS], step, time))
        segment = self._segment
        self._write(b"".join(parts))
        if segment == self._segment:
            self._shapes.update((shape.keys, shape) for shape in fresh)

    def _append(self, data: bytes) -> None:
        if data:
            with self._lock:
                self._put(partial(self._write, data), len(data), 0)

    def _put(self, write: Callable[[], None], size: int, points: int) -> None:
        """Writes behind what waits already, if anything does."""
        if self._ring or not self._try(write):
            self._keep(write, size, points)

    def _try(self, write: Callable[[], None]) -> bool:
        for _ in range(2):
            try:
                write()
                return True
            except OSError as error:
                if not self._refused(error):
                    return False
        return False

    def _write(self, data: bytes) -> None:
        if self._file < 0:
            self._open()
        self._written(data, _os_write(self._file, data))

    def _written(self, data: bytes, written: int) -> None:
        """So much of this was written behind the rest of the segment."""
        if written != len(data):
            self._write_rest(data, written)
            written = len(data)
        self._offset += written
        if not self._dirty:
            self._dirty = True
            self._wake_syncer()
        if self._offset >= self._segment_bytes:
            try:
                self._open()
            except OSError:
                pass  # this segment goes on; the next write tries again

    def _open(self) -> None:
        folder = self.folder
        if self._segment == 0:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = segment_path(folder, self._segment + 1)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if self._file >= 0:
            self._retired.append(self._file)
        self._file = file
        self._segment += 1
        self._offset = 0
        self._shapes = {}

    def _write_rest(self, data: bytes, written: int) -> None:
        """Goes on after the disk took a part only; takes that part back if it refuses the rest."""
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            os.ftruncate(self._file, self._offset)
            raise

    def _refused(self, error: OSError) -> bool:
        """Whether another try, in a new segment, may help."""
        with self._lock:
            self._reason = error.strerror or str(error)
            if error.errno in _KEEP_SEGMENT:
                return False
            # Too large a file, or a broken one.
            if self._file >= 0:
                self._retired.append(self._file)
                self._file = -1
            self._shapes = {}
            return True

    def _keep(self, write: Callable[[], None], size: int, points: int) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "cairn cannot write to %s (%s): keeping up to %d MiB in memory",
                self.spool, self._reason, self._ring_bytes >> 20,
            )  # fmt: skip
        self._wake_syncer()
        size += 200  # what the record costs besides its bytes
        self._ring.append(_Kept(write, size, points))
        self._ring_size += size
        while self._ring_size > self._ring_bytes:
            oldest = self._ring.popleft()
            self._ring_size -= oldest.size
            self.dropped += oldest.points

    def _retry(self) -> None:
        while self._ring:
            kept = self._ring[0]
            if not self._try(kept.write):
                return
            self._ring.popleft()
            self._ring_size -= kept.size
        # Behind what the gap is in.
        if lost := self.dropped - self._dropped_told:
            data = _frames.json_frame("points_dropped", {"points": lost})
            if self._try(partial(self._write, data)):
                self._dropped_told += lost

    def _wake_syncer(self) -> None:
        if self._syncer is None and not self._closed:
            self._syncer = threading.Thread(
                target=_sync_forever, args=(weakref.ref(self), self._wake), name="cairn-spool", daemon=True
            )
            try:
                self._syncer.start()
            except RuntimeError:  # the interpreter is on its way out; finish() flushes
                pass
        self._wake.set()


def _sync_forever(reference: weakref.ref[Writer], wake: threading.Event) -> None:
    """Flushes a writer half a second after it got something; sleeps for good while it has nothing."""
    pause = threading.Event()
    while True:
        wake.wait()
        wake.clear()
        pause.wait(_SYNC_SECONDS)
        writer = reference()
        if writer is None or writer._closed:
            return
        writer.flush()
        if writer.waiting:
            wake.set()
        del writer


def _check_size(size: int) -> None:
    if size > _frames.MAX_EVENT_BYTES:
        raise ValueError(f"an event of {size} bytes is larger than {_frames.MAX_EVENT_BYTES}")


_living: weakref.WeakSet[Writer] = weakref.WeakSet()


def _reset_after_fork(writer: Writer) -> None:
    if not _living and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset_all)
    _living.add(writer)


def _reset_all() -> None:
    for writer in list(_living):
        writer._after_fork()
