"""Runs follow their jobs; teams do not see each other."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from grpc import aio

from cairn.job.v1 import events_pb2
from cairn.scheduler.v1 import job_pb2
from cairn.tracker.v1 import events_pb2 as tracker_events_pb2
from cairn.tracker.v1 import metric_pb2, run_pb2, tracker_pb2, tracker_pb2_grpc
from cairn_common.errors import Reason, from_rpc_error
from cairn_common.ids import new_uid
from cairn_tracker.api import ACCESS, NAMES
from tests.harness.tracker import (
    RUN,
    STRANGER,
    VIEWER,
    Client,
    Spool,
    Tracker,
    run_name,
    until,
)


def job(uid: str, revision: int, state: job_pb2.Job.State.ValueType, *attempts: str) -> job_pb2.Job:
    """A job of this revision with attempts in these states."""
    made = job_pb2.Job(
        name=f"teams/main/jobs/{uid}",
        uid=uid,
        revision=revision,
        state=state,
        display_name="digits",
        creator="users/ada",
        experiment="sweeps",
        sweep="teams/main/sweeps/s1",
        spec=job_pb2.JobSpec(run="python train.py\n", params={"lr": "0.1", "seed": "1"}),
        code=job_pb2.CodeRef(digest="ab" * 32, size=10, git_commit="c0ffee", git_diff="+x"),
        attempts=[
            job_pb2.Attempt(
                number=number + 1,
                uid=new_uid(),
                state=job_pb2.Attempt.State.Value(name),
                cause=job_pb2.CAUSE_INFRA if name == "FAILED" else job_pb2.CAUSE_UNSPECIFIED,
            )
            for number, name in enumerate(attempts)
        ],
    )
    made.create_time.FromSeconds(1_700_000_000)
    made.start_time.FromSeconds(1_700_000_010)
    if state >= job_pb2.Job.SUCCEEDED:
        made.end_time.GetCurrentTime()
    return made


async def get(client: Client, uid: str) -> run_pb2.Run:
    return await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(uid)))


async def revision(client: Client, uid: str) -> int:
    found: int | None = await client.postgres.fetchval("SELECT job_revision FROM runs WHERE uid = $1", uid)
    return found or 0


async def test_a_run_follows_its_job_whatever_arrives_first(tracker: Tracker) -> None:
    uid = new_uid()
    spool = Spool(uid)
    resumed = Spool(uid, attempt=2)
    async with Client(tracker) as client:
        first = spool.points([1], loss=[1.0])
        started = spool.event()
        started.run_started.params.update({"lr": 0.1})
        began = resumed.event()
        began.run_resumed.step = 40
        await client.publish(first, started, began)
        await client.applied(began)
        before = await get(client, uid)
        assert before.state == run_pb2.Run.PENDING
        assert before.job == f"teams/main/jobs/{uid}"

        await client.tell(job(uid, 5, job_pb2.Job.RUNNING, "FAILED", "RUNNING"))
        await until(lambda: at_least(client, uid, 5))
        run = await get(client, uid)
        assert (run.state, run.display_name, run.sweep) == (
            run_pb2.Run.RUNNING,
            "digits",
            "teams/main/sweeps/s1",
        )
        assert dict(run.params) == {"lr": 0.1, "seed": "1"}
        assert run.code.git_diff == "+x"
        assert run.command == "python train.py"
        assert [(item.number, item.state, item.cause) for item in run.attempts] == [
            (1, "failed", "infra"),
            (2, "running", ""),
        ]
        assert not run.attempts[0].HasField("resumed_step")
        assert run.attempts[1].resumed_step == 40

        # An older event comes late: nothing changes.
        await client.tell(job(uid, 4, job_pb2.Job.RECOVERING, "FAILED"))
        await client.tell(job(uid, 6, job_pb2.Job.SUCCEEDED, "FAILED", "SUCCEEDED"))
        await until(lambda: at_least(client, uid, 6))
        ended = await get(client, uid)
        assert (ended.state, ended.complete, len(ended.attempts)) == (run_pb2.Run.SUCCEEDED, False, 2)
        last = resumed.drained()
        await client.publish(last)
        await client.applied(last)
        assert (await get(client, uid)).complete


async def test_a_gangs_run_is_complete_when_every_ranks_runner_has_said_its_last_word(
    tracker: Tracker,
) -> None:
    uid = new_uid()
    attempt = new_uid()
    ranks = [Spool(uid, attempt_uid=attempt) for _ in range(3)]
    async with Client(tracker) as client:
        await client.tell(job(uid, 6, job_pb2.Job.SUCCEEDED, "SUCCEEDED"))
        await until(lambda: at_least(client, uid, 6))
        # The first rank's word, twice as after a restart of its runner, and another's: one is missing still.
        for rank in (0, 0, 2):
            word = ranks[rank].drained(rank=rank, runners=3)
            await client.publish(word)
            await client.applied(word)
            assert not (await get(client, uid)).complete
        late = ranks[1].say("late", rank=1)
        last = ranks[1].drained(rank=1, runners=3)
        await client.publish(late, last)
        await client.applied(last)
        assert (await get(client, uid)).complete


async def at_least(client: Client, uid: str, wanted: int) -> bool:
    return await revision(client, uid) >= wanted


async def test_facts_tell_of_what_changed(tracker: Tracker) -> None:
    uid = new_uid()
    async with Client(tracker) as client:
        heard = await client.nats.subscribe(f"cairn.v1.tracker.run.*.main.{uid}")
        await client.tell(job(uid, 1, job_pb2.Job.RUNNING, "RUNNING"))
        event = tracker_events_pb2.TrackerEvent.FromString((await heard.next_msg(timeout=20)).data)
        assert event.run_created.run.uid == uid
        logged = Spool(uid).points([1, 2], loss=[2.0, 1.0])
        await client.publish(logged)
        event = tracker_events_pb2.TrackerEvent.FromString((await heard.next_msg(timeout=20)).data)
        assert event.run_progressed.run == run_name(uid)
        assert event.run_progressed.summary["loss"].last == 1.0


async def test_runs_are_created_listed_changed_and_compared(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        made = []
        for number in range(5):
            run = run_pb2.Run(experiment="compared", display_name=f"run {number}")
            run.params.update({"lr": number / 10, "same": True})
            request = tracker_pb2.CreateRunRequest(
                parent="teams/main", run=run, request_id=f"request-{number}"
            )
            made.append(await client.runs.CreateRun(request))
            assert (await client.runs.CreateRun(request)).uid == made[-1].uid
            request.run.params.update({"lr": 9})
            with pytest.raises(aio.AioRpcError) as caught:
                await client.runs.CreateRun(request)
            assert from_rpc_error(caught.value).reason is Reason.REQUEST_ID_REUSED
        spools = [Spool(run.uid, attempt=0) for run in made]
        events = [
            spool.points([0, 1, 2], **{"val/loss": [3.0, 1.0 + place, 2.0], "accuracy": [0.1, 0.9, 0.5]})
            for place, spool in enumerate(spools)
        ]
        await client.publish(*events)
        for event in events:
            await client.applied(event)
        pages = []
        token = ""
        while True:
            page = await client.runs.ListRuns(
                tracker_pb2.ListRunsRequest(
                    parent="teams/main", experiment="compared", page_size=2, page_token=token
                )
            )
            pages.append([run.uid for run in page.runs])
            token = page.next_page_token
            if not token:
                break
        assert pages == [[made[4].uid, made[3].uid], [made[2].uid, made[1].uid], [made[0].uid]]
        table = await client.runs.CompareRuns(
            tracker_pb2.CompareRunsRequest(parent="teams/main", runs=[run.name for run in made[:3]])
        )
        assert list(table.param_keys) == ["lr"]
        assert list(table.metric_keys) == ["accuracy", "val/loss"]
        assert [best(row, "val/loss") for row in table.rows] == [(1.0, 1), (2.0, 1), (2.0, 2)]
        assert best(table.rows[0], "accuracy") == (0.9, 1)
        update = tracker_pb2.UpdateRunRequest(
            run=run_pb2.Run(name=made[0].name, display_name="better", etag=made[0].etag)
        )
        update.update_mask.paths.append("display_name")
        assert (await client.runs.UpdateRun(update)).display_name == "better"
        with pytest.raises(aio.AioRpcError) as old:
            await client.runs.UpdateRun(update)
        assert old.value.code() is grpc.StatusCode.ABORTED
        experiments = await client.runs.ListExperiments(
            tracker_pb2.ListExperimentsRequest(parent="teams/main")
        )
        assert {item.display_name: item.run_count for item in experiments.experiments}["compared"] == 5


def best(row: metric_pb2.Comparison.Row, key: str) -> tuple[float, int]:
    return row.metrics[key].best, row.metrics[key].best_step


async def test_another_team_sees_nothing_and_a_viewer_changes_nothing(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        run = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent="teams/main"))
        stranger, _ = client.calling(STRANGER)
        viewer, _ = client.calling(VIEWER)
        own, _ = client.calling(RUN + run.uid)
        other, _ = client.calling(RUN + new_uid())
        missing = run_name(new_uid())
        for stub in (stranger, other):
            assert await code(stub.GetRun(tracker_pb2.GetRunRequest(name=run.name))) == "NOT_FOUND"
        assert await code(client.runs.GetRun(tracker_pb2.GetRunRequest(name=missing))) == "NOT_FOUND"
        # A team of the stranger's own gives no way to a run of another.
        for name in (run.name, f"teams/other/runs/{run.uid}"):
            query = tracker_pb2.QuerySeriesRequest(parent="teams/other", runs=[name])
            answer = await code(stranger.QuerySeries(query))
            assert answer in ("NOT_FOUND", "OK")
            if answer == "OK":
                assert not (await stranger.QuerySeries(query)).series
        compare = tracker_pb2.CompareRunsRequest(parent="teams/other", runs=[f"teams/other/runs/{run.uid}"])
        assert await code(stranger.CompareRuns(compare)) == "NOT_FOUND"
        logs = tracker_pb2.ListLogLinesRequest(parent=f"teams/other/runs/{run.uid}")
        assert await code(stranger.ListLogLines(logs)) == "NOT_FOUND"
        assert await code(viewer.GetRun(tracker_pb2.GetRunRequest(name=run.name))) == "OK"
        assert await code(own.GetRun(tracker_pb2.GetRunRequest(name=run.name))) == "OK"
        create = tracker_pb2.CreateRunRequest(parent="teams/main")
        assert await code(viewer.CreateRun(create)) == "PERMISSION_DENIED"
        assert await code(own.CreateRun(create)) == "PERMISSION_DENIED"
        taken = tracker_pb2.CreateRunRequest(parent="teams/main", run_id=run.uid)
        assert await code(client.runs.CreateRun(taken)) == "OK"
        # Of a team of their own, the same id is another run.
        elsewhere = tracker_pb2.CreateRunRequest(parent="teams/other", run_id=run.uid)
        assert (await stranger.CreateRun(elsewhere)).name == f"teams/other/runs/{run.uid}"


async def code(call: aio.UnaryUnaryCall[object, object]) -> str:
    return (await call.code()).name


async def test_arguments_that_cannot_be_are_refused(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        run = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent="teams/main"))
        calls = [
            client.runs.GetRun(tracker_pb2.GetRunRequest(name="runs/x")),
            client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent="teams/main", run_id="../x")),
            client.runs.ListRuns(tracker_pb2.ListRunsRequest(parent="teams/main", page_size=-1)),
            client.runs.ListRuns(tracker_pb2.ListRunsRequest(parent="teams/main", page_token="x")),
            client.runs.QuerySeries(tracker_pb2.QuerySeriesRequest(parent="teams/main")),
            client.runs.QuerySeries(
                tracker_pb2.QuerySeriesRequest(parent="teams/main", runs=[run.name], start_step=-1)
            ),
            client.runs.ListLogLines(tracker_pb2.ListLogLinesRequest(parent=run.name, cursor="-4")),
            client.runs.UpdateRun(tracker_pb2.UpdateRunRequest(run=run_pb2.Run(name=run.name))),
        ]
        assert [await code(call) for call in calls] == ["INVALID_ARGUMENT"] * len(calls)


def test_every_rpc_has_its_rule() -> None:
    assert tracker_pb2_grpc.TrackerServiceStub is not None
    methods = {
        f"/{name}/{method.name}" for name in NAMES for method in Default().FindServiceByName(name).methods
    }
    assert methods == set(ACCESS)


async def test_a_process_that_failed_and_is_heard_late_is_the_end_unless_the_run_was_begun_since(
    tracker: Tracker,
) -> None:
    uid = new_uid()
    spools = [Spool(uid, attempt=0) for _ in range(3)]

    def told(spool: Spool, *, started: int = 0, ended: int = 0, well: bool = True) -> events_pb2.JobEvent:
        event = spool.event()
        if started:
            event.run_started.time.FromSeconds(1_700_000_000 + started)
        else:
            event.run_finished.time.FromSeconds(1_700_000_000 + ended)
            event.run_finished.succeeded = well
            event.run_finished.message = "" if well else f"of {ended}"
        return event

    async with Client(tracker) as client:

        async def after(*events: events_pb2.JobEvent) -> tuple[str, str, int]:
            for event in events:  # each in a batch of its own
                await client.publish(event)
                await client.applied(event)
            run = await get(client, uid)
            return run_pb2.Run.State.Name(run.state), run.message, run.end_time.seconds - 1_700_000_000

        one, other, more = spools
        begun = (told(one, started=1), told(other, started=2))
        assert await after(*begun, told(one, ended=9)) == ("SUCCEEDED", "", 9)
        assert await after(told(other, ended=5, well=False)) == ("FAILED", "of 5", 9)
        assert await after(told(one, started=20), told(one, ended=29)) == ("SUCCEEDED", "", 29)
        assert await after(told(more, ended=15, well=False)) == ("SUCCEEDED", "", 29)
