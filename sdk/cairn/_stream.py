"""A stream both ways through the gateway: a WebSocket of the standard library alone, one message a frame.

For asyncio. Works wherever HTTP does, with the same address and token; the client pings, so that no proxy
takes a quiet stream for a dead one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import ssl
import struct
from urllib.parse import urlsplit

from cairn._http import ApiError, Unreachable

OPEN_SECONDS = 15.0
PING_SECONDS = 20.0
# Nothing came for this long, though the other side was asked for a sign of life: it is gone.
SILENT_SECONDS = 65.0
CHUNK = 32 * 1024
"""Bytes of data in one message, at most."""
NORMAL, GOING_AWAY = 1000, 1001
_MOST_BYTES = 1024 * 1024
_MOST_HEAD_BYTES = 64 * 1024
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


class Stream:
    """An open stream. `send` and `receive` may wait at the same time, each for one caller."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._url = url
        self._reader = reader
        self._writer = writer
        self._problem: ApiError | None = None
        self._pinger = asyncio.create_task(self._ping())

    @classmethod
    async def open(cls, url: str, path: str, token: str) -> Stream:
        """Raises ApiError for what the server refuses, Unreachable where it does not answer."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                reader, writer = await asyncio.open_connection(
                    parts.hostname, port, limit=_MOST_HEAD_BYTES,
                    ssl=ssl.create_default_context() if secure else None,
                )  # fmt: skip
                try:
                    await _shake_hands(reader, writer, parts.netloc, parts.path.rstrip("/") + path, token)
                except BaseException:
                    writer.close()
                    raise
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise Unreachable(url, error) from error
        return cls(url, reader, writer)

    async def send(self, data: bytes) -> None:
        """Returns when there is room for more. Raises Unreachable once the stream has ended."""
        self.write(data)
        await self.drain()

    def write(self, data: bytes) -> None:
        """As `send`, without a wait for room: `drain` does that. Raises Unreachable."""
        try:
            self._write(_BINARY, data)
        except (OSError, RuntimeError) as error:
            raise self._problem or Unreachable(self._url, error) from error

    async def drain(self) -> None:
        """Returns when there is room for more. Raises Unreachable once the stream has ended."""
        try:
            await self._writer.drain()
        except (OSError, RuntimeError) as error:
            raise self._problem or Unreachable(self._url, error) from error

    async def receive(self) -> bytes | None:
        """The next message; None: the other side has ended it well. Raises ApiError, Unreachable."""
        while True:
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    code, data = await self._frame()
            except (OSError, EOFError) as error:
                raise self._problem or Unreachable(self._url, error) from error
            if code == _BINARY:
                return data
            if code == _TEXT:
                self._problem = _problem(data)
            elif code == _PING:
                self._write(_PONG, data)
            elif code == _CLOSE:
                if self._problem is not None:
                    raise self._problem
                if data[:2] not in (b"", struct.pack("!H", NORMAL)):
                    raise Unreachable(self._url, ConnectionResetError("the stream was cut"))
                return None

    async def close(self, code: int = NORMAL) -> None:
        """Ends the stream; waits for nobody. `NORMAL`: all is said, and what was said counts."""
        self._pinger.cancel()
        with contextlib.suppress(OSError, RuntimeError):
            self._write(_CLOSE, struct.pack("!H", code))
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        # Who goes in mid-sentence has gone: the other side is not to wait for more.
        await self.close(NORMAL if kind is None else GOING_AWAY)

    async def _frame(self) -> tuple[int, bytes]:
        """One whole message: continuations are put together."""
        code, whole = 0, b""
        while True:
            first, length = await self._reader.readexactly(2)
            if length & 0x80:
                raise EOFError("a server does not mask")
            if length == 126:
                (length,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self._reader.readexactly(8))
            if len(whole) + length > _MOST_BYTES:
                raise EOFError("the message is too long")
            data = await self._reader.readexactly(length)
            if first & 0x0F >= _CLOSE:
                return first & 0x0F, data
            code = code or first & 0x0F
            whole += data
            if first & 0x80:
                return code, whole

    def _write(self, code: int, data: bytes) -> None:
        mask = os.urandom(4)
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 0x80 | code, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | code, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | code, 0x80 | 127, size)
        if self._writer.is_closing():
            raise ConnectionResetError("the stream has ended")
        self._writer.write(head + mask + _masked(data, mask))

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            try:
                self._write(_PING, b"")
            except (OSError, RuntimeError):
                return


def _masked(data: bytes, mask: bytes) -> bytes:
    """As the protocol demands of clients; one large number is much faster than many bytes."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


async def _shake_hands(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str, token: str
) -> None:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "User-Agent: cairn-sdk/0.1",
        f"Authorization: Bearer {token}",
    ]  # fmt: skip
    writer.write("".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"))
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head)
    }
    if status != 101:
        length = min(int(headers.get("content-length", "0")), _MOST_HEAD_BYTES)
        raise _problem(await reader.readexactly(length), status=status)
    wanted = base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode()).digest()).decode()  # noqa: S324
    if headers.get("sec-websocket-accept") != wanted:
        raise ValueError("something between here and the server does not pass on WebSockets")


def _problem(raw: bytes, *, status: int = 500) -> ApiError:
    try:
        document = json.loads(raw)
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    return ApiError(
        status=int(document.get("status") or status),
        reason=str(document.get("reason") or ""),
        detail=str(document.get("detail") or f"the server answered {status}"),
        metadata={str(key): str(value) for key, value in (document.get("metadata") or {}).items()},
        request_id=str(document.get("request_id") or ""),
    )
