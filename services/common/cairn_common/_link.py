"""One connection to the bus, and whether it is there: underneath `cairn_common.bus`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from cairn_common.errors import Reason, Unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The bus is away, or did not answer in time.
AWAY = (NatsError, OSError, TimeoutError)

_REQUEST_TIMEOUT = 2.0


class Link:
    """One connection, and whether it is there now."""

    def __init__(self) -> None:
        self.connected = asyncio.Event()
        self._losers: set[Callable[[], None]] = set()
        self._client: Client | None = None
        self._stream: JetStreamContext | None = None
        self._again: list[Callable[[], Awaitable[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def client(self) -> Client:
        assert self._client is not None, "not connected yet"
        return self._client

    @property
    def stream(self) -> JetStreamContext:
        assert self._stream is not None, "not connected yet"
        return self._stream

    def attach(self, client: Client) -> None:
        """Takes a connected client."""
        self._client = client
        self._stream = client.jetstream(timeout=_REQUEST_TIMEOUT)
        self._up()

    def on_connected(self, again: Callable[[], Awaitable[None]]) -> None:
        """To be done after each reconnection."""
        self._again.append(again)

    def callbacks(self) -> dict[str, Any]:
        """For `Client.connect`."""
        return {
            "reconnected_cb": self._reconnected,
            "disconnected_cb": self._disconnected,
            "closed_cb": self._disconnected,
            "error_cb": self._error,
        }

    async def wait_connected(self, timeout: float) -> None:
        """Returns once there is a connection. Raises `Unavailable` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.connected.wait()
        except TimeoutError:
            raise self.unavailable(None) from None

    @contextmanager
    def when_lost(self, tell: Callable[[], None]) -> Iterator[None]:
        """Calls `tell` when the connection is lost, during the block."""
        self._losers.add(tell)
        try:
            yield
        finally:
            self._losers.discard(tell)

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again while the bus is away; errors that are its answer are raised."""
        pause = 0.1
        while True:
            await self.connected.wait()
            try:
                return await ask()
            except AWAY as error:
                if getattr(error, "code", None) in (400, 404, 409):
                    raise
                log.info("bus.waiting", error=type(error).__name__)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, 2.0)

    async def close(self) -> None:
        """Sends what is buffered, and ends."""
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(3.0):
                if self.connected.is_set():
                    await self.client.flush(timeout=1)
                await self.client.close()
        except AWAY:
            pass

    @staticmethod
    def unavailable(cause: BaseException | None) -> Unavailable:
        """The error that callers see."""
        return Unavailable(
            "the bus does not answer",
            reason=Reason.BUS_UNAVAILABLE,
            cause=type(cause).__name__ if cause else "disconnected",
        )

    def _up(self) -> None:
        self.connected.set()

    async def _reconnected(self) -> None:
        log.info("bus.reconnected")
        self._up()
        for again in self._again:
            task = asyncio.ensure_future(again())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _disconnected(self) -> None:
        if self.connected.is_set():
            log.warning("bus.disconnected")
        self.connected.clear()
        for tell in list(self._losers):
            tell()

    async def _error(self, error: Exception) -> None:
        # The text of a permissions violation holds the subject; of others, nothing worth a warning.
        if "permissions violation" in str(error).lower():
            log.error("bus.forbidden", error=str(error))
        else:
            log.debug("bus.error", error=str(error), kind=type(error).__name__)
