"""The runner's end of a command: with pipes of its own, or on a terminal of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pwd
import signal
import struct
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from cairn._attach.line import RunnerLine
from cairn._runner import guard
from cairn.scheduler.v1 import attach_pb2 as pb

HANG_UP_SECONDS = 5.0
_READ_BYTES = 64 * 1024
# What it left running may hold its pipes open; this long after its end they are read on.
_LAST_WORDS_SECONDS = 1.0
_LARGEST_SIZE = 10_000


class CannotStart(Exception):
    """The command cannot be started. The message is for people."""


async def run_command(line: RunnerLine, *, environment: Mapping[str, str], folder: Path) -> None:
    """Runs it from its start to its exit, or until the person has gone: then it is hung up.

    Raises CannotStart, and what the line raises; the command has ended then.
    """
    command = line.start.command
    start = _Terminal.start if command.terminal else _Pipes.start
    try:
        running = await start(command, environment=environment, folder=folder)
    except (OSError, ValueError) as error:
        raise CannotStart(_why(command, folder, error)) from error
    try:
        if await _attend(line, running):
            code = running.process.returncode or 0
            await line.say(
                pb.Output(exit=pb.Exit(code=128 - code if code < 0 else code, signal=max(0, -code)))
            )
    finally:
        await running.end(0 if line.attempt_ended else HANG_UP_SECONDS)


async def _attend(line: RunnerLine, running: _Running) -> bool:
    """Until the command has ended and all it wrote is on its way (True), or the person has gone."""
    listening = asyncio.create_task(_listen(line, running))
    telling = asyncio.create_task(_tell(line, running))
    try:
        await asyncio.wait({listening, telling}, return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            telling.result()
            return True
        listening.result()
        return False
    finally:
        for task in (listening, telling):
            task.cancel()
        await asyncio.gather(listening, telling, return_exceptions=True)


async def _listen(line: RunnerLine, running: _Running) -> None:
    """Hears all at once; data waits in a queue, which the window keeps short."""
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
    feeding = asyncio.create_task(_feed(line, running, waiting))
    try:
        async for item in line.inputs():
            match item.WhichOneof("input"):
                case "data":
                    waiting.put_nowait(item.data)
                case "end":
                    waiting.put_nowait(None)
                case "size":
                    running.resize(item.size)
                case "signal":
                    running.signal(item.signal)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _feed(line: RunnerLine, running: _Running, waiting: asyncio.Queue[bytes | None]) -> None:
    while (data := await waiting.get()) is not None:
        with contextlib.suppress(OSError):  # it does not read any more: what comes goes nowhere
            await running.write(data)
        await line.took(data)
    running.write_end()


async def _tell(line: RunnerLine, running: _Running) -> None:
    reading = [asyncio.create_task(work) for work in running.readers(line)]
    try:
        await running.process.wait()
        await asyncio.wait(reading, timeout=_LAST_WORDS_SECONDS)
        while any(not task.done() for task in reading) and running.moved():
            await asyncio.wait(reading, timeout=_LAST_WORDS_SECONDS)
        for task in reading:
            if task.done():
                task.result()
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)


class _Running:
    """A command that runs, in a session of its own."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._read = self._seen = 0

    async def write(self, data: bytes) -> None:
        """To its stdin. Raises OSError."""
        raise NotImplementedError

    def write_end(self) -> None:
        """No more input comes."""
        raise NotImplementedError

    def readers(self, line: RunnerLine) -> list[Coroutine[Any, Any, None]]:
        """What passes its output on until its end."""
        raise NotImplementedError

    def resize(self, size: pb.WindowSize) -> None:
        """Of its terminal."""

    def signal(self, number: int) -> None:
        """To its process group."""
        if self.process.returncode is None and 0 < number < signal.NSIG:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def moved(self) -> bool:
        """Whether anything was read since this was asked last."""
        moved, self._seen = self._read > self._seen, self._read
        return moved

    async def end(self, patience: float) -> None:
        """Hangs up on it if it still runs: SIGHUP, `patience` seconds, SIGKILL."""
        try:
            if self.process.returncode is None and patience:
                self.signal(signal.SIGHUP)
                async with asyncio.timeout(patience):
                    await self.process.wait()
        except TimeoutError:
            pass
        finally:
            self.signal(signal.SIGKILL)
            self.close()

    def close(self) -> None:
        """Gives back what it held."""


