"""Exactly once, whatever dies, comes twice, overtakes or is no event; and what is refused of what is one."""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from cairn.job.v1 import events_pb2
from cairn.tracker.v1 import tracker_pb2
from cairn_common.ids import new_uid
from cairn_common.subjects import INGEST, team_stream
from cairn_tracker import ingest
from tests.harness import servers
from tests.harness.tracker import TEAM, TEAMS, Client, Spool, Tracker, run_name, start_tracker, until

LARGEST_KEY = 250


@dataclass
class Place:
    """A tracker of its own, with a bus of its own."""

    tracker: Tracker
    bus: servers.Nats


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, database_url: Callable[[str], str], s3: servers.S3
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("once")
    bus = servers.start_nats(folder / "nats")
    tracker = start_tracker(folder / "tracker", nats_url=bus.url, postgres_url=database_url("tracker"), s3=s3)
    yield Place(tracker, bus)
    tracker.stop()
    bus.stop()


@dataclass
class World:
    """Random events of some writers, and what there must be of them in the end."""

    chance: random.Random
    shown: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    events: list[events_pb2.JobEvent] = field(default_factory=list)

    def write(self, run: str, attempt: int, count: int) -> None:
        """A writer's events. No two writers have a step in common: which of them comes first says nothing."""
        spool, step = Spool(run, attempt=attempt), attempt * 1_000_000
        for _ in range(count):
            event = spool.event()
            for _ in range(self.chance.randint(1, 3)):
                keys = self.chance.sample(["loss", "acc", "a/b", "it's"], self.chance.randint(1, 3))
                rows = self.chance.choice([1, 1, 3, 40, 300])
                values = [self.chance.choice([math.nan, -0.5, self.chance.gauss(0, 1)]) for _ in keys * rows]
                steps = range(step, step + rows)
                step += rows
                event.points_logged.blocks.add(
                    keys=keys, steps=steps, times=[1e9 + place for place in steps], values=values
                )
                for place, value in enumerate(values):
                    key = keys[place % len(keys)]
                    self.shown.setdefault((run, key), {})[steps[place // len(keys)]] = value
            self.events.append(event)

    def sent(self) -> list[events_pb2.JobEvent]:
        """Each at least once; a third of them twice, far from where they belong, some three times."""
        doubled = [event for event in self.events for _ in range(self.chance.choice([1, 1, 1, 1, 2, 3]))]
        places = {id(event): place for place, event in enumerate(self.events)}
        return sorted(doubled, key=lambda event: places[id(event)] + self.chance.gauss(0, 6))


def rubbish(chance: random.Random, like: events_pb2.JobEvent) -> tuple[str, bytes]:
    """A message that is no event: bytes, a piece of one, one of another run, team, writer or kind."""
    good, own = like.SerializeToString(), f"cairn.v1.job.run.points-logged.{TEAM}.{like.run_uid}"
    other = events_pb2.JobEvent.FromString(good)
    match chance.randrange(6):
        case 0:
            return own, chance.randbytes(chance.randint(1, 300))
        case 1:
            return own, good[: chance.randrange(len(good) - 1)] + b"\xff"
        case 2:
            other.run_uid = new_uid()
        case 3:
            other.team = "other"
        case 4:
            other.writer = "../../etc"
        case 5:
            return own.replace("points", "lines"), good
    return own, other.SerializeToString()


@pytest.mark.parametrize(
    "seed", [1, int(os.environ.get("SEED") or int.from_bytes(os.urandom(3)))], ids=["1", "random"]
)
async def test_every_point_is_there_once_after_kills_doubles_overtaking_and_rubbish(
    place: Place, seed: int
) -> None:
    chance = random.Random(seed)
    world, runs = World(chance), [new_uid(), new_uid()]
    for run in runs:
        for attempt in (1, 2):
            world.write(run, attempt, 12)
    sent, junk = world.sent(), 0
    deaths = dict.fromkeys(chance.sample(range(len(sent)), 2), place.tracker.restart)
    deaths |= dict.fromkeys(chance.sample(range(len(sent)), 1), place.bus.restart)
    async with Client(place.tracker) as client:
        before = await put_aside(client)
        for number, event in enumerate(sent):
            if chance.random() < 0.3:
                junk += await offered(client, *rubbish(chance, event))
            await client.publish(event)
            if number in deaths:
                await asyncio.to_thread(deaths[number])
        for event in world.events:
            await client.applied(event)
        await until(lambda: idle(client))
        found: dict[tuple[str, str], dict[int, float]] = {}
        for run in runs:
            for item in (await client.series(run, max_buckets=60_000)).series:
                assert set(item.counts) == {1}
                found[run, item.key] = dict(zip(item.steps, item.last, strict=True))
        assert repr(sorted(found.items())) == repr(
            sorted((key, dict(sorted(steps.items()))) for key, steps in world.shown.items())
        ), f"seed {seed}"
        for run in runs:
            told = await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run)))
            assert {key: item.count for key, item in told.summary.items()} == {
                key: len(steps) for (of, key), steps in world.shown.items() if of == run
            }
        assert await put_aside(client) == before + junk
        known = await client.postgres.fetch("SELECT DISTINCT run_uid FROM marks")
        assert {row["run_uid"] for row in known} >= set(runs)
        # Of those that rubbish named none was made.
        assert await client.postgres.fetchval("SELECT count(*) FROM runs") == len(known)


