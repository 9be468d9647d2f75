"""Live updates: what happens in a team, as server-sent events that resume without loss.

Each event carries the positions reached in the streams behind it as its ``id:``. A client that comes back
with ``Last-Event-ID`` goes on behind them, on this gateway or another one: nothing is kept here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import structlog
from google.protobuf.message import DecodeError, Message

from cairn.quota.v1 import events_pb2 as quota_events
from cairn.scheduler.v1 import events_pb2 as scheduler_events
from cairn.tracker.v1 import events_pb2 as tracker_events
from cairn_common import subjects
from cairn_common.auth import Role, TokenChecker, require
from cairn_common.bus import Bus
from cairn_common.bus import Message as BusMessage
from cairn_common.errors import DomainError, InvalidArgument, Reason, Unavailable
from cairn_gateway import wire
from cairn_gateway.tasks import until_one_ends
from cairn_gateway.upstream import Caller

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 15.0
SLOW_SECONDS = 10.0
MOST_WAITING = 256
MOST_ENCODED = 512

_PUBLISHERS: dict[str, type[Message]] = {
    "scheduler": scheduler_events.SchedulerEvent,
    "tracker": tracker_events.TrackerEvent,
}
TYPES = frozenset(
    field.name.replace("_", ".")
    for kind in _PUBLISHERS.values()
    for field in kind.DESCRIPTOR.oneofs_by_name["event"].fields
)
"""What `types` can ask for: ``job.finished``, ``run.updated`` ..."""

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


@dataclass(frozen=True, slots=True)
class Watch:
    """Which events a client wants: those of a team; of these jobs and runs alone; of these types alone."""

    team: str
    # A job and its run have one uid. Empty: all of the team's.
    uids: frozenset[str] = frozenset()
    # Empty: all.
    types: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Told:
    """One event as it goes out; without data it only moves the position."""

    publisher: str
    sequence: int
    type: str = ""
    data: bytes = b""


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
        self._encoded: OrderedDict[tuple[str, int, object], tuple[str, bytes]] = OrderedDict()

    def stop(self) -> None:
        """Ends all clients' streams; they come back to whoever serves next."""
        self._stopping.set()

    async def begin(self, last_event_id: str) -> tuple[Position, bool]:
        """Where a client starts, and whether it missed events that are gone. Raises InvalidArgument for an id
        that is none, Unavailable while the bus is away."""
        if self._stopping.is_set():
            raise Unavailable("shutting down; call again", reason=Reason.SHUTTING_DOWN)
        given = Position.parse(last_event_id) if last_event_id else None
        try:
            async with asyncio.timeout(5.0):
                now = Position(
                    scheduler=await self._bus.last_sequence("SCHEDULER"),
                    tracker=await self._bus.last_sequence("TRACKER"),
                )
        except TimeoutError:
            raise Unavailable("the bus does not answer", reason=Reason.BUS_UNAVAILABLE) from None
        if given is None:
            return now, False
        if given.scheduler > now.scheduler or given.tracker > now.tracker:
            return now, True  # the bus lost its store and counts anew
        return given, False

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
        waiting: asyncio.Queue[Told] = asyncio.Queue(MOST_WAITING)
        pumps = [
            self._pump(publisher, watch, getattr(position, publisher) + 1, waiting)
            for publisher in _PUBLISHERS
        ]
        writing = _write(waiting, position, write)
        try:
            await until_one_ends(*pumps, writing, gone, self._guard(caller, watch), self._stopping.wait())
        except _SlowError:
            log.info("live.cut", caller=caller.principal.subject)
            return False
        return True

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

    async def _pump(self, publisher: str, watch: Watch, start: int, waiting: asyncio.Queue[Told]) -> None:
        wanted = [f"cairn.v1.{publisher}.*.*.{watch.team}.*"]
        tail = self._bus.tail(stream=publisher.upper(), subjects=wanted, start_sequence=start)
        async with aclosing(tail) as messages:
            async for message in messages:
                await waiting.put(self._told(publisher, watch, message))

    def _told(self, publisher: str, watch: Watch, message: BusMessage) -> Told:
        silent = Told(publisher=publisher, sequence=message.sequence)
        try:
            subject = subjects.parse(message.subject)
            kind = f"{subject.resource}.{subject.event}"
            if watch.types and kind not in watch.types:
                return silent
            about, data = self._encode(publisher, message)
        except (ValueError, DecodeError):
            log.warning("live.unreadable", subject=message.subject, sequence=message.sequence)
            return silent
        if not data or (watch.uids and not watch.uids & {subject.uid, about}):
            return silent
        return replace(silent, type=kind, data=data)

    def _encode(self, publisher: str, message: BusMessage) -> tuple[str, bytes]:
        """The run that an event is about beside its subject, and its JSON; encoded once for all clients."""
        key = (message.subject, message.sequence, message.time)
        if key not in self._encoded:
            self._encoded[key] = encode(_PUBLISHERS[publisher], message.data)
            if len(self._encoded) > MOST_ENCODED:
                self._encoded.popitem(last=False)
        return self._encoded[key]

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


def encode(kind: type[Message], payload: bytes) -> tuple[str, bytes]:
    """The uid of the run that a fact's artifact came from, and the fact as JSON.

    The JSON is that of its one field, or of all of its fields where it has several; empty for a fact newer
    than this gateway.
    """
    fact = kind.FromString(payload)
    arm = fact.WhichOneof("event")
    if arm is None:
        return "", b""
    told = getattr(fact, arm)
    version = getattr(told, "version", None)
    about = version.run.rpartition("/")[2] if version is not None else ""
    fields = told.DESCRIPTOR.fields
    resource = getattr(told, fields[0].name) if len(fields) == 1 else told
    return about, wire.dumps(wire.to_json(resource))


def frame(position: Position, kind: str, data: bytes) -> bytes:
    """One event on the wire."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(position).encode(), kind.encode(), data)


async def _write(waiting: asyncio.Queue[Told], position: Position, write: Write) -> None:
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                told = await waiting.get()
        except TimeoutError:
            await _send(write, b": still here\n\n")
            continue
        position = (
            replace(position, scheduler=told.sequence)
            if told.publisher == "scheduler"
            else replace(position, tracker=told.sequence)
        )
        if told.data:
            await _send(write, frame(position, told.type, told.data))


async def _send(write: Write, data: bytes) -> None:
    try:
        async with asyncio.timeout(SLOW_SECONDS):
            await write(data)
    except TimeoutError:
        raise _SlowError from None
