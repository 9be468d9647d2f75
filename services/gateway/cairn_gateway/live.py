"""Live updates: what happens in a team, as server-sent events that resume without loss.

Each event carries the positions reached in the streams behind it as its ``id:``. A client that comes back
with ``Last-Event-ID`` goes on behind them, on this gateway or another one: nothing is kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import structlog

from cairn.quota.v1 import events_pb2 as quota_events
from cairn_common.auth import Role, TokenChecker, require
from cairn_common.bus import Bus
from cairn_common.errors import DomainError, InvalidArgument, Reason, Unavailable
from cairn_gateway.feed import PUBLISHERS, Fact, Feed, Listener, Watch
from cairn_gateway.tasks import until_one_ends
from cairn_gateway.upstream import Caller

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 15.0
SLOW_SECONDS = 10.0
BUS_SECONDS = 5.0

Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Position:
    """The last sequences seen of the streams behind a client's events."""

    scheduler: int
    tracker: int

    def __str__(self) -> str:
        return f"{self.scheduler}-{self.tracker}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """From an event's id. Raises InvalidArgument (CURSOR_INVALID)."""
        parts = text.split("-")
        if len(parts) != 2 or not all(
            part.isascii() and part.isdecimal() and len(part) < 20 for part in parts
        ):
            raise InvalidArgument(
                f"Last-Event-ID: {text[:80]!r} is not an id of an event of this stream",
                reason=Reason.CURSOR_INVALID,
            )
        return cls(scheduler=int(parts[0]), tracker=int(parts[1]))


class _SlowError(Exception):
    """The client does not read."""


class Live:
    """All clients of this process."""

    def __init__(self, bus: Bus, checker: TokenChecker) -> None:
        self._bus = bus
        self._checker = checker
        self._stopping = asyncio.Event()
        self._revoked: dict[str, asyncio.Event] = {}
        # Whose the tokens of `_revoked` are.
        self._bearers: dict[str, str] = {}
        self._feeds = {publisher: Feed(bus, publisher) for publisher in PUBLISHERS}

    async def run(self) -> None:
        """Reads what happens, for all clients. For ever."""
        async with asyncio.TaskGroup() as tasks:
            for feed in self._feeds.values():
                tasks.create_task(feed.run())

    def stop(self) -> None:
        """Ends all clients' streams; they come back to whoever serves next."""
        self._stopping.set()

    async def begin(self, last_event_id: str) -> tuple[Position, bool]:
        """Where a client starts, and whether it missed events that are gone. Raises InvalidArgument for an id
        that is none, Unavailable while the bus is away."""
        if self._stopping.is_set():
            raise Unavailable("shutting down; call again", reason=Reason.SHUTTING_DOWN)
        given = Position.parse(last_event_id) if last_event_id else None
        if not self._bus.connected:
            raise Unavailable("the bus is away", reason=Reason.BUS_UNAVAILABLE)
        try:
            async with asyncio.timeout(BUS_SECONDS):
                for feed in self._feeds.values():
                    await feed.ready()
                now = self._now()
                if given is None or given == now:
                    return now, False
                lost = [not await self._is_kept(name, getattr(given, name)) for name in self._feeds]
        except TimeoutError:
            raise Unavailable("the bus does not answer", reason=Reason.BUS_UNAVAILABLE) from None
        return (self._now(), True) if any(lost) else (given, False)

    def _now(self) -> Position:
        return Position(**{name: feed.position for name, feed in self._feeds.items()})

    async def _is_kept(self, publisher: str, after: int) -> bool:
        """Whether the bus has all that came behind a position. It has not where it lost its store and counts
        anew, or where that was so long ago that it has been thrown away since."""
        first, last = await self._bus.extent(publisher.upper())
        return first - 1 <= after <= last

    async def follow(
        self,
        caller: Caller,
        watch: Watch,
        *,
        position: Position,
        write: Write,
        gone: Coroutine[Any, Any, None],
    ) -> bool:
        """Writes events for a client until it, or we, end; then tells whether the end was a clean one."""
        listener = Listener(watch)
        with ExitStack() as stack:
            joined = Position(
                **{name: stack.enter_context(feed.joined(listener)) for name, feed in self._feeds.items()}
            )
            writing = self._write(listener, position, joined, write)
            try:
                await until_one_ends(
                    writing, gone, self._guard(caller, watch), self._stopping.wait(), listener.lost.wait()
                )
            except _SlowError:
                listener.lost.set()
        if listener.lost.is_set():
            log.info("live.cut", caller=caller.principal.subject)
        return not listener.lost.is_set()

    async def _write(self, listener: Listener, position: Position, joined: Position, write: Write) -> None:
        """First what the client has missed until it joined, then what came since."""
        for name, feed in self._feeds.items():
            until = getattr(joined, name)
            # Where the stream was made anew in this very moment, what came since is all that there is.
            async for fact in feed.missed(listener.watch, after=getattr(position, name), until=until):
                position = await _tell(fact, position, write)
            position = replace(position, **{name: until})
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    fact = await listener.waiting.get()
            except TimeoutError:
                await _send(write, b": still here\n\n")
                continue
            position = await _tell(fact, position, write)

    async def hear_revocations(self) -> None:
        """Drops from the cache what is no longer so, and ends the streams of whom it is about. For ever."""
        await self._checker.follow(self._bus, self._hear)

    def _hear(self, event: quota_events.QuotaEvent) -> None:
        arm = event.WhichOneof("event")
        if arm == "token_revoked":
            gone = {event.token_revoked.token.uid}
        elif arm in ("member_updated", "member_removed"):
            user = getattr(event, arm).membership.user
            gone = {uid for uid, subject in self._bearers.items() if subject == user}
        else:
            gone = set()
        for uid in gone & self._revoked.keys():
            self._revoked[uid].set()

    async def _guard(self, caller: Caller, watch: Watch) -> None:
        """Returns once the caller may not see the team any more."""
        uid = caller.principal.token_uid
        revoked = self._revoked.setdefault(uid, asyncio.Event())
        self._bearers[uid] = caller.principal.subject
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await revoked.wait()
                self._revoked.pop(uid, None)
                self._bearers.pop(uid, None)
                return
            except TimeoutError:
                pass
            try:
                require(await self._checker.check(caller.token), watch.team, Role.VIEWER)
            except Unavailable:
                continue  # nobody can say now; what was right 15 s ago stays so
            except DomainError:
                return


def frame(position: Position, kind: str, data: bytes) -> bytes:
    """One event on the wire."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(position).encode(), kind.encode(), data)


async def _tell(fact: Fact, position: Position, write: Write) -> Position:
    """Writes a fact; the position that the client has reached by it."""
    position = replace(position, **{fact.publisher: fact.sequence})
    await _send(write, frame(position, fact.type, fact.told[1]))
    return position


async def _send(write: Write, data: bytes) -> None:
    try:
        async with asyncio.timeout(SLOW_SECONDS):
            await write(data)
    except TimeoutError:
        raise _SlowError from None