class _Pipes(_Running):
    @classmethod
    async def start(cls, command: pb.Command, *, environment: Mapping[str, str], folder: Path) -> _Pipes:
        """Raises OSError, ValueError."""
        process = await asyncio.create_subprocess_exec(
            *(command.argv or [_shell()]), cwd=folder, env=dict(environment), stdin=PIPE, stdout=PIPE,
            stderr=PIPE, start_new_session=True, preexec_fn=guard.die_with_parent(), limit=_READ_BYTES,
        )  # fmt: skip
        return cls(process)

    async def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    def write_end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def readers(self, line: RunnerLine) -> list[Coroutine[Any, Any, None]]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        return [
            self._pass_on(line, self.process.stdout),
            self._pass_on(line, self.process.stderr, error=True),
        ]

    async def _pass_on(self, line: RunnerLine, pipe: asyncio.StreamReader, *, error: bool = False) -> None:
        while data := await pipe.read(_READ_BYTES):
            self._read += len(data)
            await line.write(data, error=error)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


class _Terminal(_Running):
    def __init__(self, process: Process, master: int) -> None:
        super().__init__(process)
        self._master = master

    @classmethod
    async def start(cls, command: pb.Command, *, environment: Mapping[str, str], folder: Path) -> _Terminal:
        """Raises OSError, ValueError."""
        master, slave = os.openpty()
        try:
            os.set_blocking(master, False)
            _set_size(master, command.size)
            process = await asyncio.create_subprocess_exec(
                *(command.argv or [_shell()]), cwd=folder, stdin=slave, stdout=slave, stderr=slave,
                env={**environment, "TERM": command.term or "xterm"},
                start_new_session=True, preexec_fn=_on_terminal(guard.die_with_parent()),
            )  # fmt: skip
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        return cls(process, master)

    async def write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await _ready(self._master, writing=True)

    def write_end(self) -> None:
        """A terminal's input has no end."""

    def readers(self, line: RunnerLine) -> list[Coroutine[Any, Any, None]]:
        return [self._pass_on(line)]

    async def _pass_on(self, line: RunnerLine) -> None:
        while True:
            try:
                data = os.read(self._master, _READ_BYTES)
            except BlockingIOError:
                await _ready(self._master)
                continue
            except OSError:  # EIO: nobody has the terminal open any more
                return
            self._read += len(data)
            await line.write(data)

    def resize(self, size: pb.WindowSize) -> None:
        _set_size(self._master, size)

    def close(self) -> None:
        os.close(self._master)


def _on_terminal(first: Callable[[], None]) -> Callable[[], None]:
    def in_child() -> None:
        first()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    return in_child


def _set_size(terminal: int, size: pb.WindowSize) -> None:
    rows, columns = min(size.rows, _LARGEST_SIZE) or 24, min(size.columns, _LARGEST_SIZE) or 80
    if rows > 0 and columns > 0:
        with contextlib.suppress(OSError):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


async def _ready(descriptor: int, *, writing: bool = False) -> None:
    """Returns once it can be read, or written to."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    add = loop.add_writer if writing else loop.add_reader
    remove = loop.remove_writer if writing else loop.remove_reader
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        remove(descriptor)


def _shell() -> str:
    shell = pwd.getpwuid(os.getuid()).pw_shell
    usable = shell and os.access(shell, os.X_OK) and not shell.endswith(("nologin", "false"))
    return shell if usable else "/bin/sh"


def _why(command: pb.Command, folder: Path, error: Exception) -> str:
    program = command.argv[0] if command.argv else _shell()
    if isinstance(error, FileNotFoundError):
        if not folder.is_dir():
            return "the attempt's folder is not there yet"
        return f"there is no program {program!r} in the job's environment"
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"{program!r} cannot be started: {reason}"
