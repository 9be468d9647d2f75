"""The way to the bus through the gateway, where only HTTP gets through: the same bytes in a WebSocket."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from urllib.parse import ParseResult

from nats.aio.transport import Transport

from cairn._http import ApiError, Unreachable
from cairn._stream import Stream

PATH = "/api/v1/streams/bus"
#: For the client, which wants one; nobody asks for it.
ADDRESS = "nats://gateway:4222"
# The gateway takes 256 KiB in one message.
_CHUNK = 64 * 1024


class Tunnel(Transport):
    """What the bus's client takes for its socket."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._stream: Stream | None = None
        self._got = b""
        self._ended = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Raises OSError with what the gateway says."""
        try:
            self._stream = await Stream.open(self._url, PATH, self._token)
        except (ApiError, Unreachable) as error:
            raise OSError(str(error)) from error

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """The gateway sees to that on its side, and HTTPS does on this one."""
        raise OSError("the bus asks for TLS inside the gateway's connection")

    def write(self, payload: bytes) -> None:
        """All of it at once: who writes next follows behind it."""
        if self._stream is None:
            raise OSError("there is no connection")
        try:
            for start in range(0, len(payload), _CHUNK):
                self._stream.write(payload[start : start + _CHUNK])
        except (ApiError, Unreachable) as error:
            raise OSError(str(error)) from error

    def writelines(self, payload: Iterable[bytes]) -> None:
        """As one."""
        self.write(b"".join(payload))

    async def drain(self) -> None:
        """Returns when there is room for more."""
        if self._stream is not None:
            try:
                await self._stream.drain()
            except (ApiError, Unreachable) as error:
                raise OSError(str(error)) from error

    async def read(self, buffer_size: int) -> bytes:
        """What has come; empty at the end."""
        if not self._got:
            await self._more()
        got, self._got = self._got, b""
        return got

    async def readline(self) -> bytes:
        """A line, or what there is of it at the end."""
        while b"\n" not in self._got and not self._ended:
            await self._more()
        line, newline, self._got = self._got.partition(b"\n")
        return line + newline

    async def _more(self) -> None:
        try:
            data = None if self._stream is None else await self._stream.receive()
        except (ApiError, Unreachable):
            data = None
        self._ended = data is None
        self._got += data or b""

    def at_eof(self) -> bool:
        """Whether nothing more comes."""
        return self._ended and not self._got

    def close(self) -> None:
        """Ends it; `wait_closed` waits for that."""
        self._ended = True

    async def wait_closed(self) -> None:
        """Closes, if that has not been done."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    def __bool__(self) -> bool:
        return True