async def offered(client: Client, subject: str, data: bytes) -> int:
    """How often the bus has it for sure."""
    while True:
        try:
            await client.stream.publish(subject, data, timeout=10, headers={"Nats-Msg-Id": new_uid()})
            return 1
        except NatsError:
            await asyncio.sleep(0.05)


async def put_aside(client: Client) -> int:
    return int(await client.postgres.fetchval("SELECT count(*) FROM dead_letters") or 0)


async def idle(client: Client) -> bool:
    """Whether all that the bus has was taken in or put aside."""
    infos = [await client.stream.consumer_info(team_stream(team), INGEST) for team in TEAMS]
    return not any(info.num_pending or info.num_ack_pending for info in infos)


async def test_of_an_event_that_holds_what_cannot_be_kept_the_rest_is_kept(place: Place) -> None:
    spool = Spool(new_uid())
    good = ["x", "ü/中/🙂", "a b", "q\"\\'`{}%$", "‮rtl", "k" * LARGEST_KEY, "NULL", "../../x"]
    bad = ["", "nul\0", "line\n", "\x7f", "\x85", "k" * (LARGEST_KEY + 1), "中" * 84]
    event = spool.event()
    event.points_logged.blocks.add(
        keys=[*good, *bad], steps=[1], times=[1.0], values=[float(place) for place in range(15)]
    )
    steps = [-(2**63), -1, 0, 2**53 - 1, 2**53, 2**63 - 1]
    event.points_logged.blocks.add(keys=["steps"], steps=steps, times=[1.0] * 6, values=[1.0] * 6)
    times = [-1.0, math.nan, math.inf, 1e300, 0.0, 4e9, 253_402_300_800.0]
    event.points_logged.blocks.add(keys=["times"], steps=range(7), times=times, values=[1.0] * 7)
    # Columns that do not fit together.
    event.points_logged.blocks.add(keys=["torn"], steps=[1, 2], times=[1.0], values=[1.0, 2.0])
    event.points_logged.blocks.add(keys=[], steps=[1], times=[1.0], values=[])
    said = spool.say("x" * 500_000, "a\0b")
    started = spool.event()
    started.run_started.params.update({"long": "x" * 900_000, "nul": "a\0b"})
    async with Client(place.tracker) as client:
        subject = f"cairn.v1.job.run.points-logged.{TEAM}.{spool.run}"
        before = await put_aside(client)
        with pytest.raises(MaxPayloadError):
            await client.stream.publish(subject, b"x" * 10 * 2**20)
        # A step of more than 64 bits: no protobuf has it.
        await client.stream.publish(subject, b"\x52\x0f\x0a\x0d\x12\x0b" + b"\xff" * 10 + b"\x7f")
        await client.publish(event, said, started)
        await client.applied(started)
        await until(lambda: idle(client))
        found = {item.key: item for item in (await client.series(spool.run)).series}
        assert set(found) == {*good, "steps", "times"}
        assert list(found["steps"].steps) == [0, 2**53 - 1]
        stored = found["times"].times
        assert (stored[4], stored[5]) == (0.0, 4e9)
        # Of the others it is known when the bus had them.
        assert min(stored[0], *stored[1:4], stored[6]) > 1.7e9
        assert max(stored[0], *stored[1:4], stored[6]) < 2**32
        assert (
            await client.postgres.fetchval("SELECT rejected_points FROM runs WHERE uid = $1", spool.run)
            == len(bad) + 4 + 2 + 1
        )
        assert await put_aside(client) == before + 1
        lines = await client.runs.ListLogLines(tracker_pb2.ListLogLinesRequest(parent=run_name(spool.run)))
        assert [len(line.text) for line in lines.lines] == [64 * 1024, 3]
        params = (await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(spool.run)))).params
        assert len(str(params["long"])) == 900_000


async def test_a_run_has_so_many_metrics_and_no_more_and_nobody_waits_for_it(place: Place) -> None:
    wide, other = Spool(new_uid()), Spool(new_uid())
    made = [wide.event() for _ in range(26)]
    for number, event in enumerate(made):
        # 104,000 metrics of a million that somebody may log: 40 bytes each.
        keys = [f"layer/{number:04}/{place:04}" for place in range(4_000)]
        event.points_logged.blocks.add(keys=keys, steps=[1], times=[1e9], values=[1.0] * 4_000)
    again = wide.event()
    again.points_logged.blocks.add(keys=["layer/0000/0000"], steps=[2], times=[1e9], values=[2.0])
    beside = other.points([1], loss=[1.0])
    async with Client(place.tracker) as client:
        await client.publish(*made, again, beside)
        await client.applied(beside)
        row = await client.postgres.fetchrow(
            "SELECT rejected_points, (SELECT count(*) FROM summaries s WHERE s.run_uid = r.uid) AS metrics"
            " FROM runs r WHERE uid = $1",
            wide.run,
        )
        assert row is not None
        assert (row["metrics"], row["rejected_points"]) == (ingest.MOST_METRICS, 4_000)
        (known,) = (await client.series(wide.run, "layer/0000/0000")).series
        assert list(known.last) == [1.0, 2.0]
