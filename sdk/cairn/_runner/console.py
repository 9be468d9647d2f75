"""What the ranks print, line by line, into the spool."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from cairn._frames import LineRecord
from cairn._spool import Writer

STDOUT, STDERR, PLATFORM = 1, 2, 3

MAX_LINE_BYTES = 64 * 1024
LAST_LINES = 20
_CUT = " ... [cut]"
_PROGRESS_SECONDS = 5.0
_SECRET_CHECK_SECONDS = 1.0


class LineSplitter:
    """Bytes of one stream into lines without their ends.

    A carriage return begins the line anew, as on a terminal: of a progress bar the last state is kept, and
    one on the way every five seconds. The part of a line beyond 64 KiB is left out.
    """

    def __init__(self) -> None:
        self._begun = b""
        self._cut = False
        self._shown = 0.0

    def feed(self, data: bytes, now: float) -> list[str]:
        """The lines that `data` completes; `now` in seconds."""
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
        self._begun += data
        if len(self._begun) > MAX_LINE_BYTES:
            newest = self._begun.rpartition(b"\r")[2]
            self._cut = len(newest) > MAX_LINE_BYTES
            self._begun = newest[:MAX_LINE_BYTES]

    def _take(self, line: bytes) -> str:
        text = _text(line) + (_CUT if self._cut else "")
        self._begun, self._cut = b"", False
        return text

    @staticmethod
    def _last_state(line: bytes) -> bytes:
        return line.rpartition(b"\r")[2]


class Secrets:
    """The run token and those that it replaced, to be kept out of what is recorded."""

    def __init__(self, token_file: Path) -> None:
        self._file = token_file
        self._known: list[str] = []
        self._seen: tuple[int, int] = (0, 0)
        self._checked = float("-inf")

    def mask(self, text: str) -> str:
        now = time.monotonic()
        if now - self._checked >= _SECRET_CHECK_SECONDS:
            self._checked = now
            self._read()
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, "********")
        return text

    def _read(self) -> None:
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

    def feed(self, rank: int, stream: int, data: bytes) -> None:
        """What a rank wrote; an empty `data` is the stream's end."""
        splitter = self._splitters.setdefault((rank, stream), LineSplitter())
        now = self._clock()
        lines = splitter.feed(data, now) if data else splitter.end()
        if lines:
            masked = [self._mask(line) for line in lines]
            self._last.setdefault(rank, deque(maxlen=LAST_LINES)).extend(masked[-LAST_LINES:])
            self._record(rank, stream, masked, now)

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


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")
