"""Digests of files that were read before, on this machine's disk, so that a file that stayed as it was is not
read again: best effort, bounded.

A file is known by its device, inode, size and time of writing, wherever it is called to by now. One that was
written within the clock's grain of its reading is not noted: it could have been written again unseen.
``CAIRN_DIGESTS`` is the file that they are in (0: none), else it is in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cairn._transfer import Part, Stamp

if TYPE_CHECKING:
    import sqlite3

# Smaller files are read faster than looked up.
LEAST = 64 * 1024
_DAYS_KEPT = 30
_WAIT_SECONDS = 0.5
# Files between two transactions, of which each brings what it has to other processes.
_TOGETHER = 256
# How much older than its reading a file has to be, in ns: where its times have no fractions they are coarse.
_FINE, _COARSE = 100_000_000, 2_000_000_000


class Digests:
    """For one thread. A file that cannot be used, or is another's for long, is left alone."""

    def __init__(self, path: Path) -> None:
        self._db: sqlite3.Connection | None = None
        self._unsaved = 0
        try:
            self._db = _opened(path)
        except (
            Exception
        ):  # a broken file, a disk without locks, a Python without sqlite3: nothing is known then
            self._db = None

    @staticmethod
    def of(environ: Mapping[str, str]) -> Digests | None:
        """Where the environment has it."""
        told = environ.get("CAIRN_DIGESTS", "")
        if told == "0":
            return None
        base = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return Digests(Path(told or os.path.join(base, "cairn", "digests.sqlite3")))

    def find(self, stamp: Stamp) -> tuple[Part, ...] | None:
        """The parts of the file, if it was read as it is now."""
        if self._db is None or stamp[2] < LEAST:
            return None
        try:
            row = self._db.execute(
                "SELECT parts FROM digests WHERE device = ? AND inode = ? AND size = ? AND written = ?",
                tuple(map(_signed, stamp)),
            ).fetchone()
            return None if row is None else tuple(_parts(str(row[0]), stamp[2]))
        except Exception:
            return None

    def note(self, stamp: Stamp, began: int, digest: str, parts: tuple[Part, ...]) -> None:
        """A file was read; ``began`` is when that was begun, in ns since the epoch."""
        grain = _FINE if stamp[3] % 1_000_000_000 else _COARSE
        if self._db is None or stamp[2] < LEAST or stamp[3] + grain > began:
            return
        with contextlib.suppress(Exception):
            self._db.execute(
                "INSERT OR REPLACE INTO digests (device, inode, size, written, digest, parts, noted)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*map(_signed, stamp), digest, " ".join(f"{part.digest}:{part.size}" for part in parts),
                 int(time.time())),
            )  # fmt: skip
            self._unsaved += stamp[2] // (64 * LEAST) + 1
            if self._unsaved >= _TOGETHER:
                self._save()

    def close(self) -> None:
        """Saves what was noted."""
        if self._db is not None:
            with contextlib.suppress(Exception):
                self._save()
                self._db.close()
        self._db = None

    def _save(self) -> None:
        if self._db is not None:
            self._db.commit()
            self._unsaved = 0


def _opened(path: Path) -> sqlite3.Connection:
    import sqlite3

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    db = sqlite3.connect(path, timeout=_WAIT_SECONDS)
    db.execute("PRAGMA synchronous = OFF")  # what a power cut takes is read again
    db.execute(
        "CREATE TABLE IF NOT EXISTS digests (device INTEGER, inode INTEGER, size INTEGER, written INTEGER,"
        " digest TEXT, parts TEXT, noted INTEGER, PRIMARY KEY (device, inode))"
    )
    db.execute("DELETE FROM digests WHERE noted < ?", (int(time.time()) - _DAYS_KEPT * 86_400,))
    db.commit()
    return db


def _signed(number: int) -> int:
    """As SQLite has it: inodes go beyond its largest number on some disks."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _parts(text: str, size: int) -> list[Part]:
    """Raises ValueError for what is none."""
    parts = [Part(digest, int(count)) for digest, _, count in (each.partition(":") for each in text.split())]
    if sum(part.size for part in parts) != size or any(len(part.digest) != 64 for part in parts):
        raise ValueError("the parts do not add up")
    return parts
