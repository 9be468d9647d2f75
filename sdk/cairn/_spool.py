"""A spool: what one process logged, in append-only segment files ``<spool>/<writer>/<segment:08d>.seg``.

Each record is in the kernel's hands when the call returns (`cairn/_append.py`), so whatever a call returned
from survives SIGKILL; a background thread brings it to the disk within a second, so a power cut takes at
most that much.
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
from queue import SimpleQueue
from typing import Any
from zlib import crc32

from cairn import _frames
from cairn._append import STEP_BYTES, Appending, Left
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

_POINT, _head = _frames.POINT, _frames.HEADER.pack
_to_disk = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A record that the disk did not take; `write` tries again."""

    write: Callable[[], None]
    size: int
    points: int


# Of a shape how to pack a row, its number, the size of a row's payload and of its frame; and its segment.
_Known = tuple[Callable[..., bytes], int, int, int, Appending]


class Writer:
    """Appends records to one process's segments. Safe in threads, after fork, and in signal handlers.

    No method raises for a disk that is full or gone: records wait in memory (at most `ring_bytes`, the
    oldest are dropped and counted in `dropped`) until it takes them again.
    """

    def __init__(
        self, spool: Path, *, segment_bytes: int = SEGMENT_BYTES, ring_bytes: int = RING_BYTES,
        step_bytes: int = STEP_BYTES,
    ) -> None:  # fmt: skip
        self.spool = spool
        self.dropped = 0
        self._dropped_told = 0
        self._segment_bytes = segment_bytes
        self._ring_bytes = ring_bytes
        self._step_bytes = step_bytes
        self._warned = False
        self._reason = ""
        self._begin()
        _reset_after_fork(self)

    def _begin(self) -> None:
        """A life of its own for this process: called when made, and in the child after a fork."""
        self.uid = new_uid()
        # Re-entrant: a signal handler may log while the same thread is in here.
        self._lock = threading.RLock()
        self._current: Appending | None = None
        self._segment = 0
        # Of the open segment, with it; empty without one.
        self._shapes: dict[tuple[Any, ...], _Known] = {}
        # Wide rows have no shape of their own; this spares them the check of every key.
        self._checked: set[tuple[Any, ...]] = set()
        self._retired: list[int] = []
        self._ring: deque[_Kept] = deque()
        self._ring_size = 0
        self._dirty = False
        self._closed = False
        # Not an Event: a handler of a signal that comes while one is set waits for itself.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._syncer: threading.Thread | None = None

    def _after_fork(self) -> None:
        inherited = [*self._retired, *([self._current.file] if self._current is not None else [])]
        self._begin()
        for file in inherited:
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
            known = self._shapes.get(keys)
            if known is None:
                self._new_row(keys, values, step, time)
                return
            # What follows is `Shape.row` and `Appending.append` without the time that calls take, for a loop
            # waits.
            pack, number, size, whole, segment = known
            payload = pack(_POINT, number, time, step, *values)
            data = _head(size, crc32(payload)) + payload
            # A signal's handler may log, too, but not between these lines: it runs behind a call.
            begin = segment.offset
            end = begin + whole
            if end <= segment.room:
                segment.map[begin:end] = data
                segment.offset = end
                return
            if not self._ring:
                try:
                    self._write(data, segment)
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

    def lose(self, points: int) -> None:
        """Counts points that were lost before they came here."""
        with self._lock:
            self.dropped += points
            self._wake_syncer()

    def flush(self) -> None:
        """Brings everything to the disk, and tries again what it refused before."""
        with self._lock:
            self._retry()
            files, self._retired = self._retired, []
            if self._current is not None:
                files.append(os.dup(self._current.file))
                # The next record wakes the thread that brings it to the disk.
                self._current.room = 0
            self._dirty = False
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
            self._wake.put(None)
            self._leave()
            files, self._retired = self._retired, []
        for file in files:
            os.close(file)

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
        segment = self._current
        if segment is None or segment.shapes >= _MAX_SHAPES:
            segment = self._open()
        parts: list[bytes] = []
        fresh: dict[tuple[Any, ...], _Known] = {}
        for first in range(0, len(keys), _frames.MAX_KEYS):
            some = keys[first : first + _frames.MAX_KEYS]
            known = self._shapes.get(some)
            if known is None:
                # Taken at once: a signal's handler may write another one first.
                number = segment.shapes
                segment.shapes = number + 1
                shape = Shape(number, some)
                known = fresh[some] = (shape.pack, shape.number, shape.size, shape.whole, segment)
                parts.append(shape.definition())
            pack, number = known[:2]
            row = values[first : first + _frames.MAX_KEYS]
            parts.append(_frames.frame(pack(_POINT, number, time, step, *row)))
        self._write(b"".join(parts), segment)
        if segment is self._current:
            self._shapes.update(fresh)

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

    def _write(self, data: bytes, segment: Appending | None = None) -> None:
        """Appends to the segment, where it has to be this one, or else to any. Raises OSError."""
        segment = segment or self._current or self._open()
        segment.append(data)
        if not self._dirty:
            self._dirty = True
            self._wake_syncer()
        if segment.offset < self._segment_bytes:
            segment.allow(0 if self._ring else self._segment_bytes)
            return
        try:
            self._open()
        except OSError:
            pass  # this segment goes on; the next write tries again

    def _open(self) -> Appending:
        """Begins the next segment, and leaves the one before it."""
        folder = self.folder
        if self._segment == 0:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = self._segment
        try:
            opened = Appending(segment_path(folder, before + 1), step=self._step_bytes)
        except FileExistsError:
            if self._segment == before or self._current is None:
                raise
            return self._current  # a signal's handler came first
        # Between these lines comes no signal's handler, which would find one without the other.
        old = self._current
        self._current, self._segment, self._shapes = opened, before + 1, {}
        if old is not None:
            self._retired.append(old.leave())
        return opened

    def _leave(self) -> None:
        """The segment is as it should be, or broken: the next record begins another one."""
        old = self._current
        self._current, self._shapes = None, {}
        if old is not None:
            self._retired.append(old.leave())

    def _refused(self, error: OSError) -> bool:
        """Whether another try, in a new segment, may help."""
        if isinstance(error, Left):
            return True
        with self._lock:
            self._reason = error.strerror or str(error)
            if error.errno in _KEEP_SEGMENT:
                return False
            self._leave()  # too large a file, or a broken one
            return True

    def _keep(self, write: Callable[[], None], size: int, points: int) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "cairn cannot write to %s (%s): keeping up to %d MiB in memory",
                self.spool, self._reason, self._ring_bytes >> 20,
            )  # fmt: skip
        self._wake_syncer()
        if self._current is not None:
            self._current.room = 0  # what comes next is to wait behind it
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
        self._wake.put(None)


def _sync_forever(reference: weakref.ref[Writer], wake: SimpleQueue[None]) -> None:
    """Flushes a writer half a second after it got something; sleeps for good while it has nothing."""
    pause = threading.Event()
    while True:
        wake.get()
        pause.wait(_SYNC_SECONDS)
        while not wake.empty():
            wake.get()
        writer = reference()
        if writer is None or writer._closed:
            return
        writer.flush()
        if writer.waiting:
            wake.put(None)
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
