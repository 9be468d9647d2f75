"""Who follows metrics by a cursor has what is there, whatever is added, late or logged over."""

from __future__ import annotations

import random

import pytest

from cairn.job.v1 import events_pb2
from cairn.tracker.v1 import tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, refused
from tests.harness.tracker import RUN, STRANGER, Client, Spool, Tracker, run_name

Points = dict[str, dict[int, float]]


class Follower:
    """As the page and `cairn watch` do: a cursor, what there is, then what is new."""

    def __init__(self, client: Client, *runs: str, keys: tuple[str, ...] = ()) -> None:
        self._client = client
        self._asked = {"parent": TEAM, "runs": [run_name(run) for run in runs], "keys": keys}
        self._cursor = ""
        self.points: Points = {}
        # Bytes of answers, and which series were read anew.
        self.bytes = 0
        self.anew: list[str] = []

    async def open(self) -> None:
        self._cursor = (await self._tail()).cursor
        whole = await self._client.runs.QuerySeries(tracker_pb2.QuerySeriesRequest(**self._asked))
        self.points = {one.key: dict(zip(one.steps, one.last, strict=True)) for one in whole.series}
        self.whole = whole.ByteSize()

    async def look(self) -> None:
        answer = await self._tail()
        self.bytes += answer.ByteSize()
        self._cursor = answer.cursor
        for one in answer.series:
            assert one.exact
            assert list(one.steps) == sorted(set(one.steps))
            self.points.setdefault(one.key, {}).update(zip(one.steps, one.last, strict=True))
        for changed in answer.changed:
            self.anew.append(changed.key)
            found = await self._client.runs.QuerySeries(
                tracker_pb2.QuerySeriesRequest(parent=TEAM, runs=[changed.run], keys=[changed.key])
            )
            self.bytes += found.ByteSize()
            (one,) = found.series
            self.points[one.key] = dict(zip(one.steps, one.last, strict=True))

    async def _tail(self) -> tracker_pb2.TailSeriesResponse:
        request = tracker_pb2.TailSeriesRequest(**self._asked, cursor=self._cursor)
        return await self._client.runs.TailSeries(request)


async def test_a_follower_has_what_a_reader_has_whatever_is_logged(tracker: Tracker) -> None:
    chance = random.Random(5)
    run = new_uid()
    spools = [Spool(run, attempt=attempt) for attempt in (1, 1, 2)]
    async with Client(tracker) as client:
        follower = Follower(client, run)
        await follower.open()
        top = 0
        for turn in range(25):
            events: list[events_pb2.JobEvent] = []
            for _ in range(chance.randint(1, 3)):
                start = top if chance.random() < 0.7 else chance.randint(0, max(top, 1))
                steps = sorted(chance.sample(range(start, start + 40), chance.randint(1, 8)))
                steps += [steps[-1]] * chance.randint(0, 1)  # one step twice
                top = max(top, steps[-1] + 1)
                values = [chance.gauss(0, 1) for _ in steps]
                time = 1e9 + turn * 1000
                events.append(
                    chance.choice(spools).points(steps, time=time, **{chance.choice("abc"): values})
                )
            await client.publish(*events)
            for event in events:
                await client.applied(event)
            await follower.look()
            whole = await client.series(run)
            assert follower.points == {
                one.key: dict(zip(one.steps, one.last, strict=True)) for one in whole.series
            }


async def test_what_is_only_added_costs_what_is_new(tracker: Tracker) -> None:
    run, spool = new_uid(), Spool(new_uid())
    spool.run = run
    keys = [f"metric/{number}" for number in range(20)]

    def rows(first: int, count: int) -> events_pb2.JobEvent:
        values = [float(step) for step in range(first, first + count)]
        return spool.points(range(first, first + count), **dict.fromkeys(keys, values))

    async with Client(tracker) as client:
        await client.publish(begin := rows(0, 1_000))
        await client.applied(begin)
        follower = Follower(client, run)
        await follower.open()
        for turn in range(5):
            await client.publish(more := rows(1_000 + turn * 4, 4))
            await client.applied(more)
            follower.bytes = 0
            await follower.look()
            assert follower.bytes < follower.whole * 0.05
        assert not follower.anew
        assert all(follower.points[key] == {step: float(step) for step in range(1_020)} for key in keys)
        nothing = follower.bytes
        await follower.look()
        assert follower.bytes - nothing < 800


async def test_who_is_far_behind_reads_anew(tracker: Tracker) -> None:
    run, spool = new_uid(), Spool(new_uid())
    spool.run = run
    async with Client(tracker) as client:
        await client.publish(begin := spool.points([0], loss=[0.0]))
        await client.applied(begin)
        follower = Follower(client, run)
        await follower.open()
        steps = range(1, 21_000)
        await client.publish(many := spool.points(steps, loss=[1.0] * len(steps)))
        await client.applied(many)
        await follower.look()
        assert follower.anew == ["loss"]
        assert max(follower.points["loss"]) >= 20_000 - 1_000


async def test_a_cursor_is_for_the_runs_and_keys_that_it_was_given_for(tracker: Tracker) -> None:
    run, spool = new_uid(), Spool(new_uid())
    spool.run = run
    event = spool.points([1, 2], **{"loss": [1.0, 2.0], "system/cpu": [1.0, 1.0]})
    async with Client(tracker) as client:
        await client.publish(event)
        await client.applied(event)
        asked = tracker_pb2.TailSeriesRequest(parent=TEAM, runs=[run_name(run)])
        first = await client.runs.TailSeries(asked)
        assert not first.series
        asked.cursor = first.cursor
        assert (await client.runs.TailSeries(asked)).cursor == first.cursor
        named = tracker_pb2.TailSeriesRequest(parent=TEAM, runs=[run_name(run)], keys=["system/cpu"])
        assert len((await client.runs.TailSeries(named)).cursor) == len(first.cursor)
        for cursor in (first.cursor, "!", "AAAA", first.cursor[:-4], "x" * 5_000):
            named.cursor = cursor
            assert await refused(client.runs.TailSeries(named)) == "INVALID_ARGUMENT"
        own, _ = client.calling(RUN + run)
        assert (await own.TailSeries(asked)).cursor == first.cursor
        for token in (STRANGER, RUN + new_uid()):
            other, _ = client.calling(token)
            assert await refused(other.TailSeries(asked)) == "NOT_FOUND"


@pytest.mark.parametrize("runs", [[], [run_name("x")] * 101])
async def test_a_wrong_question_is_refused(tracker: Tracker, runs: list[str]) -> None:
    async with Client(tracker) as client:
        asked = tracker_pb2.TailSeriesRequest(parent=TEAM, runs=runs)
        assert await refused(client.runs.TailSeries(asked)) == "INVALID_ARGUMENT"
