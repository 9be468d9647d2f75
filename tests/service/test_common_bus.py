"""The bus's consumers and tails, against a real server that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from cairn.job.v1.events_pb2 import JobEvent
from cairn_common import subjects
from cairn_common.bus import Bus, Lag, Message, Unusable, connect
from cairn_common.db import Database, pool
from cairn_common.errors import FailedPrecondition, Unavailable
from cairn_common.ids import new_uid
from cairn_common.migrate import migrate
from tests.harness import servers


class _NoFiles:
    """A service without migrations of its own."""

    name = "none"

    def iterdir(self) -> Iterator[object]:
        return iter(())


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    async with connect(nats_url, name="test") as made:
        yield made


@pytest.fixture
async def db(database_url: Callable[[str], str]) -> AsyncIterator[Database]:
    url = database_url("bus")
    await migrate(url, "bus", _NoFiles())  # type: ignore[arg-type]
    async with pool(url, schema="bus") as made:
        yield made


# The server is every test's, and keeps 20 GB: a stream takes its limit from that, and stays.
SMALL = 2**27


@pytest.fixture
async def stream(bus: Bus) -> str:
    name = f"T{new_uid()}"
    await bus.ensure_stream(name, [f"{name}.>"], max_bytes=SMALL)
    return name


class Seen:
    """What a handler was handed; tells when something holds."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self._changed = asyncio.Condition()

    @property
    def all(self) -> list[bytes]:
        return [data for batch in self.batches for data in batch]

    async def add(self, messages: Sequence[Message]) -> None:
        async with self._changed:
            self.batches.append([message.data for message in messages])
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool], *, within: float = 60.0) -> None:
        async with asyncio.timeout(within), self._changed:
            await self._changed.wait_for(holds)


@asynccontextmanager
async def running(work: object) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def publish(bus: Bus, subject: str, *payloads: bytes) -> None:
    """Publishes as the relay does: again, with the same id, until the bus has it."""
    for payload in payloads:
        msg_id = new_uid()
        async with asyncio.timeout(20):
            while True:
                try:
                    await bus.publish(subject, payload, msg_id=msg_id)
                    break
                except Unavailable:
                    continue


async def test_a_consumer_goes_on_where_it_acknowledged(bus: Bus, db: Database, stream: str) -> None:
    await publish(bus, f"{stream}.a", b"1", b"2", b"3")
    for expected, more in ((b"1 2 3", b"4"), (b"4 5", b"6")):
        seen = Seen()
        if more == b"6":
            await publish(bus, f"{stream}.a", b"5")
        consuming = bus.consume(stream=stream, durable="d", subjects=[f"{stream}.>"], handler=seen.add, db=db)
        async with running(consuming):
            await seen.until(lambda: len(seen.all) == len(expected.split()))  # noqa: B023
            assert seen.all == expected.split()
            await _until_acknowledged(bus, stream, "d")
        if more == b"4":
            await publish(bus, f"{stream}.a", b"4")


async def test_a_batch_of_large_messages_is_smaller(bus: Bus, db: Database, stream: str) -> None:
    await publish(bus, f"{stream}.a", *(bytes([n]) * 900_000 for n in range(20)))
    seen = Seen()
    consuming = bus.consume(stream=stream, durable="d", subjects=[f"{stream}.>"], handler=seen.add, db=db)
    async with running(consuming):
        await seen.until(lambda: len(seen.all) == 20)
    assert [data[0] for data in seen.all] == list(range(20))
    assert max(sum(map(len, batch)) for batch in seen.batches) <= 8 * 2**20


async def test_while_a_handler_is_slow_what_waits_stays_in_the_stream(
    bus: Bus, db: Database, stream: str
) -> None:
    await publish(bus, f"{stream}.a", *(bytes([n]) * 900_000 for n in range(30)))
    seen, gate = Seen(), asyncio.Event()

    async def slow(messages: Sequence[Message]) -> None:
        await seen.add(messages)
        await gate.wait()

    consuming = bus.consume(stream=stream, durable="d", subjects=[f"{stream}.>"], handler=slow, db=db)
    async with running(consuming):
        await seen.until(lambda: bool(seen.all))
        async with asyncio.timeout(20):
            while (await bus._link.stream.consumer_info(stream, "d")).num_waiting:
                pass
        held = await bus._link.stream.consumer_info(stream, "d")
        assert (held.num_ack_pending or 0) * 900_000 <= 8 * 2**20
        assert held.num_pending == 30 - (held.num_ack_pending or 0)
        gate.set()
        await seen.until(lambda: len(seen.all) == 30)
    assert [data[0] for data in seen.all] == list(range(30))


