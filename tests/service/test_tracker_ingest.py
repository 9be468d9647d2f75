"""What is logged is there once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator

import asyncpg
import pytest
from google.protobuf import timestamp_pb2
from grpc import StatusCode, aio

from cairn.job.v1 import events_pb2
from cairn.scheduler.v1 import events_pb2 as scheduler_events_pb2
from cairn.tracker.v1 import run_pb2, tracker_pb2
from cairn_common.ids import new_uid
from cairn_server.backends.program import NotReady
from tests.harness import servers
from tests.harness.tracker import Client, Spool, Tracker, run_name, shuffled_by_writer, start_tracker, until


@pytest.fixture(scope="module")
def tracker(
    tmp_path_factory: pytest.TempPathFactory,
    database_url: Callable[[str], str],
    s3: servers.S3,
) -> Iterator[Tracker]:
    folder = tmp_path_factory.mktemp("tracker")
    bus = servers.start_nats(folder / "nats")
    server = start_tracker(folder / "tracker", nats_url=bus.url, postgres_url=database_url("tracker"), s3=s3)
    yield server
    server.stop()
    bus.stop()


async def test_points_become_series_summaries_and_a_run(tracker: Tracker) -> None:
    run = new_uid()
    spool = Spool(run, attempt=0)
    started = spool.event()
    started.run_started.params.update({"lr": 0.1, "layers": [1, 2], "nan": math.nan})
    started.run_started.tags.extend(["first", "first"])
    started.run_started.experiment = "digits"
    started.run_started.display_name = "one"
    logged = spool.points([0, 1, 2], loss=[3.0, 1.0, 2.0], accuracy=[0.1, 0.2, 0.3])
    async with Client(tracker) as client:
        await client.publish(started, logged)
        await client.applied(logged)
        found = await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run)))
        assert (found.state, found.experiment, found.display_name) == (
            run_pb2.Run.RUNNING,
            "teams/main/experiments/digits",
            "one",
        )
        assert found.params["lr"] == 0.1
        assert found.params["nan"] == "NaN"
        assert list(found.tags) == ["first"]
        loss = found.summary["loss"]
        assert (loss.last, loss.last_step, loss.min, loss.max, loss.count) == (2.0, 2, 1.0, 3.0, 3)
        series = await client.series(run)
        assert [item.key for item in series.series] == ["accuracy", "loss"]
        assert series.series[1].exact
        assert list(series.series[1].steps) == [0, 1, 2]
        assert list(series.series[1].last) == [3.0, 1.0, 2.0]
        end = spool.event()
        end.run_finished.succeeded = True
        await client.publish(end)
        await client.applied(end)
        found = await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run)))
        assert found.state == run_pb2.Run.SUCCEEDED
        assert found.complete


async def test_what_is_sent_often_in_any_order_over_restarts_is_there_once(tracker: Tracker) -> None:
    chance = random.Random(7)
    run = new_uid()
    writers = [Spool(run, attempt=attempt) for attempt in (1, 1, 2)]
    expected: dict[tuple[str, int], float] = {}
    events = []
    for number, spool in enumerate(writers):
        for batch in range(20):
            steps = range(batch * 10, batch * 10 + 10)
            values = [chance.random() for _ in steps]
            events.append(spool.points(steps, time=1e9 + batch * 100, **{f"metric{number}": values}))
            events.append(spool.say(f"{number}/{batch}"))
            expected |= {(f"metric{number}", step): value for step, value in zip(steps, values, strict=True)}
    sent = shuffled_by_writer(events, chance)
    doubled = [event for event in sent for _ in range(1 + (chance.random() < 0.3))]
    async with Client(tracker) as client:
        for place, event in enumerate(doubled):
            await client.publish(event)
            if place % 40 == 20:
                await asyncio.to_thread(tracker.restart)
        # An earlier stretch comes again, as after a restored store of the bus.
        await client.publish(*doubled[:30])
        for event in events[-2:]:
            await client.applied(event)
        await client.publish(last := writers[0].points([10_000], last=[0.0]))
        await client.applied(last)
        series = await client.series(run)
        found = {
            (item.key, step): value
            for item in series.series
            if item.key != "last"
            for step, value in zip(item.steps, item.last, strict=True)
        }
        assert found == expected
        assert all(set(item.counts) == {1} for item in series.series)
        told = await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run)))
        assert {key: item.count for key, item in told.summary.items()} == {
            "metric0": 200, "metric1": 200, "metric2": 200, "last": 1,
        }  # fmt: skip
        lines = await client.runs.ListLogLines(tracker_pb2.ListLogLinesRequest(parent=run_name(run)))
        assert sorted(line.text for line in lines.lines) == sorted(
            f"{number}/{batch}" for number in range(3) for batch in range(20)
        )
        stored = await client.postgres.fetchval("SELECT count(*) FROM dead_letters")
        assert stored == 0


async def test_a_kill_between_the_insert_and_the_commit_doubles_nothing(tracker: Tracker) -> None:
    run = new_uid()
    spool = Spool(run)
    first = spool.points([0], loss=[1.0])
    async with Client(tracker) as client:
        await client.publish(first)
        await client.applied(first)
        # While somebody holds the run's row the tracker has written to ClickHouse, and cannot commit.
        holder = await asyncpg.connect(tracker.postgres_url)
        held = holder.transaction()
        await held.start()
        await holder.execute("SELECT 1 FROM runs WHERE uid = $1 FOR UPDATE", run)
        second = spool.points([1, 2], loss=[0.5, 0.25])
        said = spool.say("one", "two")
        await client.publish(second, said)
        await until(lambda: waiting_for_a_lock(client))
        await asyncio.to_thread(tracker.kill)
        await held.rollback()
        await holder.close()
        await asyncio.to_thread(tracker.start)
        await client.applied(said)
        (loss,) = (await client.series(run, "loss")).series
        assert (list(loss.steps), list(loss.last)) == ([0, 1, 2], [1.0, 0.5, 0.25])
        assert list(loss.counts) == [1, 1, 1]
        told = await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run)))
        assert told.summary["loss"].count == 3
        lines = await client.runs.ListLogLines(tracker_pb2.ListLogLinesRequest(parent=run_name(run)))
        assert [line.text for line in lines.lines] == ["one", "two"]


async def waiting_for_a_lock(client: Client) -> bool:
    count: int = await client.postgres.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE OF r%'"
    )
    return count > 0


async def test_a_step_that_is_logged_again_shows_its_last_value_and_no_hole(tracker: Tracker) -> None:
    run = new_uid()
    first, second = Spool(run, attempt=1), Spool(run, attempt=2)
    one = first.points(range(60), time=2e9, loss=[100.0 + step for step in range(60)])
    # The machine of the second attempt has a clock that is behind.
    two = second.points(range(50, 100), time=1e9, loss=[float(step) for step in range(50, 100)])
    late = first.points([70], time=3e9, loss=[1e6])
    async with Client(tracker) as client:
        await client.publish(two, one, late)
        for event in (one, two, late):
            await client.applied(event)
        (loss,) = (await client.series(run, "loss")).series
        assert list(loss.steps) == list(range(100))
        assert list(loss.last) == [100.0 + step for step in range(50)] + [float(s) for s in range(50, 100)]
        told = (await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run)))).summary["loss"]
        assert (told.last, told.last_step, told.count, told.min, told.max) == (99.0, 99, 100, 50.0, 149.0)


async def test_nan_and_infinities_are_kept_and_left_out_of_the_extremes(tracker: Tracker) -> None:
    run = new_uid()
    spool = Spool(run)
    logged = spool.points([1, 2, 3, 4], loss=[math.nan, 2.0, math.inf, math.nan], bad=[math.nan] * 4)
    async with Client(tracker) as client:
        await client.publish(logged)
        await client.applied(logged)
        bad, loss = (await client.series(run)).series
        assert math.isnan(loss.last[0])
        assert loss.last[2] == math.inf
        assert math.isnan(loss.min[2])
        assert (loss.min[1], loss.max[1]) == (2.0, 2.0)
        assert all(map(math.isnan, bad.max))
        (wide,) = (await client.series(run, "loss", max_buckets=1)).series
        assert not wide.exact
        assert (list(wide.steps), list(wide.counts)) == ([1], [4])
        assert (list(wide.min), list(wide.max)) == ([2.0], [2.0])
        counted = (await client.series(run, count_unbounded=True)).series
        assert [each.unbounded for each in counted] == [4, 3]
        assert not loss.HasField("unbounded")
        over = spool.points([4, 5], time=1_700_000_100.0, loss=[1.0, 1.0])
        await client.publish(over)
        await client.applied(over)
        (later,) = (await client.series(run, "loss", count_unbounded=True, end_step=4)).series
        (mended,) = (await client.series(run, "loss", count_unbounded=True)).series
        assert (later.unbounded, mended.unbounded) == (2, 2)
        told = (await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run)))).summary
        assert told["loss"].last == 1.0
        assert (told["loss"].min, told["loss"].max, told["loss"].count) == (1.0, 2.0, 5)
        assert not told["bad"].HasField("min")


async def test_what_is_no_event_is_put_aside_and_the_rest_goes_on(tracker: Tracker) -> None:
    run, foreign = new_uid(), new_uid()
    spool = Spool(run)
    good = spool.points([1, 2], loss=[1.0, 2.0])
    odd = spool.points([-1, 3], **{"loss": [9.0, 3.0], "tab\t": [0.0, 0.0], "it's": [1.0, 2.0]})
    last = spool.points([4], loss=[4.0])
    async with Client(tracker) as client:
        before = await client.postgres.fetchval("SELECT count(*) FROM dead_letters")
        await client.publish(good)
        subject = f"cairn.v1.job.run.points-logged.main.{run}"
        await client.stream.publish(subject, b"\xff\xff not an event")
        stolen = Spool(foreign).points([1], loss=[1.0])
        await client.stream.publish(subject, stolen.SerializeToString())
        lost = spool.dropped(7)
        await client.publish(odd, lost, lost, last)
        await client.applied(last)
        series = {item.key: item for item in (await client.series(run)).series}
        assert list(series["loss"].steps) == [1, 2, 3, 4]
        assert list(series["it's"].last) == [2.0]
        assert set(series) == {"loss", "it's"}
        await until(lambda: buried(client, before + 2))
        told = await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run)))
        assert (told.rejected_points, told.dropped_points) == (4, 7)
        assert await client.postgres.fetchval("SELECT count(*) FROM runs WHERE uid = $1", foreign) == 0


async def buried(client: Client, count: int) -> bool:
    found: int = await client.postgres.fetchval("SELECT count(*) FROM dead_letters")
    return found == count


async def test_a_follower_of_the_log_misses_and_repeats_nothing(tracker: Tracker) -> None:
    chance = random.Random(3)
    run = new_uid()
    ranks = [Spool(run) for _ in range(3)]
    events = [
        ranks[rank].say(*[f"{rank}-{number}-{place}" for place in range(chance.randint(1, 5))], rank=rank)
        for number in range(15)
        for rank in range(3)
    ]
    async with Client(tracker) as client:
        sending = asyncio.create_task(client.publish(*shuffled_by_writer(events, chance)))
        wanted = [line.text for event in events for line in event.lines_logged.lines]
        seen: list[str] = []
        cursor = ""

        async def follow() -> bool:
            nonlocal cursor
            page = await client.runs.ListLogLines(
                tracker_pb2.ListLogLinesRequest(parent=run_name(run), cursor=cursor, page_size=4)
            )
            cursor = page.cursor
            seen.extend(line.text for line in page.lines)
            return len(seen) >= len(wanted) and not page.lines

        await client.applied(events[0])
        async with asyncio.timeout(30):
            while not await follow():
                pass
        await sending
        assert sorted(seen) == sorted(wanted)
        for rank in range(3):
            mine = [text for text in seen if text.startswith(f"{rank}-")]
            assert mine == [text for text in wanted if text.startswith(f"{rank}-")]
        request = tracker_pb2.ListLogLinesRequest(parent=run_name(run), rank=1, tail=3)
        tail = await client.runs.ListLogLines(request)
        assert [line.text for line in tail.lines] == [text for text in seen if text.startswith("1-")][-3:]
        assert not tail.complete


async def test_lines_are_found_by_pattern_stream_time_and_rank(tracker: Tracker) -> None:
    spool = Spool(new_uid())
    said = [spool.say("step 1", "CUDA OOM at 3", "it's {fine}: 50%"), spool.say("oom too", rank=1)]
    said[1].lines_logged.lines[0].stream = events_pb2.Line.STREAM_STDERR
    name = run_name(spool.run)
    async with Client(tracker) as client:
        await client.publish(*said)
        for event in said:
            await client.applied(event)

        async def found(**fields: object) -> list[str]:
            request = tracker_pb2.ListLogLinesRequest(parent=name, **fields)  # type: ignore[arg-type]
            return [line.text for line in (await client.runs.ListLogLines(request)).lines]

        assert await found(grep="OOM") == ["CUDA OOM at 3"]
        assert await found(grep="(?i)oom") == ["CUDA OOM at 3", "oom too"]
        assert await found(grep="(?i)oom", tail=1) == ["oom too"]
        assert await found(grep="(?i)oom", stream="stderr") == ["oom too"]
        assert await found(grep="'s {fine}|%$".replace("{fine}", r"\{fine\}")) == ["it's {fine}: 50%"]
        assert await found(stream="launch") == []
        later = timestamp_pb2.Timestamp(seconds=1_700_000_003)
        assert await found(since_time=later) == ["it's {fine}: 50%", "oom too"]
        assert await found(since_time=later, rank=1) == ["oom too"]
        for wrong in ({"grep": "(oom"}, {"grep": "o" * 1001}, {"grep": "o\0m"}, {"stream": "stdin"}):
            with pytest.raises(aio.AioRpcError) as refused:
                await found(**wrong)
            assert refused.value.code() is StatusCode.INVALID_ARGUMENT
        # The cursor passes what the pattern left out.
        answer = await client.runs.ListLogLines(
            tracker_pb2.ListLogLinesRequest(parent=name, grep="OOM", page_size=1)
        )
        answer = await client.runs.ListLogLines(
            tracker_pb2.ListLogLinesRequest(parent=name, grep="OOM", cursor=answer.cursor)
        )
        assert (list(answer.lines), answer.cursor) == ([], "4")


async def test_lines_that_are_cut_into_batches_elsewhere_are_there_once(tracker: Tracker) -> None:
    spool = Spool(new_uid())
    first = spool.say("a", "b")
    again = Spool(spool.run, writer=spool.writer, attempt_uid=spool.attempt_uid).say("a", "b", "c")
    again.end_offset = 150
    async with Client(tracker) as client:
        await client.publish(first, again)
        await client.applied(again)
        lines = await client.runs.ListLogLines(tracker_pb2.ListLogLinesRequest(parent=run_name(spool.run)))
        assert [line.text for line in lines.lines] == ["a", "b", "c"]


def test_a_second_tracker_on_the_same_folder_is_told_why_not(tracker: Tracker, s3: servers.S3) -> None:
    with pytest.raises(NotReady) as failed:
        start_tracker(tracker.folder, nats_url=tracker.nats_url, postgres_url=tracker.postgres_url, s3=s3)
    assert "is open in another process" in "".join(failed.value.__notes__)


async def test_what_a_place_says_on_the_way_up_is_a_line_once(tracker: Tracker) -> None:
    run, attempt = new_uid(), new_uid()
    async with Client(tracker) as client:
        await client.ensure_scheduler_stream()
        for number in (1, 1, 2):
            step = scheduler_events_pb2.SchedulerEvent(id=new_uid())
            step.time.FromSeconds(1_700_000_000 + number)
            step.attempt_stepped.job_uid, step.attempt_stepped.attempt_uid = run, attempt
            step.attempt_stepped.attempt, step.attempt_stepped.number = 1, number
            step.attempt_stepped.text = f"step {number}"
            subject = f"cairn.v1.scheduler.attempt.stepped.main.{run}"
            await client.stream.publish(subject, step.SerializeToString(), timeout=10)
        said = Spool(run).say("from the command")
        await client.publish(said)
        await client.applied(said)

        async def lines() -> list[tuple[int, str, str]]:
            found = await client.runs.ListLogLines(tracker_pb2.ListLogLinesRequest(parent=run_name(run)))
            return [(line.attempt, line.stream, line.text) for line in found.lines]

        async def whole() -> bool:
            return len(await lines()) >= 3

        await until(whole)
        assert sorted(await lines()) == [
            (1, "launch", "step 1"), (1, "launch", "step 2"), (1, "stdout", "from the command"),
        ]  # fmt: skip
