"""A program on a terminal of its own, as a person has it: what it shows can be waited for, keys be typed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType


class Terminal:
    """A process on a new terminal, for the block; what is left of it is killed."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], rows: int = 30, columns: int = 100
    ) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], list(command), dict(env))
        self.shown = ""
        self._seen = 0
        self.resize(rows, columns)

    def resize(self, rows: int, columns: int) -> None:
        """As dragging the window's corner does."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        """Types these keys; Enter is ``\\r``."""
        os.write(self._fd, keys.encode())

    def until(self, text: str, *, timeout: float = 60.0) -> str:
        """Waits until it shows this, behind what was waited for before; gives what came up to there."""
        end = time.monotonic() + timeout
        while text not in self.shown[self._seen :]:
            left = end - time.monotonic()
            assert left > 0, f"{text!r} was not shown: {self.shown[-2000:]!r}"
            assert self._read(left), f"{text!r} was not shown before it ended: {self.shown[-2000:]!r}"
        place = self.shown.index(text, self._seen) + len(text)
        came, self._seen = self.shown[self._seen : place], place
        return came

    def wait(self, *, timeout: float = 60.0) -> int:
        """Its exit code, once it has ended."""
        end = time.monotonic() + timeout
        while self._read(max(0.1, end - time.monotonic())):
            assert time.monotonic() < end, f"it did not end: {self.shown[-2000:]!r}"
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def _read(self, timeout: float) -> bool:
        if not select.select([self._fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # nobody has it open any more
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
        os.close(self._fd)
