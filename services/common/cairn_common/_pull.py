"""Pulling from a consumer of the bus over one connection: underneath `cairn_common.bus`."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from cairn_common._link import AWAY, Link, unavailable
from cairn_common.cancellation import heed_cancellation
from cairn_common.errors import Unavailable
from cairn_common.ids import new_uid
from cairn_common.trace import HEADER

log = structlog.get_logger(__name__)

# How long a batch that the bus is filling right now is waited for between two messages. Seconds.
_LINGER = 0.02
# Of one batch, and of what the bus sends ahead: a handler lays all of a batch out in memory, ten times as
# large, and any job can fill a stream. What is more than that stays in the stream.
MOST_BYTES = 8 * 1024 * 1024
# How the bus says that a request has ended: the next message would be too much, or it has brought all.
_NO_MORE_BYTES = "Message Size Exceeds MaxBytes"
_COMPLETED = "Batch Completed"
_TAIL_BATCH = 256
_TAIL_EXPIRES = 5.0
# The bus drops a tail's consumer when nobody pulled for so long. Seconds.
_TAIL_INACTIVE = 60.0

ADDRESS = "Cairn-Address"
"""The header of a fact that says where its caller was."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream."""

    subject: str
    data: bytes
    # Its place in the stream.
    sequence: int
    # How often the bus delivered it to this consumer, from 1.
    num_delivered: int
    # When the bus stored it, in UTC.
    time: datetime
    # The publisher's Nats-Msg-Id; empty without one.
    msg_id: str = ""
    # The traceparent of what it tells of; empty outside of a trace.
    trace: str = field(default="", compare=False)
    # Where the caller was whose doing it tells; empty where it tells nobody's.
    address: str = field(default="", compare=False)
    # Where to acknowledge it.
    reply: str = field(default="", repr=False, compare=False)
    # How many the consumer had to deliver after this one.
    pending: int = field(default=0, repr=False, compare=False)


