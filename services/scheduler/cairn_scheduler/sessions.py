"""Sessions with running attempts: two bounded pipes each, and where the two ends meet.

Only in memory: a session ends with either end, and with this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from google.protobuf.message import Message

from cairn.scheduler.v1 import attach_pb2
from cairn_common.errors import DomainError, NotFound, Reason, ResourceExhausted, Unavailable

RUNNER_SECONDS = 20.0
MOST_SESSIONS = 200
MOST_SESSIONS_EACH = 64
_KNOCK_SECONDS = 2.0
# Both ends keep windows of 512 KiB, so a pipe fills only where one of them does not.
_ROOM_BYTES = 1024 * 1024
_MESSAGE_BYTES = 64

M = TypeVar("M", bound=Message)


class Pipe(Generic[M]):
    """One way, bounded; what was put before it was closed is still read."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[tuple[M] | None] = asyncio.Queue()
        self._held = 0
        self._moved = asyncio.Event()
        self._closed = False

    async def put(self, item: M) -> None:
        """Waits for room. Into a closed pipe it goes nowhere."""
        while self._held >= _ROOM_BYTES and not self._closed:
            self._moved.clear()
            await self._moved.wait()
        if not self._closed:
            self._held += item.ByteSize() + _MESSAGE_BYTES
            self._items.put_nowait((item,))

    def close(self) -> None:
        """Ends it for both."""
        if not self._closed:
            self._closed = True
            self._items.put_nowait(None)
            self._moved.set()

    async def items(self) -> AsyncGenerator[M, None]:
        """For one reader, once."""
        while (item := await self._items.get()) is not None:
            self._held -= item[0].ByteSize() + _MESSAGE_BYTES
            self._moved.set()
            yield item[0]


@dataclass(eq=False, slots=True)
class Session:
    """One command or connection, between a person and a runner."""

    uid: str
    # users/{user}
    actor: str
    team: str
    job_uid: str
    attempt_uid: str
    attempt_number: int
    start: attach_pb2.AttachStart
    open_time: datetime
    inputs: Pipe[attach_pb2.Input] = field(default_factory=Pipe)
    outputs: Pipe[attach_pb2.Output] = field(default_factory=Pipe)
    # Set once a runner carries it, or it has ended.
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    carried: bool = False
    ended: bool = False
    error: DomainError | None = None

    def end(self, error: DomainError | None = None) -> None:
        """Ends it for both ends; the first word on why is kept."""
        if not self.ended:
            self.ended, self.error = True, error
            self.inputs.close()
            self.outputs.close()
            self.settled.set()


Knock = Callable[[Session], Awaitable[None]]


class Meeting:
    """Where people and runners find each other. `knock` tells a runner that somebody waits; it may fail."""

    def __init__(self, knock: Knock) -> None:
        self._knock = knock
        self._sessions: dict[str, Session] = {}
        self._runners: dict[str, list[_Runner]] = {}

    @contextmanager
    def opened(self, session: Session) -> Iterator[None]:
        """Keeps a session for the block, and ends it after. Raises ResourceExhausted."""
        self._hold_limits(session.actor)
        self._sessions[session.uid] = session
        try:
            yield
        finally:
            del self._sessions[session.uid]
            session.end()

    async def settle(self, session: Session) -> None:
        """Waits until a runner carries it. Raises Unavailable (RUNNER_SILENT), or what ended it meanwhile."""
        known = [runner for runner in self._runners.get(session.attempt_uid, ()) if runner.serves(session)]
        for runner in known:
            runner.waiting.put_nowait(session.uid)
        try:
            async with asyncio.timeout(RUNNER_SECONDS):
                if not known:
                    await self._knock(session)
                while not await _within(session.settled, _KNOCK_SECONDS):
                    await self._knock(session)
        except TimeoutError:
            raise Unavailable(
                f"the job's runner did not answer within {RUNNER_SECONDS:g} s: its node cannot reach the "
                "platform now, or it is still fetching its code",
                reason=Reason.RUNNER_SILENT,
            ) from None
        if session.error is not None:
            raise session.error

    async def serve(self, attempt_uid: str, ranks: Collection[int]) -> AsyncGenerator[str, None]:
        """The uids of sessions that wait for this runner, for as long as it listens."""
        runner = _Runner(frozenset(ranks))
        for session in self._sessions.values():
            if session.attempt_uid == attempt_uid and not session.carried and runner.serves(session):
                runner.waiting.put_nowait(session.uid)
        self._runners.setdefault(attempt_uid, []).append(runner)
        try:
            while True:
                uid = await runner.waiting.get()
                if uid in self._sessions:
                    yield uid
        finally:
            self._runners[attempt_uid].remove(runner)
            if not self._runners[attempt_uid]:
                del self._runners[attempt_uid]

    @contextmanager
    def carried(self, uid: str, *, attempt_uid: str) -> Iterator[Session]:
        """A runner's end of a session, for the block. Raises NotFound (SESSION_NOT_FOUND)."""
        session = self._sessions.get(uid)
        if session is None or session.attempt_uid != attempt_uid or session.carried or session.ended:
            raise NotFound(
                f"there is no session {uid[:40]!r} that waits for this attempt",
                reason=Reason.SESSION_NOT_FOUND,
            )
        session.carried = True
        session.settled.set()
        try:
            yield session
        finally:
            session.end(
                Unavailable(
                    "the connection to the job's node broke; the session has ended",
                    reason=Reason.SESSION_LOST,
                )
            )

    def _hold_limits(self, actor: str) -> None:
        mine = sum(session.actor == actor for session in self._sessions.values())
        if mine >= MOST_SESSIONS_EACH or len(self._sessions) >= MOST_SESSIONS:
            raise ResourceExhausted(
                f"{mine} sessions of yours and {len(self._sessions)} of all are open; at most "
                f"{MOST_SESSIONS_EACH} and {MOST_SESSIONS} may be: end one first",
                reason=Reason.RATE_EXCEEDED,
            )


class _Runner:
    """A runner that listens; without ranks it serves all of its attempt's."""

    def __init__(self, ranks: Iterable[int]) -> None:
        self._ranks = frozenset(ranks)
        self.waiting: asyncio.Queue[str] = asyncio.Queue()

    def serves(self, session: Session) -> bool:
        return not self._ranks or session.start.rank in self._ranks


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
