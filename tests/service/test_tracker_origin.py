"""What a run was made from: told with it, kept for it, and the same inputs again."""

from __future__ import annotations

from cairn.scheduler.v1 import job_pb2
from cairn.tracker.v1 import artifact_pb2, keeping_pb2, run_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, commit, entry, refused, upload
from tests.harness.tracker import RUN, STRANGER, Client, Tracker, run_name, until

Origin = run_pb2.Origin


async def made(client: Client, name: str, **fields: object) -> artifact_pb2.ArtifactVersion:
    data = new_uid().encode()
    await upload(client, data)
    return await client.artifacts.CommitVersion(commit(name, entry("a", data), **fields))


def job(**origin: object) -> job_pb2.Job:
    uid = new_uid()
    told = job_pb2.Job(name=f"{TEAM}/jobs/{uid}", uid=uid, revision=1, state=job_pb2.Job.PENDING)
    if origin:
        told.origin.CopyFrom(job_pb2.Origin(**origin))  # type: ignore[arg-type]
    return told


async def heard(client: Client, told: job_pb2.Job) -> run_pb2.Run:
    await client.tell(told)
    request = tracker_pb2.GetRunRequest(name=run_name(told.uid))

    async def there() -> bool:
        return await refused(client.runs.GetRun(request)) == "OK"

    await until(there)
    return await client.runs.GetRun(request)


async def test_a_resumed_run_names_parent_and_step_and_holds_its_checkpoint(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        parent = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM))
        kind = artifact_pb2.ARTIFACT_KIND_CHECKPOINT
        saved = await made(client, f"checkpoint-{parent.uid}", run=parent.name, kind=kind, step=40)
        await made(client, f"checkpoint-{parent.uid}", run=parent.name, kind=kind, step=50)
        told = job(kind=job_pb2.Origin.RESUME, job=f"{TEAM}/jobs/{parent.uid}", checkpoint=saved.name)
        run = await heard(client, told)
        assert run.origin == Origin(kind=Origin.RESUME, run=parent.name, checkpoint=saved.name, step=40)
        call = client.keeping().DeleteVersion(keeping_pb2.DeleteVersionRequest(name=saved.name))
        assert await refused(call) == "FAILED_PRECONDITION"
        assert f"run {run.uid} that is not over" in str(await call.details())
        # Nobody's checkpoint, and one of another team, are remembered and are nothing to hold.
        gone = f"{TEAM}/artifacts/never-{new_uid()}/versions/7"
        other = await heard(client, job(kind=2, job=f"{TEAM}/jobs/{parent.uid}", checkpoint=gone))
        assert (other.origin.checkpoint, other.origin.HasField("step")) == (gone, False)
        assert not (await heard(client, job())).HasField("origin")


async def test_a_rerun_reads_what_its_origin_read_whatever_the_aliases_name(tracker: Tracker) -> None:
    name = f"digits-{new_uid()}"
    async with Client(tracker) as client:
        first, parent = await made(client, name), new_uid()
        latest = f"{TEAM}/artifacts/{name}/versions/latest"
        _, own = client.calling(RUN + parent)
        await own.GetVersion(tracker_pb2.GetVersionRequest(name=latest, used_by=run_name(parent)))
        second = await made(client, name)
        rerun = new_uid()
        _, again = client.calling(RUN + rerun)
        as_before = tracker_pb2.GetVersionRequest(
            name=latest, used_by=run_name(rerun), as_read_by=run_name(parent)
        )
        assert (await again.GetVersion(as_before)).name == first.name
        as_before.name = second.name
        assert (await again.GetVersion(as_before)).name == second.name, "a number is a number"
        as_before.name = f"{TEAM}/artifacts/{name}/versions/latest"
        as_before.as_read_by = run_name(new_uid())
        assert (await again.GetVersion(as_before)).name == second.name, "it had read none"
        _, stranger = client.calling(STRANGER)
        assert await refused(stranger.GetVersion(as_before)) == "NOT_FOUND"
        await client.postgres.execute("DELETE FROM tracker.uses WHERE run_uid = $1", rerun)
        keeping = client.keeping()
        assert await refused(keeping.DeleteVersion(keeping_pb2.DeleteVersionRequest(name=first.name))) == "OK"
        as_before.as_read_by = run_name(parent)
        assert await refused(again.GetVersion(as_before)) == "NOT_FOUND", "never another one in silence"