async def test_how_far_a_consumer_is_behind_is_told_in_messages_and_seconds(
    bus: Bus, db: Database, stream: str
) -> None:
    with pytest.raises(Unavailable):
        await bus.lag(stream=f"{stream}-not-there", durable="d")
    assert await bus.lag(stream=stream, durable="d") == Lag(0, 0.0)
    gate = asyncio.Event()
    seen = Seen()

    async def slow(messages: Sequence[Message]) -> None:
        await seen.add(messages)
        await gate.wait()

    consuming = bus.consume(
        stream=stream, durable="d", subjects=[f"{stream}.>"], handler=slow, db=db, batch=2
    )
    await publish(bus, f"{stream}.a", b"1", b"2", b"3", b"4", b"5")
    assert (await bus.lag(stream=stream, durable="d")).messages == 5, "nobody has ever read from it"
    async with running(consuming):
        await seen.until(lambda: bool(seen.all))
        lag = await bus.lag(stream=stream, durable="d")
        assert lag.messages == 5
        async with asyncio.timeout(20):
            while (await bus.lag(stream=stream, durable="d")).seconds < lag.seconds + 0.2:
                pass
        gate.set()
        async with asyncio.timeout(20):
            while await bus.lag(stream=stream, durable="d") != Lag(0, 0.0):
                pass


async def test_messages_that_a_handler_calls_unusable_are_buried_and_nothing_is_handed_over_again(
    bus: Bus, db: Database, stream: str
) -> None:
    await publish(bus, f"{stream}.a", *(str(number).encode() for number in range(20)))
    seen = Seen()

    async def strict(messages: Sequence[Message]) -> None:
        await seen.add(messages)
        bad = [(message, ValueError("odd")) for message in messages if int(message.data) % 2]
        if bad:
            raise Unusable(bad)

    consuming = bus.consume(stream=stream, durable="d", subjects=[f"{stream}.>"], handler=strict, db=db)
    async with running(consuming):
        await seen.until(lambda: len(seen.all) >= 20)
        await _until_acknowledged(bus, stream, "d")
    assert [int(data) for data in seen.all] == list(range(20))
    rows = await db.fetch("SELECT payload, error, tries FROM dead_letters ORDER BY sequence")
    assert [(int(row["payload"]), row["error"], row["tries"]) for row in rows] == [
        (number, "ValueError: odd", 1) for number in range(1, 20, 2)
    ]


async def _until_acknowledged(bus: Bus, stream: str, durable: str) -> None:
    async with asyncio.timeout(10):
        while (await bus._link.stream.consumer_info(stream, durable)).num_ack_pending:
            await asyncio.sleep(0.01)


async def test_what_a_killed_consumer_had_in_hand_comes_again_at_once_and_in_order(
    nats_url: str, bus: Bus, db: Database, stream: str
) -> None:
    await publish(bus, f"{stream}.a", *(b"%d" % n for n in range(10)))
    stuck = Seen()

    async def hang(messages: Sequence[Message]) -> None:
        await stuck.add(messages)
        if messages[-1].sequence > 4:
            await asyncio.Event().wait()

    async with connect(nats_url, name="killed") as other:
        consuming = other.consume(
            stream=stream, durable="d", subjects=[f"{stream}.>"], handler=hang, db=db, batch=4
        )
        async with running(consuming):
            await stuck.until(lambda: len(stuck.all) >= 8)
    seen = Seen()
    consuming = bus.consume(stream=stream, durable="d", subjects=[f"{stream}.>"], handler=seen.add, db=db)
    async with running(consuming):
        # The bus itself would give them back after 30 s, behind the two that were never delivered.
        await seen.until(lambda: b"9" in seen.all, within=10)
    assert seen.all == [b"%d" % n for n in range(4, 10)]


