"""Rot in the store is found and told, and heals by an upload; and how much lies in the store is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cairn.tracker.v1 import artifact_pb2, events_pb2, keeping_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness import servers
from tests.harness.parts import TEAM, commit, digest, entry, refused, upload
from tests.harness.tracker import VIEWER, Client, Tracker, start_tracker, until


@pytest.fixture(scope="module")
def tracker(
    tmp_path_factory: pytest.TempPathFactory, database_url: Callable[[str], str], s3: servers.S3
) -> Iterator[Tracker]:
    """A tracker that reads everything again all the time."""
    folder = tmp_path_factory.mktemp("scrub")
    bus = servers.start_nats(folder / "nats")
    server = start_tracker(
        folder / "tracker", nats_url=bus.url, postgres_url=database_url("tracker"), s3=s3,
        CAIRN_COLLECTION_INTERVAL="0.2", CAIRN_SCRUB_PERIOD="1", CAIRN_SCRUB_RATE="10000000",
    )  # fmt: skip
    yield server
    server.stop()
    bus.stop()


def blob(s3: servers.S3, data: bytes) -> Path:
    found = digest(data)
    return s3.folder / s3.bucket / f"t/main/blobs/{found[:2]}/{found}"


async def made(client: Client, *files: bytes) -> artifact_pb2.ArtifactVersion:
    await upload(client, *files)
    entries = [entry(f"file-{place}", data) for place, data in enumerate(files)]
    return await client.artifacts.CommitVersion(commit(f"scrub-{new_uid()}", *entries))


async def verify(client: Client, name: str) -> dict[str, bool]:
    answer = await client.keeping().VerifyVersion(keeping_pb2.VerifyVersionRequest(name=name))
    assert not answer.next_page_token
    return {file.path: file.missing for file in answer.rotten}


async def rotten(client: Client, name: str) -> list[str]:
    return list((await client.artifacts.GetVersion(tracker_pb2.GetVersionRequest(name=name))).rotten)


async def test_rot_is_found_by_itself_told_once_and_heals_by_the_same_bytes(
    tracker: Tracker, s3: servers.S3
) -> None:
    good, bad, lost = (f"{what} {new_uid()}".encode() for what in ("good", "bad", "lost"))
    async with Client(tracker) as client:
        told = await client.stream.subscribe("cairn.v1.tracker.artifact.rotten.main.*")
        version = await made(client, good, bad, lost)
        assert await rotten(client, version.name) == []
        blob(s3, bad).write_bytes(bad[::-1])
        blob(s3, lost).unlink()
        await until(lambda: is_rotten(client, version.name))
        assert await verify(client, version.name) == {"file-1": False, "file-2": True}
        paths = set()
        for _ in range(2):
            fact = events_pb2.TrackerEvent.FromString((await told.next_msg(timeout=10)).data)
            assert fact.artifact_rotten.version.name == version.name
            paths |= set(fact.artifact_rotten.paths)
        assert paths == {"file-1", "file-2"}
        downloads = tracker_pb2.CreateDownloadsRequest(parent=TEAM, digests=[digest(bad)])
        assert await refused(client.artifacts.CreateDownloads(downloads)) == "NOT_FOUND"
        # Whoever has the bytes makes all versions whole that have them.
        assert await upload(client, good, bad, lost) == 2
        assert await verify(client, version.name) == {}
        assert await rotten(client, version.name) == []
        assert await refused(client.artifacts.CreateDownloads(downloads)) == "OK"
        assert told.pending_msgs == 0


async def is_rotten(client: Client, name: str) -> bool:
    return await rotten(client, name) == ["file-1", "file-2"]


async def test_a_commit_does_not_take_rotten_bytes(tracker: Tracker, s3: servers.S3) -> None:
    data = f"rotten {new_uid()}".encode()
    async with Client(tracker) as client:
        version = await made(client, data)
        blob(s3, data).write_bytes(b"other")
        assert await verify(client, version.name) == {"file-0": False}
        again = commit(f"scrub-{new_uid()}", entry("a", data))
        assert await refused(client.artifacts.CommitVersion(again)) == "FAILED_PRECONDITION"
        assert await upload(client, data) == 1
        assert await refused(client.artifacts.CommitVersion(again)) == "OK"
        assert await rotten(client, version.name) == []
        request = keeping_pb2.VerifyVersionRequest(name=version.name)
        assert await refused(client.keeping(VIEWER).VerifyVersion(request)) == "PERMISSION_DENIED"


async def test_usage_counts_what_versions_have_and_what_lies_in_the_store(tracker: Tracker) -> None:
    shared, own = new_uid().encode() * 10, new_uid().encode()
    experiment = f"e-{new_uid()}"
    async with Client(tracker) as client:
        request = tracker_pb2.CreateRunRequest(parent=TEAM, run={"experiment": experiment})
        run = await client.runs.CreateRun(request)
        await upload(client, shared, own)
        for files in ([shared], [shared, own]):
            entries = [entry(f"file-{place}", data) for place, data in enumerate(files)]
            await client.artifacts.CommitVersion(commit(f"used-{new_uid()}", *entries, run=run.name))

        async def usage(by: str) -> keeping_pb2.StorageUsage:
            asked = keeping_pb2.GetStorageUsageRequest(parent=TEAM, group_by=by)
            return await client.keeping(VIEWER).GetStorageUsage(asked)

        (row,) = [row for row in (await usage("experiment")).rows if row.key == experiment]
        whole = len(shared) + len(own)
        assert (row.versions, row.logical_size, row.stored_size) == (2, len(shared) + whole, whole)
        by_user = await usage("user")
        assert [row.key for row in by_user.rows] == ["users/ada"]
        assert by_user.rows[0] == keeping_pb2.StorageUsage.Row(
            key="users/ada",
            versions=by_user.total.versions,
            logical_size=by_user.total.logical_size,
            stored_size=by_user.total.stored_size,
        )
        assert [row.key for row in (await usage("")).rows] == ["ARTIFACT_KIND_FILE"]
        wrong = keeping_pb2.GetStorageUsageRequest(parent=TEAM, group_by="moon")
        assert await refused(client.keeping().GetStorageUsage(wrong)) == "INVALID_ARGUMENT"
