"""What the ranks print, line by line, into the spool."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn._env import LEAST_SECRET
from cairn._frames import LineRecord
from cairn._spool import Writer

STDOUT, STDERR, PLATFORM = 1, 2, 3

MAX_LINE_BYTES = 64 * 1024
LAST_LINES = 20
# What may come at once, and what is let through for good, of all ranks together.
BURST_LINES, BURST_BYTES = 100_000, 64 * 2**20
LINES_A_SECOND, BYTES_A_SECOND = 5_000, 2 * 2**20
# What waits here for a bus that is away; beyond it lines are left out, metrics are not.
MOST_SPOOL_BYTES = 2**30
_TAIL_BYTES = 64 * 1024
_ROOM_CHECK_SECONDS = 1.0
_PROGRESS_SECONDS = 5.0
_SECRET_CHECK_SECONDS = 1.0


class LineSplitter:
    """Bytes of one stream into lines without their ends.

    A carriage return begins the line anew, as on a terminal: of a progress bar the last state is kept, and
    one on the way every five seconds. Of a line beyond 64 KiB the rest is left out and counted.
    """

    def __init__(self) -> None:
        self._begun = b""
        self._cut = 0
        self._shown = 0.0

    def feed(self, data: bytes, now: float) -> list[str]:
        """The lines that `data` completes; `now` in seconds."""
        if self._cut and b"\n" not in data and b"\r" not in data:
            self._cut += len(data)
            return []
        *whole, rest = data.split(b"\n")
        lines = []
        for part in whole:
            self._add(part)
            lines.append(self._take(self._last_state(self._begun.removesuffix(b"\r"))))
        self._add(rest)
        if b"\r" in self._begun[:-1]:
            before, _, after = self._begun[:-1].rpartition(b"\r")
            if now - self._shown >= _PROGRESS_SECONDS and (state := self._last_state(before)):
                self._shown = now
                lines.append(_text(state))
            self._begun = after + self._begun[-1:]
        return lines

    def end(self) -> list[str]:
        """The last line, if it has no end."""
        state = self._last_state(self._begun.removesuffix(b"\r"))
        return [self._take(state)] if state else []

    def _add(self, data: bytes) -> None:
        if self._cut and b"\r" not in data:
            self._cut += len(data)
            return
        self._begun += data
        if len(self._begun) > MAX_LINE_BYTES:
            newest = self._begun.rpartition(b"\r")[2]
            self._cut = max(0, len(newest) - MAX_LINE_BYTES)
            self._begun = newest[:MAX_LINE_BYTES]

    def _take(self, line: bytes) -> str:
        text = _text(line) + (f" ... [{self._cut:,} bytes cut]" if self._cut else "")
        self._begun, self._cut = b"", 0
        return text

    @staticmethod
    def _last_state(line: bytes) -> bytes:
        return line.rpartition(b"\r")[2]


class Budget:
    """How much may be recorded: a burst, then a rate; `room` says whether the spool may still grow.

    Once it is used up nothing passes until a second's worth has come together, so that what is left out
    comes in few pieces.
    """

    def __init__(self, *, room: Callable[[], bool] = lambda: True) -> None:
        self._lines: float = BURST_LINES
        self._bytes: float = BURST_BYTES
        self._room = room
        self._roomy, self._checked = True, 0.0
        self._at = 0.0
        self.exhausted = False

    def take(self, lines: int, size: int, now: float) -> bool:
        """Whether so much may pass at `now` (seconds that only grow)."""
        if self._at:
            self._lines = min(BURST_LINES, self._lines + (now - self._at) * LINES_A_SECOND)
            self._bytes = min(BURST_BYTES, self._bytes + (now - self._at) * BYTES_A_SECOND)
        self._at = now
        if now - self._checked >= _ROOM_CHECK_SECONDS:
            self._roomy, self._checked = self._room(), now
        least = (LINES_A_SECOND, BYTES_A_SECOND) if self.exhausted else (lines, size)
        self.exhausted = not self._roomy or self._lines < least[0] or self._bytes < least[1]
        if not self.exhausted:
            self._lines -= lines
            self._bytes -= size
        return not self.exhausted


@dataclass(slots=True)
class LeftOut:
    """What a rank printed and nobody recorded."""

    lines: int = 0
    bytes: int = 0


class Secrets:
    """What is kept out of what is recorded: the run token, those that it replaced, the task's secrets."""

    def __init__(self, token_file: Path | None, values: Iterable[str] = ()) -> None:
        self._file = token_file
        self._known: list[str] = []
        # Lines are recorded one by one, so of a value of several lines each is kept out.
        lines = {line.strip() for value in values for line in value.splitlines()}
        self._values = sorted((line for line in lines if len(line) >= LEAST_SECRET), key=len, reverse=True)
        self._seen: tuple[int, int] = (0, 0)
        self._checked = float("-inf")

    def mask(self, text: str) -> str:
        now = time.monotonic()
        if now - self._checked >= _SECRET_CHECK_SECONDS:
            self._checked = now
            self._read()
        for secret in (*self._known, *self._values):
            if secret in text:
                text = text.replace(secret, "********")
        return text

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            status = os.stat(self._file)
            if self._seen == (status.st_mtime_ns, status.st_ino):
                return
            self._seen = (status.st_mtime_ns, status.st_ino)
            secret = self._file.read_text().strip()
        except OSError:
            return
        if len(secret) >= 8 and secret not in self._known:
            self._known = [secret, *self._known][:10]


