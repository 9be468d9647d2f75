"""A version goes only when nobody holds it, and an alias always names one version."""

from __future__ import annotations

import asyncio

from grpc import aio

from cairn.tracker.v1 import artifact_pb2, keeping_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, commit, entry, refused, upload
from tests.harness.tracker import ADMIN, RUN, VIEWER, Client, Tracker


async def made(client: Client, name: str, **fields: object) -> artifact_pb2.ArtifactVersion:
    data = new_uid().encode()
    await upload(client, data)
    return await client.artifacts.CommitVersion(commit(name, entry("a", data), **fields))


def delete(client: Client, version: artifact_pb2.ArtifactVersion) -> aio.UnaryUnaryCall[object, object]:
    return client.keeping().DeleteVersion(keeping_pb2.DeleteVersionRequest(name=version.name))  # type: ignore[return-value]


async def found(client: Client, name: str) -> str:
    return await refused(client.artifacts.GetVersion(tracker_pb2.GetVersionRequest(name=name)))  # type: ignore[arg-type]


async def test_a_deleted_version_is_gone_and_its_number_is_not_given_again(tracker: Tracker) -> None:
    name = f"gone-{new_uid()}"
    async with Client(tracker) as client:
        first, second = await made(client, name), await made(client, name)
        assert await refused(delete(client, second)) == "OK"
        assert await refused(delete(client, second)) == "NOT_FOUND"
        latest = tracker_pb2.GetVersionRequest(name=f"{TEAM}/artifacts/{name}/versions/latest")
        assert (await client.artifacts.GetVersion(latest)).name == first.name
        assert (await made(client, name)).version == 3
        stale = commit(name, entry("empty"), sources=[second.name])
        assert await refused(client.artifacts.CommitVersion(stale)) == "NOT_FOUND"
        listing = tracker_pb2.ListVersionsRequest(parent=f"{TEAM}/artifacts/{name}")
        assert [item.version for item in (await client.artifacts.ListVersions(listing)).versions] == [3, 1]
        viewer = client.keeping(VIEWER)
        request = keeping_pb2.DeleteVersionRequest(name=first.name)
        assert await refused(viewer.DeleteVersion(request)) == "PERMISSION_DENIED"


async def test_an_artifact_without_versions_is_not_listed_and_begins_again(tracker: Tracker) -> None:
    name = f"empty-{new_uid()}"
    async with Client(tracker) as client:
        only = await made(client, name)
        assert await refused(delete(client, only)) == "OK"
        listed = await client.artifacts.ListArtifacts(tracker_pb2.ListArtifactsRequest(parent=TEAM))
        assert name not in {item.name.rsplit("/", 1)[1] for item in listed.artifacts}
        assert list((await made(client, name)).aliases) == ["latest"]


async def test_an_alias_and_a_pin_hold_a_version(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        held = await made(client, f"held-{new_uid()}", aliases=["best"])
        keeping = client.keeping()
        pinned = await keeping.PinVersion(keeping_pb2.PinVersionRequest(name=held.name, pinned=True))
        assert pinned.pinned_by == "users/ada"
        call = delete(client, held)
        assert await refused(call) == "FAILED_PRECONDITION"
        assert "held by alias best; a pin of users/ada" in str(await call.details())
        remove = keeping_pb2.RemoveAliasRequest(name=held.name, alias="best")
        assert list((await keeping.RemoveAlias(remove)).aliases) == ["latest"]
        assert await refused(keeping.RemoveAlias(remove)) == "FAILED_PRECONDITION"
        assert await refused(delete(client, held)) == "FAILED_PRECONDITION"
        await keeping.PinVersion(keeping_pb2.PinVersionRequest(name=held.name, pinned=False))
        assert await refused(delete(client, held)) == "OK"
        assert await found(client, held.name) == "NOT_FOUND"


async def test_a_run_that_is_not_over_holds_what_it_reads_and_what_it_resumes_from(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        run = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM))
        data = await made(client, f"data-{new_uid()}")
        await client.artifacts.GetVersion(tracker_pb2.GetVersionRequest(name=data.name, used_by=run.name))
        kind = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
        first, last = [
            await made(client, f"checkpoints-{run.uid}", run=run.name, kind=kind, step=step)
            for step in (1, 2)
        ]
        for held in (data, last):
            call = delete(client, held)
            assert await refused(call) == "FAILED_PRECONDITION"
            assert f"run {run.uid} that is not over" in str(await call.details())
        assert await refused(delete(client, first)) == "OK"
        await client.postgres.execute("UPDATE tracker.runs SET state = 4 WHERE uid = $1", run.uid)
        for free in (data, last):
            assert await refused(delete(client, free)) == "OK"


