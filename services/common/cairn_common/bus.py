"""The bus: NATS JetStream, with streams made on demand, and consumers that outlive its restarts."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from typing import Any, NoReturn

import structlog
from nats.errors import MaxPayloadError
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError
from pydantic import SecretStr

from cairn_common._consume import Consumption, Handler, Unusable
from cairn_common._link import AWAY, BusClient, Link, Login, address, unavailable
from cairn_common._pull import ADDRESS, MOST_BYTES, Message, Tail
from cairn_common._room import Clearing
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument
from cairn_common.subjects import LAST, is_kept
from cairn_common.trace import HEADER

__all__ = ["Bus", "BusClient", "Handler", "Lag", "Message", "Room", "Unusable", "address", "connect"]

log = structlog.get_logger(__name__)

_WAIT_AT_START = 60.0
# Loss of the connection is noticed at once; this is for a disk that is slow.
_PUBLISH_TIMEOUT = 5.0
_CONNECTED_TIMEOUT = 2.0
_LAG_TIMEOUT = 1.0
_MAX_AGE = 7 * 24 * 3600
_MAX_BYTES = 1024**3
_RETIRED_BYTES = 1024**2
# A stream of this name is there, made otherwise.
_NAME_TAKEN = 10058


@dataclass(frozen=True, slots=True)
class Lag:
    """What a consumer has not acknowledged yet.

    How many messages, and for how many seconds the oldest has been in the stream (0 without any).
    """

    messages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Room:
    """What a stream holds, and what it may hold (0: no limit). Bytes."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A stream as it is to be; `limit`: also where an existing one has another limit of bytes."""

    config: StreamConfig
    limit: bool


@asynccontextmanager
async def connect(
    url: str, *, seed: SecretStr | str | None = None, name: str, token: str | None = None
) -> AsyncIterator[Bus]:
    """A connection to the bus for the block; it finds back by itself for ever.

    `seed` is a service's nkey seed, `token` a user's or a run's token. Waits up to 60 s for the server;
    raises `Unavailable` after that.
    """
    secret = seed.get_secret_value() if isinstance(seed, SecretStr) else seed
    link = Link(Login(url, name, seed=secret or None, token=token))
    bus = Bus(link)
    try:
        try:
            async with asyncio.timeout(_WAIT_AT_START):
                await link.open()
        except TimeoutError:
            raise unavailable() from None
        link.on_connected(bus.ensure_again)
        yield bus
    finally:
        await link.close()


