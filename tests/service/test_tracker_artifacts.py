"""Versions are there whole or not at all, and their bytes never pass through the tracker."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from grpc import aio

from cairn.tracker.v1 import artifact_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, commit, digest, entry, refused, upload
from tests.harness.tracker import RUN, STRANGER, VIEWER, Client, Tracker, run_name


async def version(client: Client, name: str) -> artifact_pb2.ArtifactVersion:
    request = tracker_pb2.GetVersionRequest(name=f"{TEAM}/artifacts/{name}")
    return await client.artifacts.GetVersion(request)


async def test_a_version_goes_up_and_comes_down_by_signed_urls(tracker: Tracker) -> None:
    one, two = b"first part " + new_uid().encode(), b"second " + new_uid().encode()
    async with Client(tracker) as client:
        assert await upload(client, one, two) == 2
        assert await upload(client, one, two) == 0
        wanted = commit("weights", entry("a/b.bin", one, two), entry("empty"), request_id=new_uid())
        wanted.metadata.update({"accuracy": 0.9})
        made = await client.artifacts.CommitVersion(wanted)
        assert (made.name, made.version, list(made.aliases)) == (
            "teams/main/artifacts/weights/versions/1",
            1,
            ["latest"],
        )
        assert made.size == len(one) + len(two)
        assert await client.artifacts.CommitVersion(wanted) == made
        for which in ("1", "v1", "latest"):
            assert await version(client, f"weights/versions/{which}") == made
        answer = await client.artifacts.CreateDownloads(
            tracker_pb2.CreateDownloadsRequest(parent=TEAM, digests=[digest(one)])
        )
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(answer.downloads[0].url)).content == one
        assert answer.downloads[0].size == len(one)


async def test_a_commit_is_all_or_nothing(tracker: Tracker) -> None:
    there, missing = b"there " + new_uid().encode(), b"missing " + new_uid().encode()
    name = f"half-{new_uid()}"
    async with Client(tracker) as client:
        await upload(client, there)
        half = commit(name, entry("a", there), entry("b", missing))
        assert await refused(client.artifacts.CommitVersion(half)) == "FAILED_PRECONDITION"
        listing = tracker_pb2.ListVersionsRequest(parent=f"{TEAM}/artifacts/{name}")
        assert await refused(client.artifacts.ListVersions(listing)) == "NOT_FOUND"
        await upload(client, there, missing)
        assert (await client.artifacts.CommitVersion(half)).version == 1


async def test_a_part_of_another_size_is_refused_until_it_is_uploaded_whole(tracker: Tracker) -> None:
    data = b"the whole of it " + new_uid().encode()
    part = artifact_pb2.ArtifactPart(digest=digest(data), size=len(data))
    async with Client(tracker) as client:
        request = tracker_pb2.CreateUploadsRequest(parent=TEAM, parts=[part])
        async with httpx.AsyncClient(trust_env=False) as http:
            for content, code in ((data[:5], "FAILED_PRECONDITION"), (data, "OK")):
                (upload_,) = (await client.artifacts.CreateUploads(request)).uploads
                (await http.put(upload_.url, content=content)).raise_for_status()
                answer = client.artifacts.CommitVersion(commit("cut", entry("a", data)))
                assert await refused(answer) == code


async def test_bytes_that_are_not_those_of_their_digest_are_refused_until_they_are(tracker: Tracker) -> None:
    data = b"the right ones " + new_uid().encode()
    wrong = data[::-1]
    uploads = tracker_pb2.CreateUploadsRequest(
        parent=TEAM, parts=[artifact_pb2.ArtifactPart(digest=digest(data), size=len(data))]
    )
    downloads = tracker_pb2.CreateDownloadsRequest(parent=TEAM, digests=[digest(data)])
    wanted = commit("right", entry("a", data))
    async with Client(tracker) as client, httpx.AsyncClient(trust_env=False) as http:
        for content, committed, found in ((wrong, "FAILED_PRECONDITION", "NOT_FOUND"), (data, "OK", "OK")):
            (offered,) = (await client.artifacts.CreateUploads(uploads)).uploads
            (await http.put(offered.url, content=content)).raise_for_status()
            assert await refused(client.artifacts.CommitVersion(wanted)) == committed
            assert await refused(client.artifacts.CreateDownloads(downloads)) == found


async def test_nobody_is_given_a_url_to_write_over_what_a_version_is_made_of(tracker: Tracker) -> None:
    data = b"kept " + new_uid().encode()
    async with Client(tracker) as client:
        await upload(client, data)
        await client.artifacts.CommitVersion(commit("kept", entry("a", data)))
        _, own = client.calling(RUN + new_uid())
        for size in (1, len(data) + 1):
            part = artifact_pb2.ArtifactPart(digest=digest(data), size=size)
            request = tracker_pb2.CreateUploadsRequest(parent=TEAM, parts=[part])
            assert await refused(own.CreateUploads(request)) == "INVALID_ARGUMENT"


async def test_commits_at_once_get_numbers_of_their_own_and_one_latest(tracker: Tracker) -> None:
    name = f"many-{new_uid()}"
    async with Client(tracker) as client:
        data = [f"{number} {name}".encode() for number in range(12)]
        await upload(client, *data)
        made = await asyncio.gather(
            *(client.artifacts.CommitVersion(commit(name, entry("a", item))) for item in data)
        )
        assert sorted(item.version for item in made) == list(range(1, 13))
        assert (await version(client, f"{name}/versions/latest")).version == 12
        listed = await client.artifacts.ListVersions(
            tracker_pb2.ListVersionsRequest(parent=f"{TEAM}/artifacts/{name}", page_size=5)
        )
        assert [item.version for item in listed.versions] == [12, 11, 10, 9, 8]
        assert [item.version for item in listed.versions if "latest" in item.aliases] == [12]
        # The same request many times at once is one version.
        again = commit(name, entry("a", data[0]), request_id=new_uid())
        same = await asyncio.gather(*(client.artifacts.CommitVersion(again) for _ in range(6)))
        assert {item.version for item in same} == {13}


async def test_a_checkpoint_becomes_a_model_with_its_lineage(tracker: Tracker) -> None:
    data = b"a checkpoint " + new_uid().encode()
    async with Client(tracker) as client:
        run = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM))
        _, own = client.calling(RUN + run.uid)
        await upload(client, data)
        saved = []
        for step in (20, 10):
            wanted = commit(
                f"checkpoints-{run.uid}",
                entry("state", data),
                kind=artifact_pb2.ARTIFACT_KIND_CHECKPOINT,
                step=step,
            )
            saved.append(await own.CommitVersion(wanted))
        latest = await own.GetLatestCheckpoint(
            tracker_pb2.GetLatestCheckpointRequest(parent=run_name(run.uid))
        )
        # The last that was committed, though its step is the lower one.
        assert (latest, latest.step, latest.run) == (saved[1], 10, run.name)
        assert await upload(client, data) == 0
        model = await client.artifacts.CommitVersion(
            commit(
                "digits",
                entry("state", data),
                kind=artifact_pb2.ARTIFACT_KIND_MODEL,
                run=run.name,
                sources=[latest.name],
                aliases=["best"],
            )
        )
        assert sorted(model.aliases) == ["best", "latest"]
        assert list(model.sources) == [latest.name]
        assert model.digest == latest.digest
        reader = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM))
        best = f"{TEAM}/artifacts/digits/versions/best"
        used = tracker_pb2.GetVersionRequest(name=best, used_by=reader.name)
        assert (await client.artifacts.GetVersion(used)).name == model.name
        lineage = await client.artifacts.GetLineage(tracker_pb2.GetLineageRequest(name=model.name))
        assert (lineage.run, list(lineage.inputs), list(lineage.used_by)) == (
            run.name,
            [latest.name],
            [reader.name],
        )


async def test_an_alias_moves_and_cannot_look_like_a_number(tracker: Tracker) -> None:
    name = f"moved-{new_uid()}"
    async with Client(tracker) as client:
        data = b"x" + name.encode()
        await upload(client, data)
        first = await client.artifacts.CommitVersion(commit(name, entry("a", data), aliases=["prod"]))
        second = await client.artifacts.CommitVersion(commit(name, entry("b", data)))
        assert list((await version(client, f"{name}/versions/1")).aliases) == ["prod"]
        moved = await client.artifacts.SetAlias(tracker_pb2.SetAliasRequest(name=second.name, alias="prod"))
        assert sorted(moved.aliases) == ["latest", "prod"]
        assert list((await version(client, f"{name}/versions/1")).aliases) == []
        for alias in ("v3", "latest", "Prod", "1", ""):
            request = tracker_pb2.SetAliasRequest(name=first.name, alias=alias)
            assert await refused(client.artifacts.SetAlias(request)) == "INVALID_ARGUMENT"
        listed = await client.artifacts.ListArtifacts(
            tracker_pb2.ListArtifactsRequest(parent=TEAM, page_size=1000)
        )
        (mine,) = [item for item in listed.artifacts if item.name.endswith(name)]
        assert dict(mine.aliases) == {"latest": 2, "prod": 2}


async def test_a_code_archive_is_downloaded_without_any_version(tracker: Tracker) -> None:
    archive = b"a tar " + new_uid().encode()
    request = tracker_pb2.CreateDownloadsRequest(parent=TEAM, digests=[digest(archive)])
    async with Client(tracker) as client:
        assert await refused(client.artifacts.CreateDownloads(request)) == "NOT_FOUND"
        await upload(client, archive)
        _, own = client.calling(RUN + new_uid())
        (found,) = (await own.CreateDownloads(request)).downloads
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(found.url)).content == archive


async def test_only_the_team_and_only_its_own_run(tracker: Tracker) -> None:
    data = b"secret " + new_uid().encode()
    async with Client(tracker) as client:
        run, other = [
            await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM)) for _ in range(2)
        ]
        await upload(client, data)
        made = await client.artifacts.CommitVersion(commit("secret", entry("a", data)))
        _, stranger = client.calling(STRANGER)
        _, viewer = client.calling(VIEWER)
        _, own = client.calling(RUN + run.uid)
        get = tracker_pb2.GetVersionRequest(name=made.name)
        assert await refused(stranger.GetVersion(get)) == "NOT_FOUND"
        assert await refused(viewer.GetVersion(get)) == "OK"
        assert await refused(own.GetVersion(get)) == "OK"
        used = tracker_pb2.GetVersionRequest(name=made.name, used_by=other.name)
        assert await refused(own.GetVersion(used)) == "PERMISSION_DENIED"
        assert await refused(viewer.GetVersion(used)) == "PERMISSION_DENIED"
        foreign = commit("secret", entry("a", data), run=other.name)
        assert await refused(own.CommitVersion(foreign)) == "PERMISSION_DENIED"
        assert await refused(viewer.CommitVersion(commit("secret", entry("a", data)))) == "PERMISSION_DENIED"
        unknown = commit("secret", entry("a", data), run=run_name(new_uid()))
        assert await refused(client.artifacts.CommitVersion(unknown)) == "NOT_FOUND"
        # Whether another team has a blob is not to be found out, nor is a source of another team to be named.
        blob = tracker_pb2.CreateDownloadsRequest(parent="teams/other", digests=[digest(data)])
        assert await refused(stranger.CreateDownloads(blob)) == "NOT_FOUND"
        part = artifact_pb2.ArtifactPart(digest=digest(data), size=len(data))
        asked = await stranger.CreateUploads(
            tracker_pb2.CreateUploadsRequest(parent="teams/other", parts=[part])
        )
        assert len(asked.uploads) == 1
        # All that can be asked of a digest: another team's has the answers of one that nobody has.
        nobodys = new_uid().encode() * 2
        told = []
        for known in (data, nobodys[: len(data)]):
            called, size = digest(known), len(known)
            answers = []
            for claimed in (size, size + 1):
                one = artifact_pb2.ArtifactPart(digest=called, size=claimed)
                offer = await stranger.CreateUploads(
                    tracker_pb2.CreateUploadsRequest(parent="teams/other", parts=[one], uploaded=[called])
                )
                answers.append([(each.digest == called, "/t/other/" in each.url) for each in offer.uploads])
            made_of = commit("mine", entry("a", known))
            made_of.parent = "teams/other"
            ask = tracker_pb2.CreateDownloadsRequest(parent="teams/other", digests=[called])
            for refusal in (stranger.CommitVersion(made_of), stranger.CreateDownloads(ask)):
                with pytest.raises(aio.AioRpcError) as error:
                    await refusal
                answers.append(str(error.value.details()).replace(called, "DIGEST"))
            told.append(answers)
        assert told[0] == told[1]
        assert told[0][:2] == [[(True, True)]] * 2
        stolen = commit("mine", entry("empty"), sources=[made.name])
        stolen.parent = "teams/other"
        assert await refused(stranger.CommitVersion(stolen)) == "NOT_FOUND"
        request = tracker_pb2.GetLatestCheckpointRequest(parent=other.name)
        assert await refused(own.GetLatestCheckpoint(request)) == "NOT_FOUND"


async def test_what_was_looked_at_ahead_is_looked_at_again_where_it_was_written_since(
    tracker: Tracker,
) -> None:
    async with Client(tracker) as client:
        right, wrong = new_uid().encode(), new_uid().encode()
        part = artifact_pb2.ArtifactPart(digest=digest(right), size=len(right))
        asked = tracker_pb2.CreateUploadsRequest(parent=TEAM, parts=[part])
        (upload_to,) = (await client.artifacts.CreateUploads(asked)).uploads
        wanted = commit(f"ahead-{new_uid()}", entry("a", right))

        async def put(data: bytes) -> None:
            async with httpx.AsyncClient(trust_env=False) as http:
                (await http.put(upload_to.url, content=data)).raise_for_status()
            other = artifact_pb2.ArtifactPart(digest=digest(new_uid().encode()), size=1)
            said = tracker_pb2.CreateUploadsRequest(parent=TEAM, parts=[other], uploaded=[part.digest])
            await client.artifacts.CreateUploads(said)

        for data, answer in ((wrong, "FAILED_PRECONDITION"), (right, "")):
            await put(data)
            if answer:
                assert await refused(client.artifacts.CommitVersion(wanted)) == answer
        # It is right now, and known to be; then somebody writes over it.
        assert list((await client.artifacts.CreateUploads(asked)).uploads) == []
        await put(wrong)
        assert await refused(client.artifacts.CommitVersion(wanted)) == "FAILED_PRECONDITION"
        await put(right)
        assert (await client.artifacts.CommitVersion(wanted)).version == 1
        asked.uploaded.append("no digest")
        assert await refused(client.artifacts.CreateUploads(asked)) == "INVALID_ARGUMENT"
