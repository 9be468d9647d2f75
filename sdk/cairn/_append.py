"""A segment that is being written: what is appended is in the kernel's hands when the call returns.

Where the file system allows it that takes no system call: a part of the file is given its room on the disk
and mapped into memory, which outlives the process. What is mapped and not written yet is zeros, and zeros
are no record. Elsewhere, or when the disk has no more such parts, each append is a write.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

#: The part that a segment grows by; less in its beginning, for most processes log little.
STEP_BYTES = 256 * 1024
_FIRST_BYTES = 64 * 1024
# MADV_POPULATE_WRITE of Linux 5.14: all pages at once, for a tenth of what each costs when it is needed.
_POPULATE = 23
# Of these a page that has its room on the disk can always be written. On others (a network's, one that
# copies what is written) a page could fail, and a process that writes to such a page is killed.
_SAFE = {"ext4", "f2fs", "overlay", "tmpfs", "xfs"}


class Left(OSError):
    """Another segment has been begun meanwhile: what is written goes there."""


class Appending:
    """An open segment. `append` raises OSError, with nothing written."""

    __slots__ = ("_left", "_mapped", "_step", "file", "map", "offset", "room", "shapes")

    def __init__(self, path: Path, *, step: int = STEP_BYTES) -> None:
        how = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.file = os.open(path, how, 0o600)
        self.map: Any = None
        self.offset = 0
        #: So far whoever holds the writer's lock may put bytes into `map` at `offset`, and add to it.
        self.room = 0
        #: Numbers that shapes of it have taken.
        self.shapes = 0
        self._step = step if _is_safe(os.fstat(self.file).st_dev) else 0
        self._mapped = 0
        self._left = False

    def append(self, data: bytes) -> None:
        size = len(data)
        # Asked again: a signal's handler may append meanwhile, but not between lines without a call.
        while self._step and self.offset + size > self._mapped:
            self._grow(self.offset + size)
        if self._left:
            raise Left(errno.EBADF, "the segment has been left")
        if self.map is None:
            self._write(data)
            return
        begin = self.offset
        end = begin + size
        self.map[begin:end] = data
        self.offset = end

    def allow(self, most: int) -> None:
        """Sets `room` to what is mapped, up to so many bytes of the segment."""
        self.room = min(self._mapped, most)

    def leave(self) -> int:
        """Gives back what was not needed; returns the file, to be closed by the caller."""
        self._left = True
        with suppress(OSError):
            self._unmap()
        return self.file

    def _grow(self, end: int) -> None:
        begin, size = self._mapped, self._mapped
        while size < end:
            size += min(self._step, max(size, _FIRST_BYTES))
        try:
            os.posix_fallocate(self.file, begin, size - begin)
            mapped = mmap.mmap(self.file, size)
            with suppress(OSError, ValueError):
                mapped.madvise(_POPULATE, begin, size - begin)
            self.map, self._mapped = mapped, size
        except (OSError, ValueError):
            # The disk is nearly full, or such a file may not be so large: from here on write by write.
            self._unmap()

    def _unmap(self) -> None:
        used, self._step = self._step, 0
        self.map, self._mapped, self.room = None, 0, 0
        if used:
            os.ftruncate(self.file, self.offset)

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self.file, data[written:] if written else data)
            self.offset += written
        except OSError:
            if written:  # as a whole, or not at all
                os.ftruncate(self.file, self.offset)
            raise


@lru_cache(8)
def _is_safe(device: int) -> bool:
    """Whether the file system of this device is one whose pages can be relied on."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                mount, _, system = line.partition(" - ")
                if mount.split(" ", 3)[2] == wanted:
                    return system.split(" ", 1)[0] in _SAFE
    except (OSError, IndexError):
        pass
    return False
