"""Series and summaries by kept buckets: always those of brute force over the values that show."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

import pytest

from cairn.tracker.v1 import metric_pb2
from cairn_tracker import expiry, layout, points, rollups, wire
from cairn_tracker.batch import Event, MetricKey, RunKey
from cairn_tracker.clickhouse import ClickHouse, clickhouse
from cairn_tracker.drawing import Extent
from cairn_tracker.model import Summary
from cairn_tracker.series import MOST_ROWS, is_rolled, series
from tests.harness.tracker import Spool

RUN = RunKey("main", "01" + "r" * 24)
END = 2**53


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ClickHouse]:
    async with clickhouse(f"chdb://{tmp_path}/store", readers=1) as made:
        await made.migrate(files("cairn_tracker") / "migrations" / "clickhouse")
        yield made


@dataclass
class Table:
    """What the tracker keeps, and beside it every value that shows."""

    store: ClickHouse
    known: dict[MetricKey, Summary] = field(default_factory=dict)
    shown: dict[str, dict[int, float]] = field(default_factory=dict)
    thin: bool = False

    async def take(self, events: Sequence[Event], *, commit: bool = True) -> None:
        """A batch; without the commit as if a crash had come before it."""
        found = layout.points(events)
        known = {metric: self.known[metric] for metric in found.metrics if metric in self.known}
        await points.add(self.store, found)
        summaries = await rollups.keep(self.store, found, known, thinned=self.thinned)
        if commit:
            self.known |= summaries

    async def thinned(self, runs: Collection[RunKey]) -> Collection[RunKey]:
        """All of them, where points were dropped."""
        return runs if self.thin else ()

    async def read(
        self, most: int, first: int = 0, end: int = END, *, most_rows: int = MOST_ROWS
    ) -> dict[str, metric_pb2.Series]:
        """As the API answers."""
        found = await series(
            self.store, RUN.team, runs=[RUN.uid], keys=[], max_buckets=most, first=first, end=end,
            most_rows=most_rows,
        )  # fmt: skip
        return {item.key: wire.series(RUN.team, item) for item in found}


def logged(spool: Spool, key: str, values: dict[int, float]) -> Event:
    # Whatever is logged later has later times: a row of an event is a second.
    event = spool.points(list(values), time=1e9 + spool.offset * 100_000, **{key: list(values.values())})
    return Event(RUN, 99.0, event)


def assert_is(found: metric_pb2.Series, shown: dict[int, float], most: int) -> None:
    """One bucket after the other against brute force."""
    assert found.exact is (len(shown) <= most)
    assert len(found.steps) <= most
    steps = sorted(shown)
    assert found.steps[0] == steps[0]
    assert sum(found.counts) == len(steps)
    place = 0
    for row, start in enumerate(found.steps):
        inside = steps[place : place + found.counts[row]]
        place += found.counts[row]
        assert inside[0] == start
        finite = [shown[step] for step in inside if math.isfinite(shown[step])]
        assert repr(found.last[row]) == repr(shown[inside[-1]])
        assert repr(found.min[row]) == repr(min(finite, default=math.nan))
        assert repr(found.max[row]) == repr(max(finite, default=math.nan))


def assert_summary(found: Summary, shown: dict[int, float]) -> None:
    finite = [value for value in shown.values() if math.isfinite(value)]
    last = max(shown)
    assert (found.last_step, found.count, repr(found.last)) == (last, len(shown), repr(shown[last]))
    assert (found.min, found.max) == (min(finite, default=None), max(finite, default=None))


@pytest.mark.parametrize("seed", range(6))
async def test_buckets_are_those_of_brute_force_after_late_and_repeated_steps_and_crashes(
    store: ClickHouse, seed: int
) -> None:
    chance = random.Random(seed)
    table = Table(store)
    # Steps of one key are dense, of one sparse, of one with holes.
    keys = {"it's/dense": 1, "sparse": 997, "holes %": 13}
    attempt, at = 1, dict.fromkeys(keys, 0)
    spools = {1: Spool(RUN.uid)}
    for _ in range(14):
        events = []
        for _ in range(chance.randint(1, 4)):
            key, stride = chance.choice(list(keys.items()))
            kind = chance.random()
            if kind < 0.2:
                # The job starts again from a checkpoint.
                attempt += 1
                spools[attempt] = Spool(RUN.uid, attempt=attempt)
                at = {name: int(place * chance.random()) for name, place in at.items()}
            size = chance.choice([1, 40, 900, 3000])
            start = at[key] if kind < 0.8 else int(at[key] * chance.random())
            values = {
                (start + place) * stride: chance.choice([chance.gauss(0, 1), 0.5, math.nan, math.inf, -1e30])
                for place in range(size)
            }
            at[key] = max(at[key], start + size)
            events.append(logged(spools[attempt], key, values))
            table.shown.setdefault(key, {}).update(values)
        if chance.random() < 0.3:
            await table.take(events, commit=False)
            # What comes again can be cut into batches elsewhere.
            cut = chance.randint(0, len(events))
            await table.take(events[:cut])
            events = events[cut:]
        await table.take(events)
    ranges = [
        (1000, 0, END), (1, 0, END), (3, 0, END), (40, 1000, 9000), (7, 1024, 8192), (2, 5, 4097),
        (700, 1500, 2500), (5, 2048, 4096), (3, 1100, 1101), (1000, 10**9, 10**9 + 5),
    ]  # fmt: skip
    # Brought here, or worked out by the engine.
    for (most, first, end), most_rows in itertools.product(ranges, (MOST_ROWS, 0)):
        answer = await table.read(most, first, end, most_rows=most_rows)
        for key, values in table.shown.items():
            inside = {step: value for step, value in values.items() if first <= step < end}
            assert (key in answer) is bool(inside)
            if inside:
                assert_is(answer[key], inside, most)
    for key, values in table.shown.items():
        assert_summary(table.known[MetricKey(*RUN, key)], values)


async def test_a_spike_of_one_point_is_seen_at_every_width_and_goes_when_it_is_logged_over(
    store: ClickHouse,
) -> None:
    table, spool = Table(store), Spool(RUN.uid)
    for start in range(0, 200_000, 50_000):
        await table.take([logged(spool, "loss", dict.fromkeys(range(start, start + 50_000), 1.0))])
    await table.take([logged(spool, "loss", {123_456: 9.0})])
    for most in (1, 10, 195, 1000):
        (found,) = (await table.read(most)).values()
        assert max(found.max) == 9.0
        where = list(found.max).index(9.0)
        assert found.steps[where] <= 123_456 < found.steps[where] + -(-200_000 // most) + 1024
    assert table.known[MetricKey(*RUN, "loss")].max_step == 123_456
    await table.take([logged(spool, "loss", {123_456: 1.0})])
    (found,) = (await table.read(10)).values()
    assert max(found.max) == 1.0
    assert table.known[MetricKey(*RUN, "loss")] == Summary(
        last=1.0, last_step=199_999, count=200_000, min=1.0, min_step=0, max=1.0, max_step=0
    )


async def test_points_of_before_there_were_buckets_are_in_them(store: ClickHouse) -> None:
    table, spool = Table(store), Spool(RUN.uid)
    events = [logged(spool, "loss", {step: float(step) for step in range(5000)})]
    events.append(logged(spool, "loss", {7: -1.0}))
    await table.take(events)
    shown = {step: float(step) for step in range(5000)} | {7: -1.0}
    await store.query("TRUNCATE TABLE rollups", {})
    sql = (files("cairn_tracker") / "migrations" / "clickhouse" / "0004_rollups_fill.sql").read_text()
    await store.query(sql, {})
    # As PostgreSQL has it then: without a tail.
    table.known = {metric: replace(value, tail=None) for metric, value in table.known.items()}
    await table.take([logged(spool, "loss", {5000: 5.0})])
    shown[5000] = 5.0
    (found,) = (await table.read(3)).values()
    assert_is(found, shown, 3)
    assert_summary(table.known[MetricKey(*RUN, "loss")], shown)


async def test_a_chart_is_the_same_once_points_were_dropped_and_what_comes_late_is_added_to_it(
    store: ClickHouse,
) -> None:
    chance = random.Random(3)
    table, spool = Table(store), Spool(RUN.uid)
    shown = {
        "long": {step: chance.gauss(0, 1) for step in range(9_000)},
        "gaps": {step * 7: chance.choice([math.nan, chance.gauss(0, 1)]) for step in range(5_000)},
        "short": {step: float(step) for step in range(3_000)},
    }
    await table.take([logged(spool, key, values) for key, values in shown.items()])
    # The best value is logged over by a worse one, and the raw history of it is what goes, too.
    await table.take([logged(spool, "long", {5_000: 99.0})])
    await table.take([logged(spool, "long", {5_000: 0.0})])
    before = {most: await table.read(most) for most in (1_000, 9)}
    left = await dropped(store)
    assert left < sum(map(len, shown.values())) - 4_000
    assert await dropped(store) == left
    for most, charts in before.items():
        for key, now in (await table.read(most)).items():
            assert list(now.steps) == list(charts[key].steps)
            for name in ("last", "min", "max", "times"):
                assert repr(list(getattr(now, name))) == repr(list(getattr(charts[key], name))), (key, name)
    assert_is((await table.read(3_000))["short"], shown["short"], 3_000)
    # Late: among the steps of a bucket whose points are gone, and beyond the last one. Twice, as by a crash.
    table.thin = True
    late = [logged(spool, "long", {4_999: -50.0, 8_999: 1.5, 9_000: 2.5})]
    await table.take(late, commit=False)
    await table.take(late)
    told = table.known[MetricKey(*RUN, "long")]
    assert (told.count, told.last, told.min, told.min_step) == (9_001, 2.5, -50.0, 4_999)
    was, now = before[9]["long"], (await table.read(9))["long"]
    assert list(now.counts) == [*was.counts[:-1], was.counts[-1] + 1]
    assert list(now.min) == [*was.min[:4], -50.0, *was.min[5:]]
    assert list(now.max) == [*was.max[:-1], max(2.5, was.max[-1])]


async def dropped(store: ClickHouse) -> int:
    """How many rows there are once the points of the run were dropped."""
    await expiry.thin(store, RUN)
    await expiry.drop_points(store, RUN.team, [RUN.uid])
    while await expiry.unfinished(store):
        await asyncio.sleep(0.02)
    ((rows,),) = await store.query("SELECT uniqExact(key, step) FROM points", {})
    return int(rows)


def test_only_what_is_drawn_about_as_coarsely_is_drawn_from_buckets() -> None:
    assert is_rolled(Extent("r", "k", 1_000_000, 0, 999_999), 1000)
    assert not is_rolled(Extent("r", "k", 100_000, 0, 99_999), 1000)
    assert not is_rolled(Extent("r", "k", 3_000, 0, 10**9), 1000)
