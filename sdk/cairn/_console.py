"""`init(console="fd")`: what a process and its children print is recorded, whoever writes it to the terminal.

File descriptors 1 and 2 become a pipe (a pseudo-terminal where they were a terminal, so that progress bars
and colours stay) to a process of their own, `cairn._tee`, which passes everything on and records it. A thread
could not do that: code that prints while it holds the interpreter's lock would wait for ever. And what was
printed before a kill -9 is still recorded.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cairn._marker import Marker

_log = logging.getLogger("cairn")

DONE_SECONDS = 2.0
_CHUNK = 256 * 1024
_START = "import sys; sys.path.insert(0, sys.argv[1]); from cairn._tee import main; main(sys.argv[2])"


@dataclass(slots=True)
class _Stream:
    """`fd` (1 or 2) leads to `read` now, `saved` is where it led before."""

    fd: int
    saved: int
    read: int


class ConsoleCapture:
    """Captures the descriptors 1 and 2 of this process until `stop`."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._owner = os.getpid()
        self._marker = b"\0" + secrets.token_hex(16).encode() + b"\0"
        self._streams: list[_Stream] = []
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._restored = False
        self._process: subprocess.Popen[bytes] | None = None
        self._status = -1

    def start(self) -> None:
        """Raises OSError or RuntimeError, with everything as it was, where it cannot be done."""
        self._flush()
        try:
            for fd in (1, 2):
                with suppress(OSError):  # a daemon has closed it
                    self._streams.append(_redirect(fd))
            self._status, told = os.pipe()
            try:
                self._process = self._spawn(told)
            finally:
                os.close(told)
            threading.Thread(target=self._watch, name="cairn-console", daemon=True).start()
        except (OSError, RuntimeError):
            self._restore()
            raise

    def stop(self) -> None:
        """Gives the descriptors back, and waits 2 s at most until what was printed is recorded."""
        if self._owner != os.getpid() or self._process is None:
            return
        self._flush()
        with self._lock:
            for stream in () if self._restored else self._streams:
                with suppress(OSError):
                    os.write(stream.fd, self._marker)
        self._restore()
        if not self._done.wait(DONE_SECONDS):
            _log.warning("cairn: the end of what was printed may be missing from the run")
        try:
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:  # a child still prints, and is passed on for as long as it does
            self._process.returncode = 0

    def _spawn(self, told: int) -> subprocess.Popen[bytes]:
        order = {
            "spool": str(self._spool), "marker": self._marker.hex(), "status": told,
            "streams": [[stream.read, stream.saved, stream.fd] for stream in self._streams],
        }  # fmt: skip
        fds = [told, *(fd for stream in self._streams for fd in (stream.read, stream.saved))]
        return subprocess.Popen(
            [sys.executable, "-c", _START, str(Path(__file__).parents[1]), json.dumps(order)],
            pass_fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            # Ctrl-C is for the training; this one ends when nobody prints any more.
            start_new_session=True,
        )  # fmt: skip

    def _watch(self) -> None:
        """Hears that all is recorded; where the other process dies first, everything goes on without it."""
        with suppress(OSError):
            finished = os.read(self._status, 1) == b"d"
            os.close(self._status)
            if finished:
                self._done.set()
                self._close()
                return
        _log.warning("cairn: what is printed is no longer recorded: the process that did has ended")
        self._restore()
        self._done.set()
        copiers = [
            threading.Thread(target=self._pass_on, args=(each,), daemon=True) for each in self._streams
        ]
        for copier in copiers:
            copier.start()

    def _pass_on(self, stream: _Stream) -> None:
        """What still comes by the pipe: children have it from before."""
        marker = Marker(self._marker)
        with suppress(OSError):
            while data := os.read(stream.read, _CHUNK):
                before, _, after = marker.split(data)
                os.write(stream.saved, before + after)

    def _restore(self) -> None:
        with self._lock:
            self._restored = True
            for stream in self._streams:
                with suppress(OSError):
                    os.dup2(stream.saved, stream.fd, inheritable=True)

    def _close(self) -> None:
        for stream in self._streams:
            for fd in (stream.read, stream.saved):
                with suppress(OSError):
                    os.close(fd)

    @staticmethod
    def _flush() -> None:
        for file in (sys.stdout, sys.stderr):
            with suppress(Exception):  # replaced by whatever a user liked, or closed
                file.flush()
        with suppress(Exception):
            import ctypes

            ctypes.CDLL(None).fflush(None)  # what C code printed lies in a buffer of its own


def _redirect(fd: int) -> _Stream:
    saved = os.dup(fd)
    try:
        read, write = _pseudo_terminal(saved) if os.isatty(saved) else os.pipe()
    except OSError:
        os.close(saved)
        raise
    os.dup2(write, fd, inheritable=True)
    os.close(write)
    return _Stream(fd, saved, read)


def _pseudo_terminal(like: int) -> tuple[int, int]:
    """A terminal of the same size, that changes no byte on its way."""
    import fcntl
    import pty
    import termios
    import tty

    master, slave = pty.openpty()
    tty.setraw(slave)
    size = fcntl.ioctl(like, termios.TIOCGWINSZ, b"\0" * 8)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    return master, slave
