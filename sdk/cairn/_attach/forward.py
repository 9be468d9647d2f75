"""A person's end of forwarded ports: each local connection becomes a session of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cairn._attach.line import ATTACH, PersonLine
from cairn._http import ApiError, Unreachable
from cairn._stream import Stream
from cairn.scheduler.v1 import attach_pb2 as pb

_READ_BYTES = 64 * 1024
_HOST = "127.0.0.1"
_FINAL = frozenset({"JOB_NOT_FOUND", "JOB_ENDED"})

Complain = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Far:
    """The place that a port is forwarded to."""

    url: str
    token: str
    # teams/{team}/jobs/{job}
    job: str
    rank: int
    port: int

    async def connect(self) -> tuple[Stream, PersonLine]:
        """One connection to it. Raises ApiError, Unreachable."""
        stream = await Stream.open(self.url, ATTACH, self.token)
        try:
            start = pb.AttachStart(job=self.job, rank=self.rank, port=self.port)
            return stream, await PersonLine.begin(stream, start)
        except BaseException:
            await stream.close()
            raise


class Forward:
    """One local port that leads to a port of a job's node; `listen`, then enter it: its end closes all.

    `complain` is told, once in a row, why connections fail; `ended` is set when none can succeed any more.
    """

    def __init__(self, far: Far, *, local: int, complain: Complain) -> None:
        self._far = far
        self._wanted = local
        self._complain = complain
        self._last = ""
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.ended = asyncio.Event()

    @property
    def port(self) -> int:
        """The local one."""
        return int(self._server.sockets[0].getsockname()[1])

    async def listen(self) -> None:
        """On this machine's loopback alone. Raises OSError for a port that is taken."""
        self._server = await asyncio.start_server(self._accept, _HOST, self._wanted, limit=_READ_BYTES)

    async def __aenter__(self) -> Forward:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._carry(reader, writer)
            self._last = ""
        except (ApiError, Unreachable) as error:
            if isinstance(error, ApiError) and error.reason in _FINAL:
                self.ended.set()
            told = error.detail if isinstance(error, ApiError) else str(error)
            if told != self._last:
                self._complain(told)
            self._last = told
        except (OSError, asyncio.CancelledError):
            pass  # the local side has gone, or we end
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream, line = await self._far.connect()
        async with stream:
            sending = asyncio.create_task(_send(line, reader))
            receiving = asyncio.create_task(_receive(line, writer))
            both: set[asyncio.Future[Any]] = {sending, receiving}
            try:
                done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if sending in done:
                    sending.result()
                await receiving
            finally:
                for task in (sending, receiving):
                    task.cancel()
                await asyncio.gather(sending, receiving, return_exceptions=True)


async def _send(line: PersonLine, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_READ_BYTES):
        await line.write(data)
    await line.say(pb.Input(end=True))


async def _receive(line: PersonLine, writer: asyncio.StreamWriter) -> None:
    """Hears all at once; what is to be written waits in a queue, which the window keeps short."""
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
    writing = asyncio.create_task(_write(line, writer, waiting))
    try:
        async for output in line.outputs():
            match output.WhichOneof("output"):
                case "data":
                    waiting.put_nowait(output.data)
                case "end":
                    waiting.put_nowait(None)
                case "exit":
                    break
        waiting.put_nowait(None)
        await writing
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def _write(
    line: PersonLine, writer: asyncio.StreamWriter, waiting: asyncio.Queue[bytes | None]
) -> None:
    while (data := await waiting.get()) is not None:
        writer.write(data)
        await writer.drain()
        await line.took(data)
    if not writer.is_closing():
        writer.write_eof()
