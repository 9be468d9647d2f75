"""Ships a spool to the bus: at least once, in order per writer, never dropping, whatever the bus does.

Messages of points go out without waiting for each other: the tracker knows each by the bytes that it stands
for, and which value shows does not hang on their order. Anything else of a writer waits for what was written
before it, and is waited for. A bus that is full is asked again, seldom, writer by writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn._link import MOST_TOGETHER, Apart, Full, Link, Listen, Refused, Trouble
from cairn._reach import Way, reach
from cairn._segments import writers
from cairn._tail import Tail

if TYPE_CHECKING:
    from cairn._batch import Identity, Message

_log = logging.getLogger("cairn")

POLL_SECONDS = 0.2
# Who follows a log sees a line within a second also after a silence.
IDLE_POLL_SECONDS = 0.5
# A bus that takes long has many to hear: each is to send less often then, and more at a time. So many times
# as long as a round took is rested, up to this. Seconds.
REST = 5.0
LONGEST_POLL_SECONDS = 2.0
BACK_OFF_SECONDS = (0.1, 10.0)
# The body of a message that goes to the bus together with others like it.
SMALL_BYTES = 4 * 1024
# Whoever had so much to send has more at once; what a training loop logs meanwhile waits for the next poll.
MUCH_BYTES = 128 * 1024


class Shipper:
    """A thread that tails a spool and publishes what it holds.

    `bus_url` and `token` are asked before each connection: tokens rotate, and the address may have to be
    asked for. Both may block; both raise OSError or ValueError for "not now". `gateway` is the address of
    one through which the bus is reached where it is not by itself. `listens` is what to
    hear on the same connection, in the shipper's thread.
    """

    def __init__(
        self, spool: Path, identity: Identity, *, bus_url: Callable[[], str], token: Callable[[], str],
        gateway: str = "", listens: Sequence[Listen] = (),
    ) -> None:  # fmt: skip
        self.spool = spool
        self._identity = identity
        self._bus_url = bus_url
        self._token = token
        self._gateway = gateway
        self._listens = listens
        self._tails: dict[str, Tail] = {}
        self._held: dict[str, _Held] = {}
        self._way: Way | None = None
        self._changed = threading.Condition()
        self._answered: bool | None = None
        self._begun = self._found_empty = self._waiting = 0
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nudge: asyncio.Event | None = None
        self._stop: asyncio.Event | None = None
        self._stopping = False
        self._complained = False
        self._connecting: asyncio.Lock | None = None
        self._hurry: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins a thread that runs it."""
        self._thread = threading.Thread(target=self.run, name="cairn-shipper", daemon=True)
        self._thread.start()

    def wait_answer(self, timeout: float) -> bool:
        """Whether the bus answers, as soon as that is known; False after `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._answered is not None or self._ended, timeout)
            return bool(self._answered)

    @property
    def answered(self) -> bool:
        """Whether the bus gave an answer when it was last asked."""
        return bool(self._answered)

    @property
    def away(self) -> bool:
        """Whether the bus gave no answer when it was last asked, or has no room for some of it."""
        return self._answered is False or bool(self._held)

    def wait_empty(self, timeout: float, *, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Waits until all that lies in the spool now has been taken by the bus. False: it has not."""
        deadline = time.monotonic() + timeout
        with self._changed:
            wanted = self._begun + 1
            self._waiting += 1
            self._set(self._hurry)
            self._set(self._nudge)
            try:
                while self._found_empty < wanted:
                    left = deadline - time.monotonic()
                    if left <= 0 or self._ended or given_up():
                        return False
                    self._changed.wait(min(left, 0.5))
                return True
            finally:
                self._waiting -= 1

    def stop(self, timeout: float = 5.0) -> None:
        """Ends the thread; what is left stays in the spool."""
        self._stopping = True
        self._set(self._stop)
        if self._thread is not None:
            self._thread.join(timeout)

    def clean(self) -> None:
        """Removes writers whose last record has been taken. For a spool that nobody writes to any more."""
        assert self._thread is None or not self._thread.is_alive()
        for tail in self._tails.values():
            shutil.rmtree(tail.folder, ignore_errors=True)

    def _set(self, event: asyncio.Event | None) -> None:
        if self._loop is not None and event is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(event.set)

    def run(self) -> None:
        """Ships, in the thread that calls it, until `stop`."""
        self._thread = threading.current_thread()
        loop = self._loop = _Loop()
        try:
            loop.run_until_complete(self._main())
        except Exception:
            _log.exception("cairn: shipping ended by an error of its own; the spool keeps what is left")
        finally:
            loop.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    async def _main(self) -> None:
        self._nudge, self._stop, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._connecting = asyncio.Lock()
        if self._stopping:
            return
        work = asyncio.ensure_future(self._passes())
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        work.cancel()
        outcome = (await asyncio.gather(work, return_exceptions=True))[0]
        for tail in self._tails.values():
            tail.save()
        if self._way is not None:
            await self._way.link.close()
        if isinstance(outcome, Exception):
            raise outcome

    async def _passes(self) -> None:
        assert self._nudge is not None
        await self._connected()
        delay = POLL_SECONDS
        while True:
            self._nudge.clear()
            await self._look_again()
            with self._changed:
                self._begun += 1
                number = self._begun
            began = time.monotonic()
            moved = await self._ship_all()
            if moved >= MUCH_BYTES or (moved and self._waiting):
                continue
            if moved:
                delay = poll_after(time.monotonic() - began)
            elif not self._held:
                with self._changed:
                    self._found_empty = number
                    self._changed.notify_all()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._nudge.wait(), delay)
            if self._listens:
                await self._connected()  # with nothing to send there is still something to hear
            delay = min(delay * 1.2, IDLE_POLL_SECONDS)

    async def _ship_all(self) -> int:
        for folder in writers(self.spool):
            if folder.name not in self._tails:
                self._tails[folder.name] = Tail(folder)
        return sum(await asyncio.gather(*map(self._ship, self._tails.values())))

    async def _ship(self, tail: Tail) -> int:
        """Sends what one writer has, at most one read of it. Returns how many bytes of the spool that was.

        Where the bus has no room, the rest of it is held back, and no other writer waits for it.
        """
        held = self._held.get(tail.folder.name)
        if held is not None and not held.due:
            return 0
        pending = deque(tail.next() if held is None else held.messages)
        moved = 0
        while pending:
            going = self._at_once(pending)
            answers = await self._sent(tail, going)
            for message, answer in zip(going, answers, strict=True):
                if answer is not None:
                    break
                # Saved with what comes next: a crash before that sends these once more, and they count once.
                tail.taken(message)
                pending.popleft()
                moved += message.end - message.start
            if (full := next(filter(None, answers), None)) is not None:
                self._complain(full)
                self._held[tail.folder.name] = _Held(pending, held if not moved else None)
                return moved
        self._held.pop(tail.folder.name, None)
        return moved

    def _at_once(self, pending: Sequence[Message]) -> list[Message]:
        """What goes out next: small messages as a batch, points side by side, anything else by itself."""
        if self._way is None or self._way.link.batches:
            small = list(takewhile(_is_small, islice(pending, MOST_TOGETHER)))
            if len(small) > 1:
                return small
        return list(takewhile(_is_points, pending)) or [pending[0]]

    async def _sent(self, tail: Tail, messages: Sequence[Message]) -> Sequence[Full | None]:
        """Returns when the bus has stored them; of each why it has no room for it, if it has none."""
        encoded = [
            (
                message.subject(self._identity),
                message.encode(self._identity, writer=tail.folder.name, segment=tail.segment),
            )
            for message in messages
        ]
        if len(messages) > 1 and all(map(_is_small, messages)) and await self._together(encoded):
            return [None] * len(messages)
        if all(map(_is_points, messages)):
            return await asyncio.gather(*(self._one(*one) for one in encoded))
        answers = [await self._one(*encoded[0])]
        for one in encoded[1:]:
            answers.append(await self._one(*one) if answers[-1] is None else answers[-1])
        return answers

    async def _one(self, subject: str, data: bytes) -> Full | None:
        try:
            await self._publish(subject, data)
        except Full as error:
            return error
        return None

    async def _together(self, encoded: Sequence[tuple[str, bytes]]) -> bool:
        """Whether the bus has stored them as a batch. Those of another kind go one by one."""
        link = await self._connected()
        try:
            await link.publish_together(encoded)
        except (Apart, Refused):
            return False
        except Trouble as trouble:
            if trouble.fatal:
                await self._drop(link)
            return False
        self._complained = False
        return True

    async def _publish(self, subject: str, data: bytes) -> None:
        """Returns when the bus has stored it. Raises `Full`."""
        pause = _Pause(self._hurry)
        while True:
            link = await self._connected()
            try:
                await link.publish(subject, data)
                self._complained = False
                return
            except Refused as error:
                _log.error("cairn: left out %d bytes that the bus never takes: %s", len(data), error)
                return
            except Full:
                raise
            except Trouble as trouble:
                self._complain(trouble)
                if trouble.fatal:
                    await self._drop(link)
            await pause.take()

    async def _connected(self) -> Link:
        assert self._connecting is not None
        pause = _Pause(self._hurry)
        while True:
            async with self._connecting:
                if self._way is not None and self._way.link.usable:
                    return self._way.link
                try:
                    self._way = await reach(
                        self._bus_url, gateway=self._gateway, token=self._token(), listens=self._listens
                    )
                    self._answer(True)
                    return self._way.link
                except (OSError, ValueError, Trouble) as error:
                    self._answer(False)
                    self._complain(error)
            await pause.take()

    def _complain(self, error: Exception) -> None:
        """Says once, until the bus takes something again, why nothing moves."""
        if not self._complained:
            self._complained = True
            _log.warning(
                "cairn: no server takes what is logged (%s): it is kept in %s, and sent once one does",
                str(error) or type(error).__name__, self.spool,
            )  # fmt: skip

    async def _drop(self, link: Link) -> None:
        if self._way is not None and self._way.link is link:
            self._way = None
            self._answer(False)
        await link.close()

    async def _look_again(self) -> None:
        """Leaves a way that was taken for want of a better one, while nothing is on it."""
        if self._way is not None and self._way.worn:
            way, self._way = self._way, None
            await way.link.close()

    def _answer(self, answered: bool) -> None:
        with self._changed:
            self._answered = answered
            self._changed.notify_all()


