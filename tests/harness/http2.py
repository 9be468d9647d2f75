"""HTTP/2 as no client of gRPC would send it: frames by hand, to a port of a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

DATA, HEADERS, RESET, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name: str, value: str) -> bytes:
    """One header as HPACK writes it without a table."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call(method: str, token: str) -> bytes:
    """The headers of a call."""
    named = {
        ":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost", "te": "trailers",
        "content-type": "application/grpc", "authorization": f"Bearer {token}",
    }  # fmt: skip
    return b"".join(field(name, value) for name, value in named.items())


async def ended(readers: Sequence[asyncio.StreamReader], *, at_least: int) -> None:
    """Returns once the server has ended so many streams, of all connections."""
    streams: set[tuple[int, int]] = set()
    enough = asyncio.Event()

    async def read(number: int, reader: asyncio.StreamReader) -> None:
        while True:
            head = await reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            if kind == RESET or (kind == HEADERS and flags & END_STREAM):
                streams.add((number, stream))
            if len(streams) >= at_least:
                enough.set()

    async with asyncio.TaskGroup() as tasks:
        reading = [tasks.create_task(read(number, reader)) for number, reader in enumerate(readers)]
        await enough.wait()
        for task in reading:
            task.cancel()


@asynccontextmanager
async def connection(
    port: int, *, source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has said hello."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    writer.write(_PREFACE + frame(SETTINGS, 0, 0))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def pour(port: int, pieces: list[bytes], *, until_cut: bool = False) -> None:
    """Sends all of it as fast as it is taken, reading what comes; at the end waits until it is cut off."""
    async with connection(port) as (reader, writer):

        async def read() -> None:
            with suppress(ConnectionError):
                while await reader.read(65536):
                    pass

        reading = asyncio.create_task(read())
        try:
            for start in range(0, len(pieces), 100):
                writer.write(b"".join(pieces[start : start + 100]))
                await writer.drain()
            if until_cut:
                await reading
        except ConnectionError:
            return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
