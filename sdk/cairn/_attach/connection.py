"""The runner's end of a connection to a port of its node."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from cairn._attach.line import RunnerLine
from cairn.scheduler.v1 import attach_pb2 as pb

CONNECT_SECONDS = 10.0
_READ_BYTES = 64 * 1024


class Refused(Exception):
    """Nothing listens there. The message is for people."""


async def run_connection(line: RunnerLine) -> None:
    """Carries one connection until both of its ways have ended, or the person has gone.

    Raises Refused, and what the line raises.
    """
    reader, writer = await _connect(line.start.port)
    waiting: asyncio.Queue[bytes | None] = asyncio.Queue()
    listening = asyncio.create_task(_listen(line, waiting))
    carrying = asyncio.gather(_feed(line, writer, waiting), _tell(line, reader))
    either: set[asyncio.Future[Any]] = {listening, carrying}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not carrying.done():
            return listening.result()  # the person has gone
        with contextlib.suppress(OSError):  # the far side has reset it
            carrying.result()
        await line.say(pb.Output(exit=pb.Exit()))
    finally:
        listening.cancel()
        carrying.cancel()
        await asyncio.gather(listening, carrying, return_exceptions=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            # By name: a server may listen on either loopback address.
            return await asyncio.open_connection("localhost", port, limit=_READ_BYTES)
    except OSError as error:
        raise Refused(f"nothing listens on port {port} of the job's node") from error


async def _listen(line: RunnerLine, waiting: asyncio.Queue[bytes | None]) -> None:
    """Hears all at once; data waits in the queue, which the window keeps short."""
    async for item in line.inputs():
        match item.WhichOneof("input"):
            case "data":
                waiting.put_nowait(item.data)
            case "end":
                waiting.put_nowait(None)


async def _feed(line: RunnerLine, writer: asyncio.StreamWriter, waiting: asyncio.Queue[bytes | None]) -> None:
    while (data := await waiting.get()) is not None:
        writer.write(data)
        await writer.drain()
        await line.took(data)
    writer.write_eof()


async def _tell(line: RunnerLine, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(_READ_BYTES):
        await line.write(data)
    await line.say(pb.Output(end=True))
