"""Signals as a wakeable file: the main loop waits for output, ends of children and requests in one place."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class Signals:
    """Remembers that it was told to stop; `file` becomes readable at SIGTERM, SIGINT, SIGCHLD and `wake`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self.file, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def install(self) -> None:
        """Takes the signals over. For the main thread."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # a handler, or nothing would be written
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    @property
    def stop_asked(self) -> bool:
        return self._stop.is_set()

    def ask(self) -> None:
        """As a SIGTERM does; from any thread."""
        self._stop.set()
        try:
            os.write(self._wake, b"\0")
        except BlockingIOError:
            pass  # it is readable already

    def pause(self, seconds: float) -> bool:
        """Waits, but not beyond a request to stop; returns whether there is one."""
        return self._stop.wait(seconds)

    def wake(self) -> None:
        """Makes `file` readable. For any thread."""
        try:
            os.write(self._wake, b"w")
        except BlockingIOError:
            pass  # it is readable

    def clear(self) -> None:
        """Empties the file."""
        try:
            while os.read(self.file, 4096):
                pass
        except BlockingIOError:
            pass

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()