async def test_one_poison_message_is_buried_and_the_others_pass_in_order(
    bus: Bus, db: Database, stream: str
) -> None:
    applied = Seen()
    tries: list[int] = []

    async def handle(messages: Sequence[Message]) -> None:
        for message in messages:
            if message.data == b"bad":
                tries.append(len(messages))
                raise ValueError("cannot be read")
            if message.data == b"early":
                raise FailedPrecondition("not yet")
        await applied.add(messages)

    payloads = [b"%d" % n for n in range(40)]
    payloads[7] = b"bad"
    payloads[23] = b"early"
    await publish(bus, f"{stream}.a", *payloads)
    good = [payload for payload in payloads if payload.isdigit()]
    consuming = bus.consume(stream=stream, durable="d", subjects=[f"{stream}.>"], handler=handle, db=db)
    async with running(consuming):
        await applied.until(lambda: len(applied.all) >= len(good))
        assert applied.all == good
        await _until_acknowledged(bus, stream, "d")
    assert tries.count(1) == 5
    rows = await db.fetch(
        "SELECT consumer, sequence, payload, error, tries FROM dead_letters"
        " WHERE stream = $1 ORDER BY sequence",
        stream,
    )
    assert [
        (row["consumer"], row["sequence"], row["payload"], row["error"], row["tries"]) for row in rows
    ] == [
        ("d", 8, b"bad", "ValueError: cannot be read", 5),
        ("d", 24, b"early", "FailedPrecondition: not yet", 5),
    ]


async def test_messages_that_nobody_can_read_hold_up_what_comes_after_them_for_no_time(
    bus: Bus, db: Database, stream: str
) -> None:
    garbage = b"\xff\xff"
    read = Seen()

    async def handle(messages: Sequence[Message]) -> None:
        for message in messages:
            JobEvent.FromString(message.data)
        await read.add(messages)

    good = JobEvent(run_uid="night").SerializeToString()
    await publish(bus, f"{stream}.a", *[garbage] * 20, good)
    consuming = bus.consume(stream=stream, durable="d", subjects=[f"{stream}.>"], handler=handle, db=db)
    async with running(consuming):
        # With the pauses that a neighbour is given between the tries it would be 30 s.
        await read.until(lambda: read.all == [good], within=15)
    buried = await db.fetch("SELECT error FROM dead_letters WHERE stream = $1", stream)
    assert len(buried) == 20
    assert all(row["error"].startswith("DecodeError: ") for row in buried)


async def test_a_neighbour_that_is_away_is_waited_for_and_buries_nothing(
    bus: Bus, db: Database, stream: str
) -> None:
    seen = Seen()
    refused = 0

    async def handle(messages: Sequence[Message]) -> None:
        nonlocal refused
        if refused < 6:
            refused += 1
            raise Unavailable("away")
        await seen.add(messages)

    await publish(bus, f"{stream}.a", b"1", b"2")
    consuming = bus.consume(stream=stream, durable="d", subjects=[f"{stream}.>"], handler=handle, db=db)
    async with running(consuming):
        await seen.until(lambda: seen.all == [b"1", b"2"])
    assert not await db.fetch("SELECT 1 FROM dead_letters WHERE stream = $1", stream)


async def test_a_consumer_waits_for_a_stream_that_is_not_made_yet(bus: Bus, db: Database) -> None:
    name = f"T{new_uid()}"
    seen = Seen()
    consuming = bus.consume(stream=name, durable="d", subjects=[f"{name}.>"], handler=seen.add, db=db)
    async with running(consuming):
        await bus.ensure_stream(name, [f"{name}.>"], max_bytes=SMALL)
        await publish(bus, f"{name}.a", b"1")
        await seen.until(lambda: seen.all == [b"1"])


async def test_two_processes_make_the_same_stream_in_one_moment(bus: Bus, nats_url: str) -> None:
    names = [f"JOB-{new_uid()}" for _ in range(20)]
    async with connect(nats_url, name="other") as other:
        for name in names:
            await asyncio.gather(
                bus.ensure_stream(name, [f"{name}.>"], max_bytes=2**20),
                other.ensure_stream(name, [f"{name}.>"], max_bytes=2**21),
            )
        assert set(names) <= set(await bus.kept_streams())


async def test_a_tail_begins_where_it_is_told(bus: Bus, stream: str) -> None:
    await publish(bus, f"{stream}.a", b"1", b"2")
    await publish(bus, f"{stream}.b", b"3")
    assert await bus.last_sequence(stream) == 3
    async with aclosing(bus.tail(stream=stream, subjects=[f"{stream}.a"], start_sequence=2)) as tail:
        assert (await anext(tail)).data == b"2"
    async with aclosing(bus.tail(stream=stream, subjects=[f"{stream}.>"])) as tail:
        first = asyncio.ensure_future(anext(tail))
        async with asyncio.timeout(10):
            while not (await bus._link.stream.consumers_info(stream)):
                await asyncio.sleep(0.01)
        await publish(bus, f"{stream}.a", b"4")
        assert (await asyncio.wait_for(first, 10)).data == b"4"


