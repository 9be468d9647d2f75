"""uvicorn, as a guest in a process that has its own event loop, signals and stop order."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

HEAD_SECONDS = 10.0
GRACE_SECONDS = 7
MOST_CONNECTIONS = 2000
MOST_HEAD_BYTES = 64 * 1024
MOST_STREAM_MESSAGE_BYTES = 256 * 1024
# A client that does not take what is sent is dropped by the kernel after this, in milliseconds.
_USER_TIMEOUT = 30_000


def listen(bind: str) -> socket.socket:
    """A listening socket on host:port, never shared with another process.

    Raises OSError for a port that is taken.
    """
    host, _, port = bind.rpartition(":")
    family, kind, protocol, _, address = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        # Connections in TIME_WAIT do not keep a restarted server away; a second live server is refused still.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)
        made.bind(address)
        made.listen(512)
        made.setblocking(False)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                errno.EADDRINUSE, f"cannot listen on {bind} (CAIRN_HTTP_BIND): the port is taken"
            ) from None
        raise
    return made


class HttpServer(uvicorn.Server):
    """Serves until `stop`. Leaves signals alone, and sleeps while nothing happens."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws=WebSocket,
                # The client's pings tell both that the other lives: one that is slow to read is no dead one.
                ws_ping_interval=None,
                ws_max_size=MOST_STREAM_MESSAGE_BYTES,
                ws_per_message_deflate=False,
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=20,
                timeout_graceful_shutdown=GRACE_SECONDS,
                h11_max_incomplete_event_size=MOST_HEAD_BYTES,
            )
        )
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `serve` once the requests in flight are answered, at most `GRACE_SECONDS` later."""
        self._stopping.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the process's own affair."""
        yield

    async def main_loop(self) -> None:
        """uvicorn's own looks ten times a second whether it should stop."""
        await self._stopping.wait()


class Protocol(H11Protocol):
    """Drops connections that take too long to say what they want."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection that sends nothing is dropped like one that sends too slowly."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, self._drop)

    def data_received(self, data: bytes) -> None:
        """The clock runs from a request's first byte until its head is whole."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._forgive()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._drop)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._forgive()
        super().connection_lost(exc)

    def _forgive(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _drop(self) -> None:
        self.transport.abort()


class WebSocket(WSProtocol):
    """For streams that may stand still for hours: the kernel asks whether a silent peer is alive, and one
    that does not read for a while is waited for."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The limits of a request's connection end here."""
        made = transport.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_USER_TIMEOUT", 0), ("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3),
        ):  # fmt: skip
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        super().connection_made(transport)
