"""Versions, points and lines go by themselves by a team's rules, and never what somebody keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from cairn.tracker.v1 import artifact_pb2, keeping_pb2, run_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness import servers
from tests.harness.parts import TEAM, commit, entry, refused, upload
from tests.harness.tracker import ADMIN, MEMBER, Client, Spool, Tracker, run_name, start_tracker, until

CHECKPOINT = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
MODEL = artifact_pb2.ARTIFACT_KIND_MODEL


@pytest.fixture(scope="module")
def tracker(
    tmp_path_factory: pytest.TempPathFactory, database_url: Callable[[str], str], s3: servers.S3
) -> Iterator[Tracker]:
    """A tracker that looks at its rules all the time."""
    folder = tmp_path_factory.mktemp("retention")
    bus = servers.start_nats(folder / "nats")
    server = start_tracker(
        folder / "tracker", nats_url=bus.url, postgres_url=database_url("tracker"), s3=s3,
        CAIRN_COLLECTION_INTERVAL="0.1", CAIRN_EXPIRY_INTERVAL="0.1",
    )  # fmt: skip
    yield server
    server.stop()
    bus.stop()


async def ended_run(client: Client, experiment: str) -> str:
    request = tracker_pb2.CreateRunRequest(parent=TEAM, run={"experiment": experiment})
    run = await client.runs.CreateRun(request)
    await client.postgres.execute("UPDATE tracker.runs SET state = 4 WHERE uid = $1", run.uid)
    return run.name


async def saved(
    client: Client, name: str, accuracies: Sequence[float | None], **fields: object
) -> list[artifact_pb2.ArtifactVersion]:
    """A version for each accuracy."""
    made = []
    for accuracy in accuracies:
        data = new_uid().encode()
        await upload(client, data)
        wanted = commit(name, entry("a", data), **fields)
        if accuracy is not None:
            wanted.metadata.update({"metrics": {"acc": accuracy}})
        made.append(await client.artifacts.CommitVersion(wanted))
    return made


async def left(client: Client, name: str) -> list[int]:
    request = tracker_pb2.ListVersionsRequest(parent=f"{TEAM}/artifacts/{name}")
    return sorted(item.version for item in (await client.artifacts.ListVersions(request)).versions)


async def rule(client: Client, **fields: object) -> keeping_pb2.Keeping:
    made = keeping_pb2.RetentionRule(**fields)  # type: ignore[arg-type]
    wanted = keeping_pb2.Keeping(protected_aliases=["production"], retention=[made])
    return await client.keeping(ADMIN).SetKeeping(setting(wanted))


def setting(wanted: keeping_pb2.Keeping, *fields: str) -> keeping_pb2.SetKeepingRequest:
    """Replaces these fields, or all."""
    paths = fields or ("protected_aliases", "retention")
    return keeping_pb2.SetKeepingRequest(parent=TEAM, keeping=wanted, update_mask={"paths": paths})


async def preview(client: Client, **fields: object) -> dict[str, list[str]]:
    """Who holds each version that would go, by artifact and number."""
    wanted = [keeping_pb2.RetentionRule(**fields)] if fields else []  # type: ignore[arg-type]
    request = keeping_pb2.PreviewRetentionRequest(parent=TEAM, retention=wanted)
    found = (await client.keeping().PreviewRetention(request)).outlived
    return {item.version.name.removeprefix(f"{TEAM}/artifacts/"): list(item.held_by) for item in found}


async def test_the_last_and_the_best_stay_and_the_others_go(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        experiment = f"e-{new_uid()}"
        run = await ended_run(client, experiment)
        name, other = f"kept-{new_uid()}", f"other-{new_uid()}"
        await saved(client, name, [0.9, 0.1, 0.8, None, 0.2, 0.3], run=run, kind=CHECKPOINT)
        await saved(client, other, [0.1] * 4, run=await ended_run(client, "elsewhere"), kind=CHECKPOINT)
        wanted = {
            "kind": CHECKPOINT,
            "experiment": experiment,
            "keep_last": 1,
            "keep_best": 2,
            "metric": "acc",
        }
        going = await preview(client, **wanted)
        assert going == {f"{name}/versions/{number}": [] for number in (2, 5)}
        assert await left(client, name) == [1, 2, 3, 4, 5, 6]
        set_ = await rule(client, **wanted)
        assert [item.metric for item in set_.retention] == ["acc"]
        await until(lambda: is_left(client, name, [1, 3, 4, 6]))
        assert await left(client, other) == [1, 2, 3, 4]
        assert await preview(client) == {}
        deleter = "SELECT deleter FROM tracker.versions WHERE artifact = $1 AND number = 2"
        assert await client.postgres.fetchval(deleter, name) == "services/tracker"


async def is_left(client: Client, name: str, numbers: list[int]) -> bool:
    return await left(client, name) == numbers


async def test_nothing_goes_that_an_alias_a_pin_a_run_or_a_promoted_model_keeps(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        experiment = f"e-{new_uid()}"
        run, name = await ended_run(client, experiment), f"held-{new_uid()}"
        made = await saved(client, name, [None] * 6, run=run, kind=CHECKPOINT)
        _, admin = client.calling(ADMIN)
        await admin.SetAlias(tracker_pb2.SetAliasRequest(name=made[0].name, alias="mine"))
        await client.keeping().PinVersion(keeping_pb2.PinVersionRequest(name=made[1].name, pinned=True))
        reader = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM))
        await client.artifacts.GetVersion(
            tracker_pb2.GetVersionRequest(name=made[2].name, used_by=reader.name)
        )
        (model,) = await saved(client, f"model-{new_uid()}", [None], kind=MODEL, sources=[made[3].name])
        await admin.SetAlias(tracker_pb2.SetAliasRequest(name=model.name, alias="production"))
        wanted = {"kind": CHECKPOINT, "experiment": experiment, "keep_last": 1}
        going = await preview(client, **wanted)
        assert {name: bool(held) for name, held in going.items()} == {
            f"{name}/versions/3": True,
            f"{name}/versions/4": True,
            f"{name}/versions/5": False,
        }
        await rule(client, **wanted)
        await until(lambda: is_left(client, name, [1, 2, 3, 4, 6]))


async def test_nothing_goes_that_waits_to_be_promoted_or_serves_in_a_stage(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        experiment = f"e-{new_uid()}"
        run, name = await ended_run(client, experiment), f"waits-{new_uid()}"
        made = await saved(client, name, [None] * 4, run=run, kind=MODEL)
        uids = [one.uid for one in made]
        # As they are while a second person is asked, and while MLflow's clients load a stage.
        await client.postgres.execute(
            "INSERT INTO tracker.promotions"
            " (team, uid, artifact, number, alias, state, requester, create_time)"
            " VALUES ('main', $1, $2, 1, 'production', 1, 'users/ada', now())",
            *(new_uid(), name),
        )
        await client.postgres.execute(
            "INSERT INTO tracker.model_versions (version_uid, stage, update_time)"
            " VALUES ($1, 'Production', now()) ON CONFLICT (version_uid) DO UPDATE SET stage = 'Production'",
            uids[1],
        )
        wanted = {"kind": MODEL, "experiment": experiment, "keep_last": 1}
        assert set(await preview(client, **wanted)) == {f"{name}/versions/3"}
        await rule(client, **wanted)
        await until(lambda: is_left(client, name, [1, 2, 4]))


async def test_what_is_older_goes_and_an_experiments_own_rule_comes_before_that_of_all(
    tracker: Tracker,
) -> None:
    async with Client(tracker) as client:
        own = f"own-{new_uid()}"
        names = {}
        for experiment in (own, f"e-{new_uid()}", ""):
            run = await ended_run(client, experiment) if experiment else ""
            names[experiment] = f"old-{new_uid()}"
            await saved(client, names[experiment], [None, None], run=run, kind=MODEL)
            await client.postgres.execute(
                "UPDATE tracker.versions SET create_time = create_time - interval '3 days'"
                " WHERE artifact = $1 AND number = 1",
                names[experiment],
            )
        wanted = [
            keeping_pb2.RetentionRule(kind=MODEL, keep_for={"seconds": 86_400}),
            keeping_pb2.RetentionRule(kind=MODEL, experiment=own, keep_for={"seconds": 864_000}),
        ]
        request = setting(keeping_pb2.Keeping(retention=wanted), "retention")
        await client.keeping(ADMIN).SetKeeping(request)
        for experiment, name in names.items():
            await until(
                lambda name=name, whole=experiment == own: is_left(client, name, [1, 2] if whole else [2])
            )
        assert await left(client, names[own]) == [1, 2]


async def test_rules_that_cannot_be_meant_and_changes_over_others_are_refused(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        for fields in (
            {"kind": 0, "keep_last": 1},
            {"kind": MODEL},
            {"kind": MODEL, "keep_last": -1},
            {"kind": MODEL, "keep_best": 1},
            {"kind": MODEL, "keep_last": 1, "metric": "acc"},
            {"kind": MODEL, "keep_last": 1, "experiment": "Not An Id"},
            {"kind": MODEL, "keep_for": {"seconds": -1}},
        ):
            keeping = keeping_pb2.Keeping(retention=[keeping_pb2.RetentionRule(**fields)])  # type: ignore[arg-type]
            request = setting(keeping, "retention")
            assert await refused(client.keeping(ADMIN).SetKeeping(request)) == "INVALID_ARGUMENT", fields
            assert await refused(client.keeping(MEMBER).SetKeeping(request)) == "PERMISSION_DENIED"
        now = await rule(client, kind=MODEL, keep_last=3)
        request = setting(now)
        after = await client.keeping(ADMIN).SetKeeping(request)
        assert after.etag != now.etag
        assert await refused(client.keeping(ADMIN).SetKeeping(request)) == "ABORTED"
        stored = await client.postgres.fetchval("SELECT retention FROM tracker.keeping WHERE team = 'main'")
        assert [rule["keep_last"] for rule in json.loads(stored)] == [3]


async def test_what_is_not_named_stays_as_it_is(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        await rule(client, kind=MODEL, keep_last=3)
        keeping = client.keeping(ADMIN)
        wanted = keeping_pb2.Keeping(protected_aliases=["gold", "production"])
        made = await keeping.SetKeeping(setting(wanted, "protected_aliases"))
        assert (list(made.protected_aliases), [each.keep_last for each in made.retention]) == (
            ["gold", "production"],
            [3],
        )
        made = await keeping.SetKeeping(setting(keeping_pb2.Keeping(), "retention"))
        assert (list(made.protected_aliases), list(made.retention)) == (["gold", "production"], [])
        for paths in ([], ["etag"], ["retention", "name"]):
            request = keeping_pb2.SetKeepingRequest(parent=TEAM, keeping=wanted, update_mask={"paths": paths})
            assert await refused(keeping.SetKeeping(request)) == "INVALID_ARGUMENT", paths
        await rule(client, kind=MODEL, keep_last=3)


RECORD_POINTS, RECORD_LINES = keeping_pb2.RECORD_POINTS, keeping_pb2.RECORD_LINES
DAY = 86_400


async def logged_run(client: Client, experiment: str) -> Spool:
    """A run that goes on, with 5,000 steps of a metric and two lines."""
    spool = Spool(new_uid(), attempt=0)
    begun = spool.event()
    begun.run_started.experiment = experiment
    points = spool.points(list(range(5_000)), loss=[float(step % 77) for step in range(5_000)])
    lines = spool.say("one", "two")
    await client.publish(begun, points, lines)
    await client.applied(lines)
    return spool


async def over(client: Client, uid: str, *, days: float) -> None:
    """As if the run had ended, and had not been heard of, for so long."""
    await client.postgres.execute(
        "UPDATE tracker.runs SET state = 4, end_time = now() - $2 * interval '1 day',"
        " last_seen = now() - $2 * interval '1 day' WHERE uid = $1",
        *(uid, days),
    )


def record(kind: keeping_pb2.Record, days: float, experiment: str = "") -> keeping_pb2.RecordRule:
    span = {"seconds": int(days * DAY)}
    return keeping_pb2.RecordRule(record=kind, experiment=experiment, keep_for=span)


async def expiring(client: Client, *rules: keeping_pb2.RecordRule) -> dict[str, tuple[int, int]]:
    request = keeping_pb2.PreviewExpiryRequest(parent=TEAM, records=rules)
    found = (await client.keeping().PreviewExpiry(request)).expiring
    return {each.run.rpartition("/")[2]: (each.points, each.lines) for each in found}


async def run_of(client: Client, uid: str) -> run_pb2.Run:
    return await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(uid)))


async def test_points_and_lines_go_once_a_run_is_over_for_as_long_as_its_experiments_rule_says(
    tracker: Tracker,
) -> None:
    async with Client(tracker) as client:
        own = f"own-{new_uid()}"
        spools = [await logged_run(client, name) for name in ("old-ones", "old-ones", own, "old-ones")]
        old, young, kept, going = (spool.run for spool in spools)
        for uid, days in ((old, 9), (young, 1), (kept, 9)):
            await over(client, uid, days=days)
        before = await client.series(old)
        rules = [record(RECORD_POINTS, 7), record(RECORD_LINES, 7), record(RECORD_POINTS, 70, own)]
        assert await expiring(client, *rules) == {old: (1_000, 2), kept: (0, 2)}
        assert not (await run_of(client, old)).HasField("points_drop_time")
        await client.keeping(ADMIN).SetKeeping(setting(keeping_pb2.Keeping(records=rules), "records"))
        settled = (
            "SELECT bool_or(drop_open) OR max(points_drop_time) IS NULL FROM tracker.runs WHERE uid = $1"
        )

        async def gone() -> bool:
            return not await client.postgres.fetchval(settled, old)

        await until(gone)
        assert await expiring(client) == {}
        for uid, points, lines in ((old, True, True), (young, False, False), (kept, False, True)):
            run = await run_of(client, uid)
            told = (run.HasField("points_drop_time"), run.HasField("lines_drop_time"))
            assert (uid, told) == (uid, (points, lines))
            assert run.summary["loss"].count == 5_000
            request = tracker_pb2.ListLogLinesRequest(parent=run_name(uid))
            page = await client.runs.ListLogLines(request)
            assert [line.text for line in page.lines] == ([] if lines else ["one", "two"])
            assert page.HasField("drop_time") is lines
        assert not (await run_of(client, going)).HasField("lines_drop_time")
        (was,), (now,) = before.series, (await client.series(old)).series
        assert [list(now.steps), list(now.last), list(now.max)] == [
            list(was.steps),
            list(was.last),
            list(was.max),
        ]
        whole = await client.series(young, max_buckets=10_000)
        thin = await client.series(old, max_buckets=10_000)
        assert len(thin.series[0].steps) < 4_001 < len(whole.series[0].steps)
        # What was sent before is known, whoever sends it again; what is new is added, and is due again later.
        (first, second) = spools[0], Spool(old, attempt=0)
        first.offset = first.lines = 0
        first.event()
        again = first.points(list(range(5_000)), loss=[-1.0] * 5_000)
        late = second.points([5_000], loss=[100.0])
        await client.publish(again, first.say("one", "two"), late)
        await client.applied(late)
        run = await run_of(client, old)
        assert (run.summary["loss"].count, run.summary["loss"].min) == (5_001, 0.0)
        tail = tracker_pb2.ListLogLinesRequest(parent=run_name(old), tail=10)
        assert not (await client.runs.ListLogLines(tail)).lines
        await client.keeping(ADMIN).SetKeeping(setting(keeping_pb2.Keeping(), "records"))


async def test_rules_for_records_that_cannot_be_meant_are_refused(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        day = {"seconds": DAY}
        refusals: tuple[list[dict[str, Any]], ...] = (
            [{"keep_for": day}],
            [{"record": RECORD_POINTS}],
            [{"record": RECORD_LINES, "keep_for": {"seconds": -1}}],
            [{"record": RECORD_LINES, "keep_for": day, "experiment": "Not An Id"}],
            [{"record": RECORD_LINES, "keep_for": day}] * 2,
            [{"record": 9, "keep_for": day}],
        )
        for fields in refusals:
            rules = [keeping_pb2.RecordRule(**one) for one in fields]
            request = setting(keeping_pb2.Keeping(records=rules), "records")
            assert await refused(client.keeping(ADMIN).SetKeeping(request)) == "INVALID_ARGUMENT", fields
            assert await refused(client.keeping(MEMBER).SetKeeping(request)) == "PERMISSION_DENIED"
            look = keeping_pb2.PreviewExpiryRequest(parent=TEAM, records=rules)
            assert await refused(client.keeping().PreviewExpiry(look)) == "INVALID_ARGUMENT", fields