class Bus:
    """What the services do with the bus. Make one with `connect`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._streams: dict[str, _Wanted] = {}
        # By stream and consumer.
        self._clearings: dict[tuple[str, str], Clearing] = {}

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link.connected.is_set()

    async def ensure_stream(
        self, name: str, subjects: Iterable[str], *, max_bytes: int | None = None, max_age: float = _MAX_AGE
    ) -> None:
        """Makes the stream, on disk and bounded (bytes, seconds), or gives an existing one these subjects.

        A stream that `is_kept` throws nothing away, of any age: when it is full it refuses what comes, and
        `make_room` makes room. One of `LAST` keeps so many messages of each subject, the newest. An existing
        one is made to be so. Remembered: after a restart in which the bus
        lost its store, the stream is made again. Limits of an existing stream are its operator's and stay,
        unless `max_bytes` is given for one that is kept. Waits while the bus is away.
        """
        kept = is_kept(name)
        self._streams[name] = _Wanted(
            StreamConfig(
                name=name,
                subjects=list(subjects),
                retention=RetentionPolicy.LIMITS,
                storage=StorageType.FILE,
                discard=DiscardPolicy.NEW if kept else DiscardPolicy.OLD,
                max_age=0 if kept else max_age,
                max_bytes=_MAX_BYTES if max_bytes is None else max_bytes,
                max_msgs_per_subject=LAST.get(name, -1),
                duplicate_window=120,
                allow_direct=True,
                allow_atomic=True,
            ),
            limit=kept and max_bytes is not None,
        )
        await self._link.patiently(lambda: self._ensure(self._streams[name]))

    async def kept_streams(self) -> list[str]:
        """Names of the streams there are that are kept: of each team's jobs, and that of earlier releases.
        Waits while the bus is away."""
        found: list[str] = []
        while True:
            page = await self._link.patiently(partial(self._names, len(found)))
            found += page["streams"] or ()
            if not page["streams"] or len(found) >= page["total"]:
                return sorted(filter(is_kept, set(found)))

    async def _names(self, offset: int) -> dict[str, Any]:
        asked = json.dumps({"offset": offset}).encode()
        answer = await self._link.client.request("$JS.API.STREAM.NAMES", asked, timeout=_LAG_TIMEOUT)
        page: dict[str, Any] = json.loads(answer.data)
        if "error" in page:
            raise APIError.from_error(page["error"])
        return page

    async def retire_stream(self, name: str, subjects: Sequence[str]) -> None:
        """Leaves a stream these subjects, on which nobody publishes; what it holds stays, and is still read.

        What it had reserved of the bus's disk is free for others. Nothing, where there is no such stream.
        """
        await self._link.patiently(lambda: self._retire(name, list(subjects)))

    async def _retire(self, name: str, subjects: list[str]) -> None:
        try:
            found = (await self._link.stream.stream_info(name)).config
        except NotFoundError:
            return
        if list(found.subjects or ()) == subjects:
            return
        # First it throws nothing away any more, then it may hold less than it does.
        kept = replace(found, discard=DiscardPolicy.NEW, max_age=0)
        await self._link.stream.update_stream(kept)
        await self._link.stream.update_stream(replace(kept, subjects=subjects, max_bytes=_RETIRED_BYTES))
        log.info("bus.stream_retired", stream=name)

    async def publish(
        self, subject: str, payload: bytes, msg_id: str | None = None, *, trace: str = "", address: str = ""
    ) -> int:
        """Publishes and waits until the stream has it on disk; returns its sequence there.

        The same msg_id again within two minutes is not stored twice. Raises `Unavailable` while the bus is
        away (whether it was stored is not known then: publish again with the same msg_id) and
        `InvalidArgument` for a payload over the bus's limit.
        """
        headers = {"Nats-Msg-Id": msg_id} if msg_id else {}
        if trace:
            headers[HEADER] = trace
        if address:
            headers[ADDRESS] = address
        await self._link.wait_connected(_CONNECTED_TIMEOUT)
        try:
            ack = await self._link.answer(
                lambda: self._link.stream.publish(
                    subject, payload, timeout=_PUBLISH_TIMEOUT, headers=headers or None
                ),
                timeout=_PUBLISH_TIMEOUT,
            )
        except MaxPayloadError:
            raise InvalidArgument(f"{len(payload):,} bytes are more than the bus takes") from None
        except AWAY as error:
            raise unavailable(error) from error
        return ack.seq

    async def publish_together(
        self,
        messages: Sequence[tuple[str, bytes, str]],
        *,
        traces: Sequence[str] = (),
        addresses: Sequence[str] = (),
    ) -> bool:
        """Publishes (subject, payload, msg_id), 1,000 at most, as one batch: in this order, all or none, and
        brought to the disk at once. Whether the stream has them on disk.

        It has none of them where it knows one of the ids already, takes no batches, or has no room, and where
        they are of several streams: publish each by itself then. Raises `Unavailable` as `publish` does.
        """
        batch = secrets.token_hex(12)

        async def ask() -> bytes:
            client = self._link.client
            all_of = zip_longest(messages, traces, addresses)
            for number, ((subject, payload, msg_id), trace, whence) in enumerate(all_of, 1):
                headers = {"Nats-Msg-Id": msg_id, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                if trace:
                    headers[HEADER] = trace
                if whence:
                    headers[ADDRESS] = whence
                if number < len(messages):
                    await client.publish(subject, payload, headers=headers)
            headers["Nats-Batch-Commit"] = "1"
            return (await client.request(subject, payload, timeout=_PUBLISH_TIMEOUT, headers=headers)).data

        await self._link.wait_connected(_CONNECTED_TIMEOUT)
        try:
            told = json.loads(await self._link.answer(ask, timeout=_PUBLISH_TIMEOUT))
        except MaxPayloadError:
            return False
        except AWAY as error:
            raise unavailable(error) from error
        return bool(told.get("count") == len(messages))

    async def last_sequence(self, stream: str) -> int:
        """The stream's last sequence now: take it before a snapshot, and `tail` from the next one after."""
        return (await self._link.patiently(lambda: self._link.stream.stream_info(stream))).state.last_seq

    async def extent(self, stream: str) -> tuple[int, int]:
        """The sequences of the first message that the stream still has, and of the last one; where it has
        none, the first is the one that comes next."""
        state = (await self._link.patiently(lambda: self._link.stream.stream_info(stream))).state
        return (state.first_seq, state.last_seq) if state.messages else (state.last_seq + 1, state.last_seq)

    async def lag(self, *, stream: str, durable: str) -> Lag:
        """How far a consumer of all of a stream is behind; one that was never there, by all of it.

        Raises `Unavailable` where the bus does not answer within a second, or there is no such stream.
        """

        async def ask() -> Lag:
            state = (await self._link.stream.stream_info(stream)).state
            messages, after = state.messages, 0
            with suppress(NotFoundError):
                info = await self._link.stream.consumer_info(stream, durable)
                messages = (info.num_pending or 0) + (info.num_ack_pending or 0)
                after = info.ack_floor.stream_seq if info.ack_floor else 0
            if not messages:
                return Lag(0, 0.0)
            oldest = await self._link.stream.get_msg(stream, max(after + 1, state.first_seq))
            waited = (datetime.now(UTC) - oldest.time).total_seconds() if oldest.time else 0.0
            return Lag(messages, max(0.0, waited))

        try:
            return await self._link.answer(ask, timeout=_LAG_TIMEOUT)
        except AWAY as error:
            raise unavailable(error) from error

    async def room(self, stream: str) -> Room:
        """How full a stream is. Raises `Unavailable` where the bus does not say so within a second."""
        try:
            info = await self._link.answer(
                lambda: self._link.stream.stream_info(stream), timeout=_LAG_TIMEOUT
            )
        except AWAY as error:
            raise unavailable(error) from error
        return Room(info.state.bytes, max(info.config.max_bytes or 0, 0))

    async def make_room(self, *, stream: str, durable: str) -> NoReturn:
        """For ever: takes out of a stream that is kept what its consumer acknowledged, once much has come.

        It is this connection's `consume` that tells when to look; while nothing is taken in nobody asks.
        """
        clearing = self._clearings[stream, durable] = Clearing(self._link, stream=stream, durable=durable)
        await clearing.run()

    async def consume(
        self,
        *,
        stream: str,
        durable: str,
        subjects: list[str],
        handler: Handler,
        db: Database,
        batch: int = 256,
        max_wait: float = 5.0,
        most_bytes: int = MOST_BYTES,
    ) -> NoReturn:
        """Hands the stream's messages to `handler`, in order, in batches, for ever; each at least once.

        The handler returns after its commit; then the batch is acknowledged. While it raises `Unavailable`
        (or a neighbour's UNAVAILABLE) the batch is held and tried again in place. Where it raises `Unusable`
        the messages named there go to `dead_letters`. Any other error: the batch is split until the message
        that causes it is alone; after 5 tries that one goes to `dead_letters`. `most_bytes`: of a batch, and
        of what the bus sends ahead; at least what the largest message has.
        """

        def acknowledged(messages: Sequence[Message]) -> None:
            if (clearing := self._clearings.get((stream, durable))) is not None:
                clearing.acknowledged(messages)

        consumption = Consumption(
            self._link,
            stream=stream,
            durable=durable,
            handler=handler,
            db=db,
            acknowledged=acknowledged,
        )
        await consumption.run(subjects=subjects, batch=batch, max_wait=max_wait, most_bytes=most_bytes)

    async def tail(
        self,
        *,
        stream: str,
        subjects: list[str],
        start_sequence: int | None = None,
        end_sequence: int | None = None,
    ) -> AsyncGenerator[Message, None]:
        """The stream's messages from a sequence on, then new ones as they come; without acknowledgement.

        None: new messages only, from the moment that this is iterated; no end. Survives restarts of the bus
        without a gap. Close it (``aclosing``) to stop.
        """
        tail = Tail(
            self._link,
            stream=stream,
            subjects=subjects,
            start_sequence=start_sequence,
            end_sequence=end_sequence,
        )
        async with aclosing(tail.messages()) as messages:
            async for message in messages:
                yield message

    async def _found(self, config: StreamConfig) -> StreamConfig | None:
        """The stream of this name as it is; None where it was made now."""
        assert config.name is not None
        with suppress(NotFoundError):
            return (await self._link.stream.stream_info(config.name)).config
        try:
            await self._link.stream.add_stream(config)
        except BadRequestError as error:
            if error.err_code != _NAME_TAKEN:
                raise
            # Another process made it in this very moment, with limits of its own.
            return (await self._link.stream.stream_info(config.name)).config
        return None

    async def ensure_again(self) -> None:
        """Makes the streams again that a restarted bus no longer has."""
        for wanted in self._streams.values():
            await self._link.patiently(lambda wanted=wanted: self._ensure(wanted))  # type: ignore[misc]

    async def _ensure(self, wanted: _Wanted) -> None:
        config = wanted.config
        assert config.name is not None
        found = await self._found(config)
        if found is None:
            log.info("bus.stream_made", stream=config.name)
            return
        new = found
        if set(found.subjects or ()) != set(config.subjects or ()):
            new = replace(new, subjects=config.subjects)
        if is_kept(config.name) and (found.discard, found.max_age or 0) != (config.discard, config.max_age):
            new = replace(new, discard=config.discard, max_age=config.max_age)
        if config.name in LAST and found.max_msgs_per_subject != config.max_msgs_per_subject:
            new = replace(new, max_msgs_per_subject=config.max_msgs_per_subject)
        if not found.allow_atomic:
            # A bus that knows no batches leaves it so, and is told again each time.
            new = replace(new, allow_atomic=True)
        if wanted.limit and found.max_bytes != config.max_bytes:
            new = replace(new, max_bytes=config.max_bytes)
        if new is not found:
            await self._link.stream.update_stream(new)
            log.info("bus.stream_updated", stream=config.name)