class Pull:
    """A standing request to one consumer, and what it brought.

    Unlike nats-py's fetch it notices at once when the connection is lost, hands over what there is without
    waiting for a full batch, and sends nothing while idle but one request in `expires` seconds.
    """

    def __init__(
        self,
        link: Link,
        *,
        stream: str,
        consumer: str,
        batch: int,
        expires: float,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._link = link
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._batch = batch
        self._expires = expires
        self._most_bytes = most_bytes
        self._inbox = ""
        self._found: deque[Message] = deque()
        self._news = asyncio.Event()
        # How many messages the bus may still send for the request that stands.
        self._outstanding = 0
        self._lost = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Pull]:
        """Subscribes for the block. Raises `Unavailable` without a connection."""
        client = self._link.client
        self._inbox = client.new_inbox()
        with self._link.when_lost(self._lose):
            try:
                subscription = await client.subscribe(self._inbox, cb=self._arrived)
            except AWAY as error:
                raise unavailable(error) from error
            try:
                yield self
            finally:
                try:
                    await subscription.unsubscribe()
                except NatsError:
                    pass

    async def next(self) -> list[Message]:
        """At least one message, at most a batch, and no more than `most_bytes`; waits for ever for the first.

        Raises `Unavailable` once the connection or the consumer is lost.
        """
        while not self._found:
            if self._lost or not self._link.connected.is_set():
                raise unavailable()
            if self._outstanding == 0:
                await self._request()
            if not await self._wait(self._expires + 2.0):
                # Not even the request's end: the request was lost.
                self._outstanding = 0
        while len(self._found) < self._batch and self._outstanding > 0 and self._found[-1].pending > 0:
            before = len(self._found)
            if not await self._wait(_LINGER) or len(self._found) == before:
                break
        return self._taken()

    def _taken(self) -> list[Message]:
        taken = [self._found.popleft()]
        size = len(taken[0].data)
        while self._found and len(taken) < self._batch:
            size += len(self._found[0].data)
            if size > self._most_bytes:
                break
            taken.append(self._found.popleft())
        return taken

    def waiting(self) -> list[Message]:
        """What arrived and was not handed over yet."""
        return list(self._found)

    async def _wait(self, timeout: float) -> bool:
        """Whether anything arrived within `timeout` seconds."""
        self._news.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _request(self) -> None:
        body = json.dumps(
            {"batch": self._batch, "expires": int(self._expires * 1e9), "max_bytes": self._most_bytes}
        ).encode()
        try:
            await self._link.client.publish(self._subject, body, reply=self._inbox)
        except AWAY as error:
            raise unavailable(error) from error
        self._outstanding = self._batch

    async def _arrived(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status", "")
        if not status:
            self._outstanding = max(self._outstanding - 1, 0)
            self._found.append(_read(message))
        elif status in ("404", "408") or _why(message) == _NO_MORE_BYTES:
            self._outstanding = 0
        elif _why(message) == _COMPLETED:
            # Mostly known already by counting, and another request may stand by now, all of it to come. Where
            # the bytes were used up exactly there is still something to count.
            if self._outstanding < self._batch:
                self._outstanding = 0
        elif status in ("409", "503"):
            # Consumer deleted, no such consumer, leadership change: ask anew from the beginning.
            log.info("bus.pull_ended", status=status, why=_why(message))
            self._lost = True
        self._news.set()

    def _lose(self) -> None:
        self._lost = True
        self._news.set()


class Tail:
    """A stream's messages from a position on, without acknowledgement, across restarts of the bus."""

    def __init__(
        self,
        link: Link,
        *,
        stream: str,
        subjects: list[str],
        start_sequence: int | None,
        end_sequence: int | None = None,
    ) -> None:
        self._link = link
        self._stream = stream
        self._subjects = subjects
        self._next = start_sequence
        self._end = end_sequence
        self._created: object = None

    async def messages(self) -> AsyncGenerator[Message, None]:
        """For ever, or up to the end."""
        while True:
            heed_cancellation()
            await self._link.connected.wait()
            try:
                async with aclosing(self._session()) as session:
                    async for message in session:
                        self._next = message.sequence + 1
                        if self._is_beyond(message.sequence):
                            return
                        yield message
                if self._end is not None:
                    return
            except (Unavailable, *AWAY) as error:
                log.info("bus.tail_waiting", stream=self._stream, error=type(error).__name__)
                await asyncio.sleep(0.2)

    async def _session(self) -> AsyncGenerator[Message, None]:
        start = await self._position()
        name = f"tail-{new_uid()}"
        config = ConsumerConfig(
            name=name,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=start,
            ack_policy=AckPolicy.NONE,
            filter_subjects=self._subjects,
            inactive_threshold=_TAIL_INACTIVE,
            mem_storage=True,
            num_replicas=1,
        )
        made = await self._link.stream.add_consumer(self._stream, config)
        pull = Pull(self._link, stream=self._stream, consumer=name, batch=_TAIL_BATCH, expires=_TAIL_EXPIRES)
        try:
            if self._end is not None and not made.num_pending:
                return
            async with pull.open():
                while True:
                    heed_cancellation()
                    for message in await pull.next():
                        yield message
                        if self._end is not None and not message.pending:
                            return
        finally:
            await self._drop(name)

    def _is_beyond(self, sequence: int) -> bool:
        return self._end is not None and sequence > self._end

    async def _position(self) -> int:
        info = await self._link.stream.stream_info(self._stream)
        end = info.state.last_seq + 1
        if self._created is not None and info.created != self._created:
            # The stream was made anew: its sequences begin again.
            self._next = 1
        self._created = info.created
        self._next = end if self._next is None else min(max(self._next, 1), end)
        return self._next

    async def _drop(self, name: str) -> None:
        if not self._link.connected.is_set():
            return
        try:
            await self._link.stream.delete_consumer(self._stream, name)
        except AWAY:
            # The bus drops it by itself after a while.
            pass


def _why(message: Msg) -> str:
    return (message.headers or {}).get("Description", "")


def _read(message: Msg) -> Message:
    # $JS.ACK.[domain.account.]stream.consumer.delivered.sequence.consumer sequence.time.pending[.token]
    parts = message.reply.split(".")
    numbers = parts[4:9] if len(parts) == 9 else parts[6:11]
    delivered, sequence, _, nanoseconds, pending = (int(part) for part in numbers)
    return Message(
        subject=message.subject,
        data=message.data,
        sequence=sequence,
        num_delivered=delivered,
        time=datetime.fromtimestamp(nanoseconds / 1e9, UTC),
        msg_id=(message.headers or {}).get("Nats-Msg-Id", ""),
        trace=(message.headers or {}).get(HEADER, ""),
        address=(message.headers or {}).get(ADDRESS, ""),
        reply=message.reply,
        pending=pending,
    )
