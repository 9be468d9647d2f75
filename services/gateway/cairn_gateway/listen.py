"""uvicorn, as a guest in a process that has its own event loop, signals and stop order."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

HEAD_SECONDS = 10.0
GRACE_SECONDS = 7
# What is left of a body that nobody wants any more.
LINGER_SECONDS = 3.0
MOST_CONNECTIONS = 2000
# Files that are no connections of clients; and what is tried where there are not as many.
_OTHER_FILES, _FEWEST_CONNECTIONS = 256, 32
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

    def __init__(
        self,
        app: ASGIApp,
        *,
        most_connections: int | None = None,
        head_seconds: float = HEAD_SECONDS,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        most = most_connections_here() if most_connections is None else most_connections
        protocol = partial(
            Protocol, idle=Idle(most), head_seconds=head_seconds, linger_seconds=linger_seconds
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,  # type: ignore[arg-type]
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


def most_connections_here() -> int:
    """As many as this process may have, and still open what else it needs; MOST_CONNECTIONS where it may."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, max(_FEWEST_CONNECTIONS, files - _OTHER_FILES))


class Idle:
    """Connections with no request in flight: the first to go where there are too many connections.

    So whoever opens thousands and says nothing takes room from their own, and from nobody who asks.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # In the order in which they came to rest; those that never asked anything, and the others.
        self._mute: dict[Protocol, None] = {}
        self._resting: dict[Protocol, None] = {}

    def add(self, one: Protocol, *, asked: bool) -> None:
        """It waits for a request."""
        (self._resting if asked else self._mute)[one] = None

    def discard(self, one: Protocol) -> None:
        """It has a request in flight, or has ended."""
        self._mute.pop(one, None)
        self._resting.pop(one, None)

    def make_room(self, connections: set[Protocol]) -> None:
        """Drops the one that has waited longest, where there are more than there may be."""
        if len(connections) > self._most:
            one = next(iter(self._mute or self._resting))
            self.discard(one)
            one.drop()


class Protocol(H11Protocol):
    """Drops connections that take too long to say what they want, or that go on when they were answered."""

    _late: asyncio.TimerHandle | None = None
    _lingers = False

    def __init__(
        self, *arguments: Any, idle: Idle, head_seconds: float, linger_seconds: float, **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self._idle = idle
        self._head_seconds = head_seconds
        self._linger_seconds = linger_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection that sends nothing is dropped like one that sends too slowly."""
        super().connection_made(transport)
        self._drop_after(self._head_seconds)
        self._idle.add(self, asked=False)
        self._idle.make_room(self.connections)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """The clock runs from a request's first byte until its head is whole."""
        super().data_received(data)
        if self._is_left_over():
            return
        if self._lingers:
            self._forgive()
            self._idle.add(self, asked=True)
        if self.conn.their_state is h11.IDLE:
            self._drop_after(self._head_seconds)
        else:
            self._forgive()
            self._idle.discard(self)

    def on_response_complete(self) -> None:
        """Who was answered before the body was whole may bring the rest of it, but not for ever."""
        super().on_response_complete()
        if self._is_left_over():
            self._lingers = True
            self._drop_after(self._linger_seconds)
        elif self.conn.their_state is h11.IDLE:
            self._idle.add(self, asked=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._forgive()
        self._idle.discard(self)
        super().connection_lost(exc)

    def drop(self) -> None:
        """Ends the connection without a word."""
        self.transport.abort()

    def _is_left_over(self) -> bool:
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _drop_after(self, seconds: float) -> None:
        if self._late is None:
            self._late = self.loop.call_later(seconds, self.drop)

    def _forgive(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        self._lingers = False


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
