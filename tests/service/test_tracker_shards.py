"""A checkpoint that several ranks write is there when all of them have written it, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from cairn.tracker.v1 import artifact_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, commit, entry, refused, upload
from tests.harness.tracker import RUN, Client, Tracker, run_name

KIND = artifact_pb2.ARTIFACT_KIND_CHECKPOINT


@dataclass
class Training:
    """A run whose ranks save."""

    client: Client
    uid: str

    def __post_init__(self) -> None:
        _, self.artifacts = self.client.calling(RUN + self.uid)

    async def save(
        self, rank: int, *files: str, ranks: int = 3, attempt: int = 1, text: str = "", round: int = 0
    ) -> tracker_pb2.CommitVersionRequest:
        """What a rank sends of the checkpoint at step 1, its bytes being in the store."""
        parts = {path: f"{path} {text}".encode() for path in files}
        if parts:
            await upload(self.client, *parts.values())
        return commit(
            f"checkpoint-{self.uid}", *(entry(path, data) for path, data in parts.items()), kind=KIND, step=1,
            run=run_name(self.uid), metadata={"metrics": {"rank": rank}},
            shard=tracker_pb2.Shard(rank=rank, ranks=ranks, attempt=attempt, round=round),
        )  # fmt: skip

    async def send(
        self, rank: int, *files: str, ranks: int = 3, attempt: int = 1, text: str = "", round: int = 0
    ) -> artifact_pb2.ArtifactVersion:
        request = await self.save(rank, *files, ranks=ranks, attempt=attempt, text=text, round=round)
        return await self.artifacts.CommitVersion(request)

    async def latest(self) -> artifact_pb2.ArtifactVersion | None:
        request = tracker_pb2.GetLatestCheckpointRequest(parent=run_name(self.uid))
        call = self.artifacts.GetLatestCheckpoint(request)
        return await call if await refused(call) == "OK" else None


@pytest.fixture
async def training(tracker: Tracker) -> AsyncIterator[Training]:
    async with Client(tracker) as client:
        run = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM))
        yield Training(client, run.uid)


async def test_it_is_whole_when_the_last_rank_has_saved_and_nothing_of_it_before(training: Training) -> None:
    first = await training.send(2, "__2_0.distcp")
    assert (first.name, first.version, first.step) == ("", 0, 1)
    await training.send(1)
    assert await training.latest() is None
    last = await training.send(0, "__0_0.distcp", ".metadata")
    assert [each.path for each in last.entries] == [".metadata", "__0_0.distcp", "__2_0.distcp"]
    assert dict(last.metadata["metrics"]) == {"rank": 0}
    assert (last.metadata["ranks"], last.metadata["folder"]) == (3, True)
    found = await training.latest()
    assert found is not None
    assert (found.name, found.step) == (last.name, 1)
    again = await training.send(1)
    assert again.name == last.name, "whoever asks again is told the same"
    count = "SELECT count(*) FROM tracker.shards WHERE run_uid = $1"
    assert await training.client.postgres.fetchval(count, training.uid) == 0


async def test_all_ranks_at_once_make_one_version(training: Training) -> None:
    requests = [await training.save(rank, f"state-{rank}", ranks=12) for rank in range(12)]
    made = await asyncio.gather(*(training.artifacts.CommitVersion(request) for request in requests))
    assert {each.name for each in made} - {""} == {f"{TEAM}/artifacts/checkpoint-{training.uid}/versions/1"}
    found = await training.latest()
    assert found is not None
    assert (found.version, len(found.entries)) == (1, 12)


async def test_what_a_killed_attempt_left_makes_no_checkpoint_with_the_next_ones(training: Training) -> None:
    for rank in (0, 1):
        await training.send(rank, f"state-{rank}", text="old")
    # The attempt is killed; the next one saves the same step again.
    first = await training.send(2, "state-2", attempt=2, text="new")
    assert (first.name, await training.latest()) == ("", None)
    await training.send(0, "state-0", attempt=2, text="new")
    last = await training.send(1, "state-1", attempt=2, text="new")
    fresh = {entry("x", f"state-{rank} new".encode()).digest for rank in range(3)}
    assert {each.digest for each in last.entries} == fresh


async def test_ranks_that_contradict_each_other_and_shards_of_nothing_are_refused(training: Training) -> None:
    for rank in (0, 1):
        await training.send(rank, "same", "all", text="x")
    call = training.artifacts.CommitVersion(await training.save(2, "all", text="other"))
    assert await refused(call) == "INVALID_ARGUMENT"
    assert "ranks 0 and 2 have different files 'all'" in str(await call.details())
    assert await training.latest() is None
    for rank, ranks in ((3, 3), (-1, 3), (0, 0), (0, 5000)):
        wrong = await training.save(rank, "a", ranks=ranks)
        assert await refused(training.artifacts.CommitVersion(wrong)) == "INVALID_ARGUMENT"
    missing = await training.save(2)
    missing.entries.append(entry("lost", new_uid().encode()))
    assert await refused(training.artifacts.CommitVersion(missing)) == "FAILED_PRECONDITION"
    model = await training.save(2, "a")
    model.kind = artifact_pb2.ARTIFACT_KIND_MODEL
    assert await refused(training.artifacts.CommitVersion(model)) == "INVALID_ARGUMENT"


async def test_a_step_that_is_saved_again_is_a_version_of_its_own_and_never_a_mix(training: Training) -> None:
    for rank in (0, 1):
        await training.send(rank, f"state-{rank}", ranks=2, text="first")
    first = await training.latest()
    assert first is not None
    await training.send(0, "state-0", ranks=2, text="second", round=1)
    found = await training.latest()
    assert found is not None
    assert found.name == first.name, "one rank alone replaces nothing"
    second = await training.send(1, "state-1", ranks=2, text="second", round=1)
    assert (second.version, second.step) == (first.version + 1, first.step)
    assert second.digest != first.digest
    found = await training.latest()
    assert found is not None
    assert found.name == second.name
    again = await training.send(0, "state-0", ranks=2, text="first")
    assert again.name == first.name, "a call that is repeated is still the first"