def _is_small(message: Message) -> bool:
    """Whether a batch of such messages is better than each by itself: the bus writes those of one twice."""
    return len(message.body) <= SMALL_BYTES and not message.is_soon


def _is_points(message: Message) -> bool:
    return message.arm == "points_logged"


def poll_after(seconds: float) -> float:
    """How long to rest after a round that sent something and took so long."""
    return min(max(POLL_SECONDS, REST * seconds), LONGEST_POLL_SECONDS)


class _Held:
    """What the bus had no room for; each time again it rests longer."""

    def __init__(self, messages: deque[Message], before: _Held | None) -> None:
        self.messages = messages
        least, most = BACK_OFF_SECONDS
        self._seconds: float = least if before is None else min(before._seconds * 2, most)
        self._until = time.monotonic() + self._seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    @property
    def due(self) -> bool:
        """Whether to try again."""
        return time.monotonic() >= self._until


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up in its own thread: the default's thread pool is gone while the interpreter exits."""

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        return socket.getaddrinfo(host, port, family, type, proto, flags)


class _Pause:
    """Back-off with jitter between tries; `hurry` cuts it short once."""

    def __init__(self, hurry: asyncio.Event | None) -> None:
        self._seconds, self._most = BACK_OFF_SECONDS
        self._hurry = hurry or asyncio.Event()

    async def take(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter
                await self._hurry.wait()
        self._hurry.clear()
        self._seconds = min(self._seconds * 2, self._most)