async def test_consuming_publishing_and_tailing_go_on_after_kill_9_of_the_bus(
    tmp_path: Path, db: Database
) -> None:
    server = await asyncio.to_thread(servers.start_nats, tmp_path)
    try:
        async with connect(server.url, name="test") as bus:
            stream = f"T{new_uid()}"
            await bus.ensure_stream(stream, [f"{stream}.>"])
            consumed, tailed = Seen(), Seen()

            async def tail() -> None:
                async for message in bus.tail(stream=stream, subjects=[f"{stream}.>"], start_sequence=1):
                    await tailed.add([message])

            consuming = bus.consume(
                stream=stream, durable="d", subjects=[f"{stream}.>"], handler=consumed.add, db=db
            )
            expected: list[bytes] = []
            async with running(consuming), running(tail()):
                for round_ in range(3):
                    fresh = [b"%d.%d" % (round_, n) for n in range(20)]
                    publishing = asyncio.create_task(publish(bus, f"{stream}.a", *fresh))
                    await asyncio.to_thread(server.restart)
                    await publishing
                    expected += fresh
                    await tailed.until(lambda: set(tailed.all) == set(expected))  # noqa: B023
                    await consumed.until(lambda: set(consumed.all) == set(expected))  # noqa: B023
            # Without a gap and in order; a tail has nothing twice.
            assert tailed.all == expected
            assert list(dict.fromkeys(consumed.all)) == expected
    finally:
        server.stop()


async def test_a_bus_that_lost_its_store_gets_its_streams_again(tmp_path: Path) -> None:
    server = await asyncio.to_thread(servers.start_nats, tmp_path)
    try:
        async with connect(server.url, name="test") as bus:
            stream = f"T{new_uid()}"
            await bus.ensure_stream(stream, [f"{stream}.>"])
            await publish(bus, f"{stream}.a", b"1", b"2")
            tailed = Seen()

            async def tail() -> None:
                async for message in bus.tail(stream=stream, subjects=[f"{stream}.>"], start_sequence=1):
                    await tailed.add([message])

            async with running(tail()):
                await tailed.until(lambda: tailed.all == [b"1", b"2"])
                await asyncio.to_thread(_wipe, server, tmp_path / "store")
                await publish(bus, f"{stream}.a", b"3")
                await tailed.until(lambda: tailed.all == [b"1", b"2", b"3"])
    finally:
        server.stop()


def _wipe(server: servers.Nats, store: Path) -> None:
    import shutil

    server.kill()
    shutil.rmtree(store)
    store.mkdir()
    server.start()


async def test_a_bus_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch, nats_url: str) -> None:
    async with connect(nats_url, name="test") as bus:
        with pytest.raises(Unavailable):
            # No stream takes this subject.
            await bus.publish(subjects.subject("gateway", "x", "y", "main", new_uid()), b"")


async def test_a_message_over_which_the_process_dies_again_and_again_is_buried(
    nats_url: str, bus: Bus, db: Database, stream: str
) -> None:
    await publish(bus, f"{stream}.a", b"1", b"2", b"deadly", b"4")
    applied: list[bytes] = []
    died = asyncio.Event()
    done = asyncio.Event()

    async def handle(messages: Sequence[Message]) -> None:
        if b"deadly" in [message.data for message in messages]:
            # The process ends here: nothing of this batch is acknowledged, no error is seen.
            died.set()
            await asyncio.Event().wait()
        applied.extend(message.data for message in messages)
        if applied[-1] == b"4":
            done.set()

    async with asyncio.timeout(60):
        while not done.is_set():
            async with connect(nats_url, name="mortal") as mortal:
                died.clear()
                consuming = mortal.consume(
                    stream=stream, durable="d", subjects=[f"{stream}.>"], handler=handle, db=db
                )
                async with running(consuming):
                    waits = [asyncio.create_task(event.wait()) for event in (died, done)]
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    for wait in waits:
                        wait.cancel()
                    if not died.is_set():
                        await _until_acknowledged(bus, stream, "d")
    assert list(dict.fromkeys(applied)) == [b"1", b"2", b"4"]
    rows = await db.fetch("SELECT payload FROM dead_letters WHERE stream = $1", stream)
    assert [row["payload"] for row in rows] == [b"deadly"]


async def test_a_connection_that_the_client_library_gave_up_is_made_anew(nats_url: str, bus: Bus) -> None:
    # As nats-py does after errors such as an expired login or too many connections.
    await bus._link.client.close()
    stream = f"T{new_uid()}"
    await bus.ensure_stream(stream, [f"{stream}.>"], max_bytes=SMALL)
    assert await bus.publish(f"{stream}.a", b"1") == 1
