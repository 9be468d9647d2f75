"""A durable consumer's work: hand over, wait out, split, bury. Underneath `cairn_common.bus`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NoReturn

import structlog
from google.protobuf.message import DecodeError
from grpc import aio
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError

from cairn_common import trace
from cairn_common._link import AWAY, Link
from cairn_common._pull import MOST_BYTES, Message, Pull
from cairn_common.cancellation import heed_cancellation
from cairn_common.db import Database, is_transient
from cairn_common.errors import Unavailable, from_rpc_error

log = structlog.get_logger(__name__)

Handler = Callable[[Sequence[Message]], Awaitable[None]]

_ACK_WAIT = 30.0
_PROGRESS_SECONDS = 10.0
_TRIES = 5
_LONGEST_PAUSE = 2.0
# At least twice the largest batch: the next one is on its way while one is worked on.
_MAX_ACK_PENDING = 32_768
# After so many deaths of the process over the same message it is handed over alone, and then not at all.
_DEATHS_ALONE = 3
_DEATHS_ENOUGH = 10
_FLOOR, _DEATHS = "cairn-floor", "cairn-deaths"


class Unusable(ValueError):
    """A handler applied all of its batch but these messages, which will never be of use: each with why."""

    def __init__(self, found: Sequence[tuple[Message, Exception]]) -> None:
        super().__init__(f"{len(found)} messages are unusable; the first one: {found[0][1]}")
        self.found = found


class Consumption:
    """One durable consumer of one stream, worked by this process."""

    def __init__(
        self,
        link: Link,
        *,
        stream: str,
        durable: str,
        handler: Handler,
        db: Database,
        acknowledged: Callable[[Sequence[Message]], None],
    ) -> None:
        """`acknowledged` is told what is done with."""
        self._link = link
        self._acknowledged = acknowledged
        self._stream = stream
        self._durable = durable
        self._handler = handler
        self._db = db
        self._log = log.bind(stream=stream, consumer=durable)
        self._begun = False
        # Deaths of processes before this one over the first message, and how many it had in hand.
        self._deaths = 0
        self._suspects = 0

    async def run(
        self, *, subjects: list[str], batch: int, max_wait: float, most_bytes: int = MOST_BYTES
    ) -> NoReturn:
        """For ever; a new session after each loss of the connection."""
        pause = 0.1
        while True:
            heed_cancellation()
            await self._link.connected.wait()
            try:
                await self._ensure(subjects)
                pause = 0.1
                pull = Pull(
                    self._link,
                    stream=self._stream,
                    consumer=self._durable,
                    batch=batch,
                    expires=max_wait,
                    most_bytes=most_bytes,
                )
                async with pull.open():
                    while True:
                        heed_cancellation()
                        await self._work(await pull.next(), pull)
            except NotFoundError:
                # The publisher, who makes the stream, has not been there yet.
                self._log.info("consumer.no_stream")
            except (Unavailable, *AWAY) as error:
                self._log.info("consumer.reconnecting", error=type(error).__name__)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _ensure(self, subjects: list[str]) -> None:
        """Makes the consumer, or makes it deliver again at once, in order, what nobody acknowledged.

        Without that, what a killed process (or a killed bus) had in hand would come back only after the
        acknowledgement's time, behind newer messages.
        """
        try:
            info = await self._link.stream.consumer_info(self._stream, self._durable)
        except NotFoundError:
            await self._link.stream.add_consumer(self._stream, self._config(subjects))
            self._log.info("consumer.made")
            self._begun = True
            return
        if info.num_ack_pending:
            await self._again(info, subjects)
        elif set(_filters(info.config)) != set(subjects) or info.config.max_ack_pending != _MAX_ACK_PENDING:
            config = replace(
                info.config,
                filter_subject=None,
                filter_subjects=subjects,
                max_ack_pending=_MAX_ACK_PENDING,
            )
            await self._link.stream.add_consumer(self._stream, config)
        self._begun = True

    async def _again(self, info: ConsumerInfo, subjects: list[str]) -> None:
        floor = (info.ack_floor.stream_seq if info.ack_floor else None) or 0
        kept = info.config.metadata or {}
        deaths = int(kept.get(_DEATHS, 0)) if kept.get(_FLOOR) == str(floor) else 0
        if not self._begun:
            # A process had these in hand and is no more. Losing the connection alone is no death.
            deaths += 1
            self._deaths, self._suspects = deaths, info.num_ack_pending or 0
        self._log.info("consumer.again", unacknowledged=info.num_ack_pending, after=floor, deaths=deaths)
        config = replace(
            self._config(subjects),
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=floor + 1,
            metadata={_FLOOR: str(floor), _DEATHS: str(deaths)},
        )
        await self._link.stream.delete_consumer(self._stream, self._durable)
        await self._link.stream.add_consumer(self._stream, config)

    def _config(self, subjects: list[str]) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=self._durable,
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT,
            # Tries are counted here: the bus would skip a message silently.
            max_deliver=-1,
            max_ack_pending=_MAX_ACK_PENDING,
            filter_subjects=subjects,
        )

    async def _work(self, messages: Sequence[Message], pull: Pull) -> None:
        async with self._kept(messages, pull):
            if self._deaths >= _DEATHS_ENOUGH:
                error = RuntimeError(f"the process died {self._deaths} times over this message")
                await self._bury(messages[0], error, self._deaths)
                await self._acknowledge(messages[:1])
                messages = messages[1:]
                self._deaths = 0
            while messages and self._suspects > 0 and self._deaths >= _DEATHS_ALONE:
                await self._apply(messages[:1])
                messages = messages[1:]
                self._suspects -= 1
            if messages:
                await self._apply(messages)

    async def _apply(self, messages: Sequence[Message]) -> None:
        """Applies and acknowledges; where that fails for good, halves until the cause is alone."""
        tries = 0
        while True:
            try:
                await self._patiently(messages)
                break
            except Unusable as error:
                # However many they are, they hold up nobody else.
                for message, why in error.found:
                    await self._bury(message, why, 1)
                break
            except Exception as error:
                if len(messages) > 1:
                    middle = len(messages) // 2
                    self._log.info("consumer.splitting", size=len(messages), error=type(error).__name__)
                    await self._apply(messages[:middle])
                    await self._apply(messages[middle:])
                    return
                tries += 1
                if tries >= _TRIES:
                    await self._bury(messages[0], error, tries)
                    break
                # What cannot be read will not be later either; others may be of a neighbour that lags behind.
                if not isinstance(error, ValueError | DecodeError):
                    await asyncio.sleep(0.05 * 2**tries)
        await self._acknowledge(messages)

    async def _patiently(self, messages: Sequence[Message]) -> None:
        """The handler, again and again while what it needs is away."""
        pause = 0.1
        while True:
            try:
                with trace.of_facts([message.trace for message in messages]):
                    await self._handler(messages)
                return
            except Exception as error:
                if not _away(error):
                    raise
                self._log.warning(
                    "consumer.waiting", error=str(error) or type(error).__name__, size=len(messages)
                )
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _bury(self, message: Message, error: Exception, tries: int) -> None:
        self._log.error(
            "consumer.dead_letter", subject=message.subject, sequence=message.sequence, exc_info=error
        )
        pause = 0.1
        while True:
            try:
                await bury(
                    self._db, message, consumer=self._durable, stream=self._stream, error=error, tries=tries
                )
                return
            except Unavailable:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _acknowledge(self, messages: Sequence[Message]) -> None:
        await self._answer(messages, b"+ACK")
        self._acknowledged(messages)

    async def _answer(self, messages: Sequence[Message], word: bytes) -> None:
        try:
            await self._link.client.answer_all([message.reply for message in messages], word)
        except AWAY as error:
            # They come again, and are known then.
            self._log.info("consumer.unacknowledged", error=type(error).__name__)

    @asynccontextmanager
    async def _kept(self, messages: Sequence[Message], pull: Pull) -> AsyncIterator[None]:
        """Tells the bus that these are being worked on, as long as it takes."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(_PROGRESS_SECONDS)
                await self._answer([*messages, *pull.waiting()], b"+WPI")

        task = asyncio.create_task(tell())
        try:
            yield
        finally:
            task.cancel()


async def bury(
    db: Database, message: Message, *, consumer: str, stream: str, error: BaseException, tries: int
) -> None:
    """Keeps a message in `dead_letters`; the same message twice is one row."""
    await db.execute(
        "INSERT INTO dead_letters"
        " (consumer, stream, sequence, subject, payload, msg_id, error, tries, publish_time)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        " ON CONFLICT (consumer, stream, sequence) DO NOTHING",
        consumer,
        stream,
        message.sequence,
        message.subject,
        message.data,
        message.msg_id,
        f"{type(error).__name__}: {error}"[:2000].replace("\x00", ""),
        tries,
        message.time,
    )


def _away(error: Exception) -> bool:
    if isinstance(error, aio.AioRpcError):
        error = from_rpc_error(error)
    # A disk that is full or gone is waited for, too.
    return isinstance(error, Unavailable | OSError) or is_transient(error)


def _filters(config: ConsumerConfig) -> list[str]:
    return list(config.filter_subjects or ([config.filter_subject] if config.filter_subject else []))