class Console:
    """Numbers the lines of each rank, masks secrets, and records them."""

    def __init__(
        self, writer: Writer, *, mask: Callable[[str], str], clock: Callable[[], float] = time.time,
        first: int = 0,
    ) -> None:  # fmt: skip
        """`first`: what the first rank here is called; on a cluster each node has one of them."""
        self._writer = writer
        self._first = first
        self._mask = mask
        self._clock = clock
        self._numbers: dict[int, int] = {}
        self._splitters: dict[tuple[int, int], LineSplitter] = {}
        self._last: dict[int, deque[str]] = {}
        self._budget = Budget(room=lambda: spool_bytes(writer.folder) < MOST_SPOOL_BYTES)
        self._left_out: dict[int, LeftOut] = {}

    def feed(self, rank: int, stream: int, data: bytes) -> None:
        """What a rank wrote; an empty `data` is the stream's end."""
        splitter = self._splitters.setdefault((rank, stream), LineSplitter())
        now = self._clock()
        count = data.count(b"\n")
        # The middle of a long line costs nothing: no more than its beginning is kept.
        recorded = not count or self._budget.take(count, len(data), time.monotonic())
        if recorded or not data:
            if count or not data:
                self._tell_left_out(rank)
        else:
            self._leave_out(rank, count, len(data))
            data = data[-_TAIL_BYTES:]
        lines = splitter.feed(data, now) if data else splitter.end()
        if lines:
            masked = [self._mask(line) for line in (lines if recorded else lines[-LAST_LINES:])]
            self._last.setdefault(rank, deque(maxlen=LAST_LINES)).extend(masked[-LAST_LINES:])
            if recorded or not data:
                self._record(rank, stream, masked, now)

    def _leave_out(self, rank: int, lines: int, size: int) -> None:
        left = self._left_out.setdefault(rank, LeftOut())
        left.lines += lines
        left.bytes += size

    def _tell_left_out(self, rank: int) -> None:
        """Says in their place how many lines are missing."""
        if (left := self._left_out.pop(rank, None)) is None:
            return
        text = f"{left.lines:,} lines ({left.bytes / 2**20:,.1f} MiB) left out here: more than is recorded"
        first = self._numbers[rank] = self._numbers.get(rank, 0) + 1
        self._writer.lines([LineRecord(self._clock(), PLATFORM, rank, first, text)])

    def say(self, text: str) -> None:
        """The platform's own words."""
        self._record(0, PLATFORM, [self._mask(text)], self._clock())

    def last_lines(self, rank: int) -> list[str]:
        return list(self._last.get(rank, ()))

    def _record(self, rank: int, stream: int, lines: Sequence[str], now: float) -> None:
        first = self._numbers.get(rank, 0) + 1
        self._numbers[rank] = first + len(lines) - 1
        named = self._first + rank
        self._writer.lines(
            [LineRecord(now, stream, named, first + place, line) for place, line in enumerate(lines)]
        )


def spool_bytes(folder: Path) -> int:
    """How much of a writer's segments lies on the disk."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat().st_size for entry in entries)
    except OSError:  # not there yet, or one was taken away this moment
        return 0


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")
