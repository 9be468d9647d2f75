"""A person's end of a command: their stdin, stdout, stderr, window and signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from typing import Any

from cairn._attach.line import PersonLine
from cairn._http import ApiError, Unreachable
from cairn.scheduler.v1 import attach_pb2 as pb

_READ_BYTES = 64 * 1024
_LEAVE = b"\r~."

Write = Callable[[int, bytes], None]
"""Gets what the command wrote, with 1 for stdout and 2 for stderr; for a thread, may block."""


class Left(Exception):
    """The person went away before the command ended."""

    def __init__(self, code: int) -> None:
        super().__init__("left")
        self.code = code


def window_size() -> pb.WindowSize:
    """That of the terminal here; COLUMNS and LINES, where they are exported, say what it once was."""
    try:
        columns, rows = os.get_terminal_size(sys.stdin.fileno())
    except (OSError, ValueError):
        columns, rows = shutil.get_terminal_size()
    return pb.WindowSize(rows=rows, columns=columns)


def write_through(descriptor: int, data: bytes) -> None:
    """To our own stdout or stderr, all of it."""
    while data:
        data = data[os.write(descriptor, data) :]


async def converse(line: PersonLine, *, terminal: bool, stdin: bool, write: Write = write_through) -> pb.Exit:
    """Until the command ends. Raises Left, ApiError, Unreachable, and BrokenPipeError for our own stdout."""
    loop = asyncio.get_running_loop()
    talk = _Talk(line)
    hearing = asyncio.create_task(talk.hear(write))
    works: list[asyncio.Task[Any]] = [hearing, asyncio.create_task(talk.left.wait())]
    with _handlers(loop, talk, terminal=terminal), _raw(stdin and terminal):
        if stdin:
            reading = threading.Thread(
                target=_read_stdin, args=(loop, talk), kwargs={"terminal": terminal}, daemon=True
            )
            reading.start()
        else:
            await line.say(pb.Input(end=True))
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            if not hearing.done():
                raise Left(talk.code)
            return hearing.result()
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)


class _Talk:
    """What is said and heard in one session."""

    def __init__(self, line: PersonLine) -> None:
        self.line = line
        self.left = asyncio.Event()
        self.code = 0
        self._asked = False
        self._saying: set[asyncio.Task[None]] = set()

    async def hear(self, write: Write) -> pb.Exit:
        """Hears all at once; what is to be written waits in a queue, which the window keeps short."""
        waiting: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        writing = asyncio.create_task(self._write(waiting, write))
        try:
            end = asyncio.create_task(self._listen(waiting))
            await asyncio.wait({writing, end}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                end.cancel()
                await asyncio.gather(end, return_exceptions=True)
                writing.result()  # our stdout is closed
            try:
                return end.result()
            finally:
                waiting.put_nowait(None)
                await writing
        finally:
            writing.cancel()

    async def _listen(self, waiting: asyncio.Queue[tuple[int, bytes] | None]) -> pb.Exit:
        async for output in self.line.outputs():
            match output.WhichOneof("output"):
                case "data":
                    waiting.put_nowait((1, output.data))
                case "error_data":
                    waiting.put_nowait((2, output.error_data))
                case "exit":
                    return output.exit
        raise Unreachable("the platform", ConnectionResetError("the session ended without an exit code"))

    async def _write(self, waiting: asyncio.Queue[tuple[int, bytes] | None], write: Write) -> None:
        while (item := await waiting.get()) is not None:
            await asyncio.to_thread(write, *item)
            with contextlib.suppress(ApiError, Unreachable):  # `_listen` tells of it
                await self.line.took(item[1])

    def leave(self, code: int) -> None:
        """Gives the command up."""
        self.code = code
        self.left.set()

    def interrupt(self) -> None:
        """Ctrl-C without a terminal there: the first goes to the command, the second leaves it."""
        if self._asked:
            self.leave(130)
        self._asked = True
        self.say(pb.Input(signal=signal.SIGINT))

    def say(self, item: pb.Input) -> None:
        """Sends it, soon."""
        task = asyncio.create_task(self._say(item))
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    async def _say(self, item: pb.Input) -> None:
        with contextlib.suppress(ApiError, Unreachable):
            await self.line.say(item)


@contextlib.contextmanager
def _handlers(loop: asyncio.AbstractEventLoop, talk: _Talk, *, terminal: bool) -> Iterator[None]:
    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGTERM: lambda: talk.leave(143),
        signal.SIGHUP: lambda: talk.leave(129),
        signal.SIGINT: talk.interrupt,
    }
    if terminal:
        handlers[signal.SIGWINCH] = lambda: talk.say(pb.Input(size=window_size()))
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """Our terminal passes each key on, Ctrl-C included; it is as it was afterwards, come what may."""
    if not wanted or not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is kept
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _read_stdin(loop: asyncio.AbstractEventLoop, talk: _Talk, *, terminal: bool) -> None:
    """In a thread, as a file cannot be waited for; as fast as the command reads."""
    tail = b"\r"
    with contextlib.suppress(ApiError, Unreachable, RuntimeError, asyncio.CancelledError):
        while data := _read():
            # Enter ~ . leaves, as in ssh: for when nothing else gets through.
            tail += data.replace(b"\n", b"\r")
            if terminal and _LEAVE in tail:
                loop.call_soon_threadsafe(talk.leave, 255)
                return
            tail = tail[-len(_LEAVE) + 1 :]
            asyncio.run_coroutine_threadsafe(talk.line.write(data), loop).result()
        asyncio.run_coroutine_threadsafe(talk.line.say(pb.Input(end=True)), loop).result()


def _read() -> bytes:
    try:
        return os.read(0, _READ_BYTES)
    except OSError:
        return b""
