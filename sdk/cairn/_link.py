"""A connection to the bus that is used until it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.transport import Transport
    from nats.js import JetStreamContext

CONNECT_SECONDS = 5.0
ACK_SECONDS = 5.0
_TOO_LARGE_FOR_STREAM = 10054
# No room in the stream, or none on the bus's disk.
_NO_ROOM = (10077, 10023, 10047)
# The stream takes no batches.
_NO_BATCHES = 10174
#: So many messages can go to the bus as one batch.
MOST_TOGETHER = 1_000


class Trouble(Exception):
    """The bus did not take a message. `fatal`: this connection is of no more use."""

    def __init__(self, reason: str, *, fatal: bool) -> None:
        super().__init__(reason)
        self.fatal = fatal


class Full(Trouble):
    """The bus has no room for it now."""


class Apart(Exception):
    """The bus did not take messages as a batch, none of them or some: they have to go one by one."""


class Refused(Exception):
    """The bus will never take this message."""


@dataclass(frozen=True, slots=True)
class Listen:
    """What to hear while connected: `heard` gets each message on `subject`, in the connection's thread."""

    subject: str
    heard: Callable[[bytes], None]


class Link:
    """One connection to the bus, used until it breaks: a new one is made then, with a fresh token."""

    def __init__(self) -> None:
        self._client: Client = _client()
        self._stream: JetStreamContext
        self._broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reason = ""
        #: Whether the bus takes batches, as far as is known.
        self.batches = True

    @classmethod
    async def open(
        cls, url: str, token: str, *, listens: Sequence[Listen] = (), transport: Transport | None = None
    ) -> Link:
        """`transport`: what to use in place of a socket to `url`. Raises OSError, ValueError or Trouble."""
        from nats.errors import Error

        if not url:
            raise ValueError("the bus's address is not known")
        link = cls()
        # The client makes one of its own where it has none.
        link._client._transport = transport
        inbox = f"_INBOX_{hashlib.sha256(token.encode()).hexdigest()[:16]}"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await link._client.connect(
                    url, token=token, inbox_prefix=inbox, name="cairn-sdk",
                    connect_timeout=int(CONNECT_SECONDS), allow_reconnect=False,
                    # Who does not answer is asked again by whoever opens links.
                    reconnect_time_wait=0, max_reconnect_attempts=1,
                    error_cb=link._on_error, closed_cb=link._on_closed, disconnected_cb=link._on_closed,
                )  # fmt: skip
            if not link._client.is_connected:  # it may return so when the server takes long to decide
                raise Trouble("the bus did not accept the connection", fatal=True)
            for listen in listens:
                await link._hear(listen)
        except (Error, TimeoutError) as error:
            await link.close()
            reason = link._reason or str(error) or type(error).__name__
            raise Trouble(f"no connection to the bus: {reason}", fatal=True) from error
        except BaseException:
            await link.close()
            raise
        link._stream = link._client.jetstream(timeout=ACK_SECONDS)
        return link

    @property
    def usable(self) -> bool:
        return not self._broken.done() and self._client.is_connected

    async def publish(self, subject: str, data: bytes) -> None:
        """Raises Trouble or Refused."""
        await self._outcome(self._stream.publish(subject, data))

    async def publish_together(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Two to `MOST_TOGETHER` messages of one stream, in this order, all or none; the bus brings them to
        its disk at once. Raises Apart, Trouble or Refused.
        """
        await self._outcome(self._together(messages))

    async def _together(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """A batch as JetStream has it: the last message commits it, and only that one is answered."""
        batch, answer = secrets.token_hex(12), b"{}"
        for number, (subject, data) in enumerate(messages, 1):
            headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            if number < len(messages):
                await self._client.publish(subject, data, headers=headers)
                continue
            headers["Nats-Batch-Commit"] = "1"
            answer = (await self._client.request(subject, data, timeout=ACK_SECONDS, headers=headers)).data
        told = json.loads(answer)
        if told.get("count") != len(messages):
            code = told.get("error", {}).get("err_code")
            # A bus without them takes each for a message of its own.
            self.batches = code is not None and code != _NO_BATCHES
            raise Apart(str(told.get("error", {}).get("description", "the bus knows no batches")))

    async def _outcome(self, work: Coroutine[Any, Any, Any]) -> None:
        from nats.errors import Error, MaxPayloadError, NoRespondersError
        from nats.js.errors import APIError, NoStreamResponseError

        sent = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {sent, self._broken}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not sent.done():
                raise Trouble(self._broken.result(), fatal=True)
            sent.result()
        except MaxPayloadError as error:
            raise Refused(str(error)) from error
        except (NoStreamResponseError, NoRespondersError) as error:
            raise Trouble("the bus has no stream for it yet", fatal=False) from error
        except APIError as error:
            if error.err_code == _TOO_LARGE_FOR_STREAM:
                raise Refused(str(error)) from error
            if error.err_code in _NO_ROOM:
                raise Full(f"the bus is full: {error.description}", fatal=False) from error
            raise Trouble(str(error), fatal=False) from error
        except (Error, TimeoutError, OSError) as error:
            raise Trouble(f"{type(error).__name__} {error}", fatal=True) from error
        finally:
            sent.cancel()

    async def _hear(self, listen: Listen) -> None:
        async def hear(message: Msg) -> None:
            listen.heard(message.data)

        await self._client.subscribe(listen.subject, cb=hear)

    async def close(self) -> None:
        from nats.errors import Error

        with contextlib.suppress(Error, TimeoutError, OSError):
            async with asyncio.timeout(1.0):
                await self._client.close()

    async def _on_error(self, error: Exception) -> None:
        self._reason = str(error) or type(error).__name__
        # A publish that is not allowed gets no answer but this: perhaps the token was renewed.
        if "permissions violation for publish" in str(error).lower():
            self._break(str(error))

    async def _on_closed(self) -> None:
        self._break("the connection ended")

    def _break(self, reason: str) -> None:
        if not self._broken.done():
            self._broken.set_result(reason)


def _client() -> Client:
    """A client that sends no token in the clear where the address is tls://, whatever the bus says."""
    from nats.aio.client import Client
    from nats.errors import Error

    class Careful(Client):
        async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
            server = self._current_server
            if server is not None and server.uri.scheme == "tls" and not info.get("tls_required"):
                raise Error(f"{server.uri.hostname}: the bus does not speak TLS, but its address is tls://")
            await super()._process_info(info, initial_connection)

    return Careful()
