"""One connection to the bus, and whether it is there: underneath `cairn_common.bus`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from cairn_common.cancellation import heed_cancellation
from cairn_common.errors import Reason, Unavailable
from cairn_common.tls import of_url

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The bus is away, or did not answer in time.
AWAY = (NatsError, OSError, TimeoutError)

_REQUEST_TIMEOUT = 2.0
_CONNECT_TIMEOUT = 5
_RECONNECT_WAIT = 0.2
# Answers that are written as one.
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Login:
    """Where to connect, and as whom."""

    url: str
    name: str
    seed: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


class BusClient(Client):
    """A client that says nothing in the clear to who should speak TLS.

    Whoever sits in between could take that word out of the server's greeting, and would be given the token.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        server = self._current_server
        if server is not None and server.uri.scheme == "tls" and not info.get("tls_required"):
            raise NatsError(f"{server.uri.hostname}: the bus does not speak TLS, but its address is tls://")
        await super()._process_info(info, initial_connection)

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """As the library's, which looks at each letter: of a small message that took a third of the time."""
        found = {}
        for line in raw.decode(errors="replace").split("\r\n"):
            name, colon, value = line.partition(":")
            name = name.strip()
            if colon and name.isascii() and len(name.split()) == 1:
                found[name] = value.strip()
        return found

    async def answer_all(self, subjects: Sequence[str], word: bytes) -> None:
        """Publishes the same on each of these; whether there is a connection is looked at once for many."""
        for start in range(0, len(subjects), _AT_ONCE):
            *some, last = subjects[start : start + _AT_ONCE]
            end = b" %d\r\n%b\r\n" % (len(word), word)
            if some and self.is_connected:
                await self._send_command(b"".join(b"PUB %b%b" % (one.encode(), end) for one in some))
                some = []
            for one in (*some, last):
                await self.publish(one, word)


def address(url: str) -> dict[str, Any]:
    """What `Client.connect` is told of the bus's URLs (commas between) and the certificates named at the end.

    Raises ValueError and OSError, as `tls.of_url`.
    """
    plain, context = of_url(url)
    return {"servers": plain.split(","), "tls": context}


class Link:
    """One connection that is made again for ever.

    nats-py reconnects by itself after most losses; after some of the server's errors it closes for good,
    and then a new client takes its place here.
    """

    def __init__(self, login: Login) -> None:
        self.connected = asyncio.Event()
        self._login = login
        self._losers: set[Callable[[], None]] = set()
        self._again: list[Callable[[], Awaitable[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: BusClient | None = None
        self._stream: JetStreamContext | None = None
        self._ending = False

    @property
    def client(self) -> BusClient:
        """The client of now."""
        assert self._client is not None, "not connected yet"
        return self._client

    @property
    def stream(self) -> JetStreamContext:
        """JetStream over the client of now."""
        assert self._stream is not None, "not connected yet"
        return self._stream

    async def open(self) -> None:
        """Connects, trying for ever."""
        while True:
            client = BusClient()
            try:
                await self._connect(client)
                heed_cancellation()
                # It may return without being connected, where the server decides late.
                if client.is_connected:
                    self._client = client
                    self._stream = client.jetstream(timeout=_REQUEST_TIMEOUT)
                    await self._up()
                    return
            except AWAY as error:
                log.info("bus.connecting", error=str(error) or type(error).__name__)
            except BaseException:
                await _close(client)
                raise
            await _close(client)
            await asyncio.sleep(_RECONNECT_WAIT * random.uniform(1.0, 2.0))  # noqa: S311

    async def close(self) -> None:
        """Sends what is buffered, and ends."""
        self._ending = True
        for task in self._tasks:
            task.cancel()
        if self._client is not None:
            await _close(self._client, flush=self.connected.is_set())

    def on_connected(self, again: Callable[[], Awaitable[None]]) -> None:
        """To be done after each connection."""
        self._again.append(again)

    @contextmanager
    def when_lost(self, tell: Callable[[], None]) -> Iterator[None]:
        """Calls `tell` when the connection is lost, during the block."""
        self._losers.add(tell)
        try:
            yield
        finally:
            self._losers.discard(tell)

    async def wait_connected(self, timeout: float) -> None:
        """Returns once there is a connection. Raises `Unavailable` after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.connected.wait()
        except TimeoutError:
            raise unavailable() from None

    async def answer(self, ask: Callable[[], Awaitable[T]], *, timeout: float = _REQUEST_TIMEOUT) -> T:
        """Asks once. Raises TimeoutError after `timeout` seconds, and at once when the connection is lost."""
        async with asyncio.timeout(timeout) as limit:

            def give_up() -> None:
                if not limit.expired():
                    limit.reschedule(0)

            with self.when_lost(give_up):
                return await ask()

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again while the bus is away; errors that are its answer are raised."""
        pause = 0.1
        while True:
            heed_cancellation()
            await self.connected.wait()
            try:
                return await self.answer(ask)
            except AWAY as error:
                if getattr(error, "code", None) in (400, 404, 409):
                    raise
                log.info("bus.waiting", error=type(error).__name__)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, 2.0)

    async def _connect(self, client: Client) -> None:
        async def reconnected() -> None:
            await self._up()

        async def disconnected() -> None:
            if client is self._client:
                self._down()

        async def closed() -> None:
            if client is self._client and not self._ending:
                self._down()
                log.warning("bus.closed", error=str(client.last_error))
                self._start(self.open())

        await client.connect(
            **address(self._login.url),
            name=self._login.name,
            nkeys_seed_str=self._login.seed,
            token=self._login.token,
            connect_timeout=_CONNECT_TIMEOUT,
            reconnect_time_wait=_RECONNECT_WAIT,  # type: ignore[arg-type]
            max_reconnect_attempts=-1,
            ping_interval=20,
            max_outstanding_pings=2,
            reconnected_cb=reconnected,
            disconnected_cb=disconnected,
            closed_cb=closed,
            error_cb=_tell_error,
        )

    async def _up(self) -> None:
        log.info("bus.connected")
        self.connected.set()
        for again in self._again:
            self._start(again())

    def _down(self) -> None:
        if self.connected.is_set() and not self._ending:
            log.warning("bus.disconnected")
        self.connected.clear()
        for tell in list(self._losers):
            tell()

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("bus.failed", exc_info=task.exception())


def unavailable(cause: BaseException | None = None) -> Unavailable:
    """The error that callers see."""
    return Unavailable(
        "the bus does not answer",
        reason=Reason.BUS_UNAVAILABLE,
        cause=type(cause).__name__ if cause else "disconnected",
    )


async def _close(client: Client, *, flush: bool = False) -> None:
    try:
        async with asyncio.timeout(3.0):
            if flush:
                await client.flush(timeout=1)
            await client.close()
    except AWAY:
        pass


async def _tell_error(error: Exception) -> None:
    # The text of a permissions violation holds the subject; of others, nothing worth a warning.
    if "permissions violation" in str(error).lower():
        log.error("bus.forbidden", error=str(error))
    else:
        log.debug("bus.error", error=str(error), kind=type(error).__name__)
