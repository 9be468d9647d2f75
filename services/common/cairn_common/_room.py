"""Making room in a stream that throws nothing away by itself. Underneath `cairn_common.bus`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

import structlog

from cairn_common._link import AWAY, Link
from cairn_common._pull import Message
from cairn_common.cancellation import heed_cancellation

log = structlog.get_logger(__name__)

# The stream is freed of what was taken in once it holds this share of its limit.
_FULL_ENOUGH = 0.25
# While it holds more than that, it is looked at so often.
_CROWDED_SECONDS = 0.5
_PURGE_TIMEOUT = 10.0
# What a message takes besides its data and subject, about. Bytes.
_RECORD = 40


class Clearing:
    """Takes out of a stream what its consumer has acknowledged, once much has come; until then it stays.

    Nothing can be taken out that was not acknowledged: so the bus is asked again when that much was.
    """

    def __init__(self, link: Link, *, stream: str, durable: str) -> None:
        self._link = link
        self._stream = stream
        self._durable = durable
        self._acknowledged = 0
        # Bytes that may be acknowledged before the stream is looked at again.
        self._enough = 0
        self._due = asyncio.Event()

    def acknowledged(self, messages: Sequence[Message]) -> None:
        """Counts what the consumer has done with."""
        self._acknowledged += sum(len(one.data) + len(one.subject) + _RECORD for one in messages)
        if self._acknowledged >= self._enough:
            self._due.set()

    async def run(self) -> NoReturn:
        """For ever."""
        while True:
            heed_cancellation()
            await self._link.connected.wait()
            self._due.clear()
            self._acknowledged = self._enough = 0
            try:
                self._enough = await self._link.answer(self._clear, timeout=_PURGE_TIMEOUT)
            except AWAY as error:
                log.info("bus.no_room_made", stream=self._stream, error=type(error).__name__)
            if self._enough > self._acknowledged:
                self._due.clear()
                await self._due.wait()
            else:
                await asyncio.sleep(_CROWDED_SECONDS)

    async def _clear(self) -> int:
        """Bytes that may come before there is something to do; none: there is still."""
        info = await self._link.stream.stream_info(self._stream)
        limit = int((info.config.max_bytes or 0) * _FULL_ENOUGH)
        if info.state.bytes < limit:
            return limit - info.state.bytes
        consumer = await self._link.stream.consumer_info(self._stream, self._durable)
        floor = (consumer.ack_floor.stream_seq if consumer.ack_floor else None) or 0
        if floor >= info.state.first_seq:
            # Up to, and without, this one.
            await self._link.stream.purge_stream(self._stream, seq=floor + 1)
        return 0