async def test_a_promoted_model_holds_all_that_it_comes_from(tracker: Tracker) -> None:
    name = f"model-{new_uid()}"
    async with Client(tracker) as client:
        run = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM))
        await client.postgres.execute("UPDATE tracker.runs SET state = 4 WHERE uid = $1", run.uid)
        data = await made(client, f"data-{new_uid()}")
        await client.artifacts.GetVersion(tracker_pb2.GetVersionRequest(name=data.name, used_by=run.name))
        state = await made(client, f"state-{new_uid()}", run=run.name)
        kind = artifact_pb2.ARTIFACT_KIND_MODEL
        model = await made(client, name, kind=kind, sources=[state.name])
        promote = tracker_pb2.SetAliasRequest(name=model.name, alias="production")
        assert await refused(client.artifacts.SetAlias(promote)) == "PERMISSION_DENIED"
        _, admin = client.calling(ADMIN)
        await admin.SetAlias(promote)
        for held in (state, data):
            call = delete(client, held)
            assert await refused(call) == "FAILED_PRECONDITION"
            assert f"model {name}:v1" in str(await call.details())
        remove = keeping_pb2.RemoveAliasRequest(name=model.name, alias="production")
        assert await refused(client.keeping().RemoveAlias(remove)) == "PERMISSION_DENIED"
        await client.keeping(ADMIN).RemoveAlias(remove)
        for free in (state, data):
            assert await refused(delete(client, free)) == "OK"


async def test_a_team_says_which_aliases_are_protected(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        version = await made(client, f"guarded-{new_uid()}")
        rules = keeping_pb2.SetKeepingRequest(
            parent=TEAM,
            keeping=keeping_pb2.Keeping(protected_aliases=["gold", "production"]),
            update_mask={"paths": ["protected_aliases"]},
        )
        assert await refused(client.keeping().SetKeeping(rules)) == "PERMISSION_DENIED"
        assert list((await client.keeping(ADMIN).SetKeeping(rules)).protected_aliases) == [
            "gold",
            "production",
        ]
        gold = tracker_pb2.SetAliasRequest(name=version.name, alias="gold")
        assert await refused(client.artifacts.SetAlias(gold)) == "PERMISSION_DENIED"
        wanted = commit(f"guarded-{new_uid()}", entry("empty"), aliases=["gold"])
        assert await refused(client.artifacts.CommitVersion(wanted)) == "PERMISSION_DENIED"
        _, own = client.calling(RUN + new_uid())
        assert await refused(own.CommitVersion(wanted)) == "PERMISSION_DENIED"
        rules.keeping.ClearField("protected_aliases")
        await client.keeping(ADMIN).SetKeeping(rules)
        assert await refused(client.artifacts.SetAlias(gold)) == "OK"
        rules.keeping.protected_aliases.append("production")
        await client.keeping(ADMIN).SetKeeping(rules)


async def test_of_twenty_writers_of_an_alias_it_is_always_one_and_each_is_in_its_history(
    tracker: Tracker,
) -> None:
    name = f"race-{new_uid()}"
    async with Client(tracker) as client:
        versions = [await made(client, name) for _ in range(20)]
        await client.artifacts.SetAlias(tracker_pb2.SetAliasRequest(name=versions[0].name, alias="best"))
        done = asyncio.Event()
        seen: list[int] = []

        async def watch() -> None:
            best = tracker_pb2.GetVersionRequest(name=f"{TEAM}/artifacts/{name}/versions/best")
            while not done.is_set():
                seen.append((await client.artifacts.GetVersion(best)).version)

        watching = asyncio.create_task(watch())
        await asyncio.gather(
            *(
                client.artifacts.SetAlias(tracker_pb2.SetAliasRequest(name=item.name, alias="best"))
                for item in versions
            )
        )
        done.set()
        await watching
        assert set(seen) <= set(range(1, 21))
        listing = tracker_pb2.ListVersionsRequest(parent=f"{TEAM}/artifacts/{name}")
        listed = (await client.artifacts.ListVersions(listing)).versions
        best = [item.version for item in listed if "best" in item.aliases]
        request = keeping_pb2.ListAliasMovesRequest(artifact=f"{TEAM}/artifacts/{name}")
        moves = (await client.keeping().ListAliasMoves(request)).moves
        assert [moves[0].version] == best
        assert sorted(move.version for move in moves) == sorted([1, *range(1, 21)])
        assert {(move.alias, move.actor) for move in moves} == {("best", "users/ada")}
