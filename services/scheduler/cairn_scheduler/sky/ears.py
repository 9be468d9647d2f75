"""The scheduler's side of what runners say and hear: one tail on the stream of attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import NoReturn

import structlog
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from cairn.job.v1 import events_pb2
from cairn.scheduler.v1 import events_pb2 as scheduler_events
from cairn_common import subjects
from cairn_common.bus import Bus, Message, connect
from cairn_common.errors import Unavailable
from cairn_common.ids import new_uid
from cairn_scheduler.facts import SELF

log = structlog.get_logger(__name__)

# Apart from what jobs log: however much of that waits, or has no room, these words come at once.
STREAM = "ATTEMPT"
# How soon the stream of another team is seen.
_LOOK_SECONDS = 5.0
# Where runners of earlier releases say them, among what their jobs log.
_EARLIER = [f"cairn.v1.job.run.attempt-{word}.>" for word in ("started", "ended", "beat", "drained")]


class Ears:
    """Hears runners, from a place in the stream that is chosen once; tells them to stop."""

    def __init__(self, url: str, seed: SecretStr | str | None) -> None:
        self._url = url
        self._seed = seed
        self._bus: Bus | None = None
        # What was heard last, or what the stream held at the beginning; None: not known yet.
        self.sequence: int | None = None

    async def run(
        self, hear: Callable[[events_pb2.JobEvent], None], *, since: int | None, elsewhere: bool = False
    ) -> NoReturn:
        """Hears for ever, from after `since` on (None: new words only), whenever the bus is there.

        `elsewhere`: also runners of earlier releases."""
        while True:
            try:
                async with connect(self._url, seed=self._seed, name="scheduler-sky") as bus:
                    # The tracker's to make; whoever comes first makes the same.
                    await bus.ensure_stream(STREAM, subjects.STREAMS[STREAM])
                    if self.sequence is None:
                        self.sequence = await bus.last_sequence(STREAM) if since is None else since
                    self._bus = bus
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(self._listen(bus, hear))
                        if elsewhere:
                            tasks.create_task(_listen_elsewhere(bus, hear))
            except* Unavailable:
                log.warning("sky.bus_waiting")
            finally:
                self._bus = None

    async def tell_stop(self, *, team: str, run_uid: str, attempt_uid: str, notice: str) -> None:
        """Tells an attempt's runners that it is to end. Raises Unavailable."""
        if self._bus is None:
            raise Unavailable("the bus is away")
        time = Timestamp()
        time.FromDatetime(datetime.now(UTC))
        fact = scheduler_events.SchedulerEvent(id=new_uid(), time=time, actor=SELF)
        fact.attempt_stopping.job_uid = run_uid
        fact.attempt_stopping.attempt_uid = attempt_uid
        fact.attempt_stopping.notice = notice
        to = subjects.subject("scheduler", "attempt", "stopping", team, run_uid)
        await self._bus.publish(to, fact.SerializeToString(), msg_id=fact.id)

    async def _listen(self, bus: Bus, hear: Callable[[events_pb2.JobEvent], None]) -> None:
        start = (self.sequence or 0) + 1
        wanted = list(subjects.STREAMS[STREAM])
        async with aclosing(bus.tail(stream=STREAM, subjects=wanted, start_sequence=start)) as messages:
            async for message in messages:
                self.sequence = message.sequence
                event = _event(message)
                if event is not None:
                    hear(event)


async def _listen_elsewhere(bus: Bus, hear: Callable[[events_pb2.JobEvent], None]) -> None:
    followed: set[str] = set()
    async with asyncio.TaskGroup() as tasks:
        while True:
            for stream in sorted(set(await bus.kept_streams()) - followed):
                followed.add(stream)
                tasks.create_task(_listen_to(stream, bus, hear))
            await asyncio.sleep(_LOOK_SECONDS)


async def _listen_to(stream: str, bus: Bus, hear: Callable[[events_pb2.JobEvent], None]) -> None:
    async with aclosing(bus.tail(stream=stream, subjects=_EARLIER, start_sequence=1)) as messages:
        async for message in messages:
            if (event := _event(message)) is not None:
                hear(event)


def _event(message: Message) -> events_pb2.JobEvent | None:
    """None for what is no event of the run in its subject: only that run's own token may publish there."""
    try:
        subject = subjects.parse(message.subject)
        event = events_pb2.JobEvent.FromString(message.data)
    except (ValueError, DecodeError):
        log.warning("sky.unreadable", subject=message.subject)
        return None
    return event if (event.team, event.run_uid) == (subject.team, subject.uid) else None
