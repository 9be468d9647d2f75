"""Facts as they come over the bus, read once for all clients of this process, each put into JSON once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

import structlog
from google.protobuf.message import DecodeError, Message

from cairn.scheduler.v1 import events_pb2 as scheduler_events
from cairn.tracker.v1 import events_pb2 as tracker_events
from cairn_common import subjects
from cairn_common.bus import Bus
from cairn_common.bus import Message as BusMessage
from cairn_gateway import wire

log = structlog.get_logger(__name__)

MOST_WAITING = 1024
"""Facts that one client may be behind; it comes back by id when it is cut."""
# What is kept for those who come back within a while: so many facts, of so many bytes together.
MOST_RECENT = 1000
MOST_RECENT_BYTES = 4 * 1024 * 1024

PUBLISHERS: dict[str, type[Message]] = {
    "scheduler": scheduler_events.SchedulerEvent,
    "tracker": tracker_events.TrackerEvent,
}
TYPES = frozenset(
    field.name.replace("_", ".")
    for kind in PUBLISHERS.values()
    for field in kind.DESCRIPTOR.oneofs_by_name["event"].fields
)
"""What `types` can ask for: ``job.finished``, ``run.updated`` ..."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Which events a client wants: those of a team; of these jobs and runs alone; of these types alone."""

    team: str
    # A job and its run have one uid. Empty: all of the team's.
    uids: frozenset[str] = frozenset()
    # Empty: all.
    types: frozenset[str] = frozenset()


class Fact:
    """One message of a stream, read only as far as somebody wants it."""

    def __init__(self, publisher: str, message: BusMessage) -> None:
        self.publisher = publisher
        self.sequence = message.sequence
        self._message = message
        try:
            subject = subjects.parse(message.subject)
            self.team, self.uid, self.type = (
                subject.team,
                subject.uid,
                f"{subject.resource}.{subject.event}",
            )
        except ValueError:
            self.team = self.uid = self.type = ""

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return len(self._message.data)

    @cached_property
    def told(self) -> tuple[str, bytes]:
        """The run that it is about beside its subject, and its JSON: empty for what cannot be read."""
        try:
            return encode(PUBLISHERS[self.publisher], self._message.data)
        except (ValueError, DecodeError):
            log.warning("feed.unreadable", subject=self._message.subject, sequence=self.sequence)
            return "", b""

    def is_for(self, watch: Watch) -> bool:
        """Whether a client wants it."""
        if self.team != watch.team or (watch.types and self.type not in watch.types):
            return False
        about, data = self.told
        return bool(data) and (not watch.uids or bool(watch.uids & {self.uid, about}))


@dataclass(eq=False, slots=True)
class Listener:
    """What waits for one client."""

    watch: Watch
    waiting: asyncio.Queue[Fact] = field(default_factory=lambda: asyncio.Queue(MOST_WAITING))
    # It did not read fast enough, and something is missing in `waiting`.
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, fact: Fact) -> None:
        """Hands it over, if it is wanted."""
        if self.lost.is_set() or not fact.is_for(self.watch):
            return
        try:
            self.waiting.put_nowait(fact)
        except asyncio.QueueFull:
            self.lost.set()


class Feed:
    """One publisher's stream, for everybody who listens in this process."""

    def __init__(self, bus: Bus, publisher: str) -> None:
        self._bus = bus
        self._publisher = publisher
        self._stream = publisher.upper()
        self._by_team: dict[str, set[Listener]] = {}
        self._recent: deque[Fact] = deque()
        self._recent_bytes = 0
        self._ready = asyncio.Event()
        self.position = 0

    async def run(self) -> NoReturn:
        """Reads, for ever; from a little before now, for those who were there before this process was."""
        first, last = await self._bus.extent(self._stream)
        start = max(first, last + 1 - MOST_RECENT)
        self.position = start - 1
        if start > last:
            self._ready.set()
        tail = self._bus.tail(
            stream=self._stream, subjects=[f"cairn.v1.{self._publisher}.>"], start_sequence=start
        )
        async with aclosing(tail) as messages:
            async for message in messages:
                self._hand_out(Fact(self._publisher, message))
                if message.sequence >= last or message.pending == 0:
                    self._ready.set()
        raise AssertionError("a tail has no end")

    async def ready(self) -> None:
        """Returns once it has what was there when it began."""
        await self._ready.wait()

    @contextmanager
    def joined(self, listener: Listener) -> Iterator[int]:
        """Hands what comes to the listener, for the block; the position behind which it begins."""
        same = self._by_team.setdefault(listener.watch.team, set())
        same.add(listener)
        try:
            yield self.position
        finally:
            same.discard(listener)
            if not same:
                self._by_team.pop(listener.watch.team, None)

    async def missed(self, watch: Watch, *, after: int, until: int) -> AsyncIterator[Fact]:
        """What a client wants of the facts behind one position, up to another one."""
        if after >= until:
            return
        if self._recent and after >= self._recent[0].sequence - 1:
            for fact in [fact for fact in self._recent if after < fact.sequence <= until]:
                if fact.is_for(watch):
                    yield fact
            return
        wanted = [f"cairn.v1.{self._publisher}.*.*.{watch.team}.*"]
        tail = self._bus.tail(
            stream=self._stream, subjects=wanted, start_sequence=after + 1, end_sequence=until
        )
        async with aclosing(tail) as messages:
            async for message in messages:
                fact = Fact(self._publisher, message)
                if fact.is_for(watch):
                    yield fact

    def _hand_out(self, fact: Fact) -> None:
        if fact.sequence <= self.position:
            # The stream was made anew, and counts from the beginning.
            self._recent.clear()
            self._recent_bytes = 0
        self.position = fact.sequence
        self._recent.append(fact)
        self._recent_bytes += fact.size
        while len(self._recent) > MOST_RECENT or self._recent_bytes > MOST_RECENT_BYTES:
            self._recent_bytes -= self._recent.popleft().size
        for listener in self._by_team.get(fact.team, ()):
            listener.put(fact)


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
