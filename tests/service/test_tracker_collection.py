"""What nobody keeps leaves the store, and nothing else: whatever happens at the same time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import grpc
import httpx
import pytest
from grpc import aio

from cairn.scheduler.v1 import job_pb2
from cairn.tracker.v1 import artifact_pb2, keeping_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness import servers
from tests.harness.parts import TEAM, commit, digest, entry, refused, upload
from tests.harness.tracker import ADMIN, MEMBER, Client, Tracker, start_tracker, until


async def collect(client: Client, *, dry: bool = False) -> keeping_pb2.CollectGarbageResponse:
    request = keeping_pb2.CollectGarbageRequest(parent=TEAM, validate_only=dry)
    return await client.keeping(ADMIN).CollectGarbage(request)


async def days_pass(client: Client) -> None:
    await client.postgres.execute("UPDATE tracker.idle_blobs SET since = since - interval '2 days'")


async def delete(client: Client, version: artifact_pb2.ArtifactVersion) -> None:
    await client.keeping().DeleteVersion(keeping_pb2.DeleteVersionRequest(name=version.name))


def there(s3: servers.S3, data: bytes) -> bool:
    found = digest(data)
    return (s3.folder / s3.bucket / f"t/main/blobs/{found[:2]}/{found}").exists()


async def downloadable(client: Client, data: bytes) -> str:
    request = tracker_pb2.CreateDownloadsRequest(parent=TEAM, digests=[digest(data)])
    return await refused(client.artifacts.CreateDownloads(request))  # type: ignore[arg-type]


async def test_the_parts_that_only_a_deleted_version_had_go_after_their_grace(
    tracker: Tracker, s3: servers.S3
) -> None:
    own, shared = f"own {new_uid()}".encode(), f"shared {new_uid()}".encode()
    name = f"garbage-{new_uid()}"
    async with Client(tracker) as client:
        await upload(client, own, shared)
        first = await client.artifacts.CommitVersion(commit(name, entry("a", own), entry("b", shared)))
        second = await client.artifacts.CommitVersion(commit(name, entry("a", shared)))
        await delete(client, first)
        assert (await collect(client)).blobs == 0, "their grace is not over"
        assert there(s3, own)
        await days_pass(client)
        looked = await collect(client, dry=True)
        assert (looked.blobs, looked.size, looked.given_up_blobs) == (1, len(own), 0)
        assert there(s3, own)
        done = await collect(client)
        assert (done.blobs, done.size, done.due_blobs) == (1, len(own), 0)
        assert [there(s3, data) for data in (own, shared)] == [False, True]
        assert [await downloadable(client, data) for data in (own, shared)] == ["NOT_FOUND", "OK"]
        # What is gone is sent again, like anything that the store lacks.
        again = commit(name, entry("a", own))
        assert await refused(client.artifacts.CommitVersion(again)) == "FAILED_PRECONDITION"
        assert await upload(client, own, shared) == 1
        assert await refused(client.artifacts.CommitVersion(again)) == "OK"
        await delete(client, second)
        await days_pass(client)
        assert (await collect(client)).blobs == 1
        assert [there(s3, data) for data in (own, shared)] == [True, False]


async def test_an_upload_that_was_given_up_goes_and_one_that_is_asked_for_again_stays(
    tracker: Tracker, s3: servers.S3
) -> None:
    lost, wanted = f"lost {new_uid()}".encode(), f"wanted {new_uid()}".encode()
    async with Client(tracker) as client:
        await upload(client, lost, wanted)
        await days_pass(client)
        assert await upload(client, wanted) == 0
        looked = await collect(client, dry=True)
        assert (looked.given_up_blobs, looked.given_up_size) == (1, len(lost))
        assert looked.waiting_blobs >= 1
        await collect(client)
        assert [there(s3, data) for data in (lost, wanted)] == [False, True]


async def test_what_jobs_run_and_mount_stays(tracker: Tracker, s3: servers.S3) -> None:
    code, mount, both = (f"{what} {new_uid()}".encode() for what in ("code", "mount", "both"))
    async with Client(tracker) as client:
        await upload(client, code, mount, both)
        job = job_pb2.Job(uid=new_uid(), revision=1, state=job_pb2.Job.RUNNING)
        job.name = f"{TEAM}/jobs/{job.uid}"
        job.code.digest = digest(code)
        for data in (mount, both):
            job.spec.mounts.add(target="data", digest=digest(data), size=len(data))
        await client.tell(job)
        # A version of the very bytes that a job mounts may go; the bytes may not.
        version = await client.artifacts.CommitVersion(commit(f"mounted-{new_uid()}", entry("a", both)))
        await delete(client, version)
        count = "SELECT count(*) FROM tracker.holdings WHERE holder = $1"
        await until(lambda: holds(client, count, job.uid))
        await days_pass(client)
        await collect(client)
        assert [there(s3, data) for data in (code, mount, both)] == [True] * 3


async def holds(client: Client, count: str, holder: str) -> bool:
    return bool(await client.postgres.fetchval(count, holder) == 3)


async def test_what_is_being_deleted_is_missing_and_is_deleted_by_one_alone(
    tracker: Tracker, s3: servers.S3
) -> None:
    data = f"doomed {new_uid()}".encode()
    wanted = commit(f"doomed-{new_uid()}", entry("a", data))
    async with Client(tracker) as client:
        await upload(client, data)
        doom = (
            "UPDATE tracker.idle_blobs SET doomed = true, claim = 'other', claim_time = $2 WHERE digest = $1"
        )
        await client.postgres.execute(doom, digest(data), datetime.now(UTC))
        assert await downloadable(client, data) == "NOT_FOUND"
        assert await refused(client.artifacts.CommitVersion(wanted)) == "FAILED_PRECONDITION"
        part = artifact_pb2.ArtifactPart(digest=digest(data), size=len(data))
        asked = tracker_pb2.CreateUploadsRequest(parent=TEAM, parts=[part])
        assert await refused(client.artifacts.CreateUploads(asked)) == "UNAVAILABLE", "it would go with them"
        assert (await collect(client)).due_blobs >= 1
        assert there(s3, data), "another one has claimed it"
        await client.postgres.execute(doom, digest(data), datetime.now(UTC) - timedelta(hours=1))
        await collect(client)
        assert not there(s3, data)
        await upload(client, data)
        assert await refused(client.artifacts.CommitVersion(wanted)) == "OK"


async def test_only_admins_collect(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        request = keeping_pb2.CollectGarbageRequest(parent=TEAM, validate_only=True)
        assert await refused(client.keeping(MEMBER).CollectGarbage(request)) == "PERMISSION_DENIED"


@pytest.fixture
def hasty(
    tmp_path_factory: pytest.TempPathFactory, database_url: Callable[[str], str], s3: servers.S3
) -> Iterator[Tracker]:
    """A tracker that gives nothing much time, and collects all the time."""
    folder = tmp_path_factory.mktemp("hasty")
    bus = servers.start_nats(folder / "nats")
    server = start_tracker(
        folder / "tracker", nats_url=bus.url, postgres_url=database_url("tracker"), s3=s3,
        CAIRN_COLLECTION_GRACE="0.01", CAIRN_COLLECTION_INTERVAL="0.2",
    )  # fmt: skip
    yield server
    server.stop()
    bus.stop()


async def test_every_version_that_can_be_seen_is_whole_whatever_is_collected_meanwhile(
    hasty: Tracker,
) -> None:
    name, chance = f"race-{new_uid()}", random.Random(7)
    pool = [f"part {number} {name}".encode() for number in range(10)]
    async with Client(hasty) as client:
        refusals = 0
        done = asyncio.Event()

        async def write() -> None:
            nonlocal refusals
            for _ in range(6):
                parts = chance.sample(pool, 3)
                wanted = commit(name, entry("a", *parts), entry("b", parts[0]), request_id=new_uid())
                for _ in range(50):
                    try:
                        await upload(client, *parts)
                    except httpx.HTTPStatusError as error:
                        # The store was deleting this very object; clients try again.
                        if error.response.status_code != 500:
                            raise
                    except aio.AioRpcError as error:
                        # No URL is given to what is just being deleted.
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        refusals += 1
                        continue
                    if (answer := await refused(client.artifacts.CommitVersion(wanted))) == "OK":
                        break
                    assert answer in ("FAILED_PRECONDITION", "UNAVAILABLE")
                    refusals += 1
                else:
                    raise AssertionError("never committed")

        async def drop() -> None:
            while not done.is_set():
                for version in await versions():
                    if chance.random() < 0.5:
                        request = keeping_pb2.DeleteVersionRequest(name=version.name)
                        assert await refused(client.keeping().DeleteVersion(request)) in ("OK", "NOT_FOUND")

        async def sweep() -> None:
            while not done.is_set():
                await collect(client)

        async def epoch() -> int:
            found = await client.postgres.fetchval("SELECT max(epoch) FROM tracker.collections")
            return int(found or 0)

        async def versions() -> list[artifact_pb2.ArtifactVersion]:
            request = tracker_pb2.ListVersionsRequest(parent=f"{TEAM}/artifacts/{name}", page_size=100)
            return list((await client.artifacts.ListVersions(request)).versions)

        await write()
        others = [asyncio.create_task(work()) for work in (drop, sweep, sweep)]
        # Until some commits met a collection, or this would show nothing.
        for _ in range(15):
            await asyncio.gather(write(), write())
            if refusals >= 3 and await epoch() >= 3:
                break
        else:
            raise AssertionError(f"{refusals} refusals in {await epoch()} collections")
        done.set()
        await asyncio.gather(*others)
        done.clear()
        sweeping = asyncio.create_task(sweep())
        await write()
        done.set()
        await sweeping
        left = await versions()
        assert len(left) >= 6
        for version in left:
            whole = await client.artifacts.GetVersion(tracker_pb2.GetVersionRequest(name=version.name))
            digests = {part.digest for each in whole.entries for part in each.parts}
            request = tracker_pb2.CreateDownloadsRequest(parent=TEAM, digests=sorted(digests))
            found = {
                item.digest: item.url for item in (await client.artifacts.CreateDownloads(request)).downloads
            }
            async with httpx.AsyncClient(trust_env=False) as http:
                for part in digests:
                    assert digest((await http.get(found[part])).content) == part
