"""What jobs log, from the streams of all teams, as one handler takes it in.

A consumer for each stream reads by itself; what they bring while a batch is being worked on goes together in
the next one, since a batch costs two inserts and a transaction, however many teams are in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from cairn_common.bus import Bus, Message, Unusable
from cairn_common.db import Database
from cairn_common.subjects import INGEST, LOGGED
from cairn_tracker.ingest import BATCH

# Of a batch.
_MOST_BYTES = 8 * 2**20
# What the bus may send ahead in all, about, and of one stream: more than its largest message.
_AHEAD = 4 * _MOST_BYTES
_LEAST_AHEAD = 5 * 2**18
# How soon the stream of a new team is seen.
_LOOK_SECONDS = 1.0
# A consumer with nothing to say is asked again after so long; all of them together so many times a second.
_WAIT_SECONDS = 5.0
_ASKED_A_SECOND = 4.0

Handler = Callable[[Sequence[Message]], Awaitable[None]]


class Intake:
    """Consumes the stream of each team, and that of earlier releases."""

    def __init__(self, *, bus: Bus, db: Database, handler: Handler) -> None:
        self._bus = bus
        self._db = db
        self._handler = Together(handler)

    async def run(self) -> NoReturn:
        """For ever."""
        followed: set[str] = set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._handler.run())
            while True:
                for stream in sorted(set(await self._bus.kept_streams()) - followed):
                    followed.add(stream)
                    tasks.create_task(self._bus.make_room(stream=stream, durable=INGEST))
                    tasks.create_task(self._follow(stream, len(followed)))
                await asyncio.sleep(_LOOK_SECONDS)
        raise AssertionError("it goes on until it is cancelled")

    async def _follow(self, stream: str, streams: int) -> NoReturn:
        await self._bus.consume(
            stream=stream,
            durable=INGEST,
            subjects=[LOGGED],
            handler=self._handler,
            db=self._db,
            batch=BATCH,
            max_wait=max(_WAIT_SECONDS, streams / _ASKED_A_SECOND),
            most_bytes=max(_LEAST_AHEAD, min(_MOST_BYTES, _AHEAD // streams)),
        )


@dataclass(slots=True)
class _Waiting:
    messages: Sequence[Message]
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Together:
    """A handler for several consumers: what waits while another batch is worked on is handed over as one.

    Each is answered for its own messages: what of a common batch is unusable concerns whoever brought it, and
    where a common batch fails otherwise each of its parts is tried alone.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._waiting: deque[_Waiting] = deque()
        self._news = asyncio.Event()

    async def __call__(self, messages: Sequence[Message]) -> None:
        """As the handler, once `run` comes to it; raises what it raises for these messages."""
        own = _Waiting(messages)
        self._waiting.append(own)
        self._news.set()
        await own.done

    async def run(self) -> NoReturn:
        """For ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                await self._hand_over(self._next())

    def _next(self) -> list[_Waiting]:
        taken = [self._waiting.popleft()]
        count, size = _weight(taken[0])
        while self._waiting:
            more, bytes_more = _weight(self._waiting[0])
            count, size = count + more, size + bytes_more
            if count > BATCH or size > _MOST_BYTES:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _hand_over(self, batch: Sequence[_Waiting]) -> None:
        try:
            await self._handler([message for part in batch for message in part.messages])
        except Unusable as error:
            why = {id(message): (message, each) for message, each in error.found}
            for part in batch:
                found = [why[id(message)] for message in part.messages if id(message) in why]
                _settle(part, Unusable(found) if found else None)
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0], error)
                return
            for part in batch:
                await self._hand_over([part])
        else:
            for part in batch:
                _settle(part, None)


def _weight(part: _Waiting) -> tuple[int, int]:
    return len(part.messages), sum(len(message.data) for message in part.messages)


def _settle(part: _Waiting, error: Exception | None) -> None:
    if part.done.done():
        return
    if error is None:
        part.done.set_result(None)
    else:
        part.done.set_exception(error)
