"""From any version or run to what it comes from and what came of it, over any number of steps."""

from __future__ import annotations

import asyncio

from cairn.scheduler.v1 import job_pb2
from cairn.tracker.v1 import (
    artifact_pb2,
    evaluation_pb2,
    evaluation_pb2_grpc,
    keeping_pb2,
    lineage_pb2,
    lineage_pb2_grpc,
    tracker_pb2,
)
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, commit, entry, refused, upload
from tests.harness.tracker import STRANGER, Client, Tracker, run_name, until

Edge = lineage_pb2.LineageEdge
Request = lineage_pb2.TraceLineageRequest


async def made(client: Client, name: str, **fields: object) -> artifact_pb2.ArtifactVersion:
    data = new_uid().encode()
    await upload(client, data)
    return await client.artifacts.CommitVersion(commit(name, entry("a", data), **fields))


async def traced(client: Client, name: str, **fields: object) -> lineage_pb2.LineageGraph:
    stub = lineage_pb2_grpc.LineageServiceStub(client.channel())
    return await stub.TraceLineage(Request(name=name, **fields))  # type: ignore[arg-type]


def told(graph: lineage_pb2.LineageGraph) -> set[tuple[str, str, int]]:
    names = [node.name for node in graph.nodes]
    return {(names[edge.source], names[edge.target], edge.relation) for edge in graph.edges}


async def test_a_model_leads_to_its_data_its_runs_and_what_came_of_it(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        run, other = [
            await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM)) for _ in range(2)
        ]
        data = await made(client, f"data-{new_uid()}")
        await client.artifacts.GetVersion(tracker_pb2.GetVersionRequest(name=data.name, used_by=run.name))
        saved = await made(
            client, f"checkpoint-{run.uid}", run=run.name, kind=artifact_pb2.ARTIFACT_KIND_CHECKPOINT, step=7
        )
        model = await made(client, f"net-{new_uid()}", run=run.name, sources=[saved.name], aliases=["best"])
        await client.artifacts.GetVersion(tracker_pb2.GetVersionRequest(name=model.name, used_by=other.name))
        aside = await made(client, f"aside-{new_uid()}", run=run.name)
        up = {
            (data.name, run.name, Edge.READ), (run.name, saved.name, Edge.MADE),
            (run.name, model.name, Edge.MADE), (saved.name, model.name, Edge.SOURCE),
        }  # fmt: skip
        down = {(model.name, other.name, Edge.READ)}
        assert told(await traced(client, model.name, direction=Request.UP)) == up
        assert told(await traced(client, model.name, direction=Request.DOWN)) == down
        both = await traced(client, model.name.replace("/versions/1", "/versions/best"))
        assert told(both) == up | down
        assert aside.name not in {node.name for node in both.nodes}, "a sibling is neither above nor below"
        nodes = {node.name: node for node in both.nodes}
        assert both.nodes[0].name == model.name
        distance = {name: node.distance for name, node in nodes.items()}
        assert distance == {model.name: 0, run.name: -1, saved.name: -1, data.name: -2, other.name: 1}
        assert (nodes[saved.name].step, list(nodes[model.name].aliases)) == (7, ["best", "latest"])
        assert aside.name in {node.name for node in (await traced(client, run.name)).nodes}
        few = await traced(client, model.name, direction=Request.UP, max_nodes=3)
        assert (len(few.nodes), few.truncated, both.truncated) == (3, True, False)


async def test_runs_made_of_runs_are_linked_and_what_was_deleted_keeps_its_name(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        parent = await client.runs.CreateRun(tracker_pb2.CreateRunRequest(parent=TEAM))
        saved = await made(client, f"checkpoint-{parent.uid}", run=parent.name, step=3)
        uid = new_uid()
        job = job_pb2.Job(name=f"{TEAM}/jobs/{uid}", uid=uid, revision=1, state=job_pb2.Job.SUCCEEDED)
        origin = job_pb2.Origin(
            kind=job_pb2.Origin.RESUME, job=f"{TEAM}/jobs/{parent.uid}", checkpoint=saved.name
        )
        job.origin.CopyFrom(origin)
        await client.tell(job)
        request = tracker_pb2.GetRunRequest(name=run_name(uid))

        async def there() -> bool:
            return await refused(client.runs.GetRun(request)) == "OK"

        await until(there)
        expected = {
            (parent.name, run_name(uid), Edge.ORIGIN),
            (saved.name, run_name(uid), Edge.READ),
            (parent.name, saved.name, Edge.MADE),
        }
        assert told(await traced(client, run_name(uid), direction=Request.UP)) == expected
        assert told(await traced(client, parent.name, direction=Request.DOWN)) == expected
        await client.postgres.execute("UPDATE tracker.runs SET state = 4 WHERE uid = $1", parent.uid)
        call = client.keeping().DeleteVersion(keeping_pb2.DeleteVersionRequest(name=saved.name))
        assert await refused(call) == "OK"
        nodes = {node.name: node for node in (await traced(client, run_name(uid))).nodes}
        assert nodes[saved.name].deleted


async def test_another_teams_lineage_is_not_there(tracker: Tracker) -> None:
    async with Client(tracker) as client:
        version = await made(client, f"data-{new_uid()}")
        stranger = lineage_pb2_grpc.LineageServiceStub(client.channel(STRANGER))
        assert await refused(stranger.TraceLineage(Request(name=version.name))) == "NOT_FOUND"
        own = lineage_pb2_grpc.LineageServiceStub(client.channel())
        assert await refused(own.TraceLineage(Request(name=run_name(new_uid())))) == "NOT_FOUND"
        assert await refused(own.TraceLineage(Request(name=version.name, max_nodes=-1))) == "INVALID_ARGUMENT"


async def test_a_board_has_the_newest_evaluation_of_each_version_by_lineage(tracker: Tracker) -> None:
    names = data, net = [f"{kind}-{new_uid()}" for kind in ("digits", "net")]
    async with Client(tracker) as client:
        digits = await made(client, data)
        models = [await made(client, net, kind=artifact_pb2.ARTIFACT_KIND_MODEL) for _ in range(2)]
        for model, acc in ((models[0], 0.5), (models[0], 0.9), (models[1], 0.8)):
            await made(
                client, f"{net}-on"[:60], kind=artifact_pb2.ARTIFACT_KIND_EVALUATION,
                sources=[model.name, digits.name], metadata={"metrics": {"acc": acc, "note": "x"}},
            )  # fmt: skip
        stub = evaluation_pb2_grpc.EvaluationServiceStub(client.channel())
        whole, one = await asyncio.gather(
            stub.GetLeaderboard(evaluation_pb2.GetLeaderboardRequest(dataset=f"{TEAM}/artifacts/{data}")),
            stub.GetLeaderboard(evaluation_pb2.GetLeaderboardRequest(dataset=digits.name, tolerance=0.2)),
        )
        assert [(row.model, dict(row.metrics)) for row in whole.rows] == [
            (models[0].name, {"acc": 0.9}), (models[1].name, {"acc": 0.8}),
        ]  # fmt: skip
        [worse] = whole.rows[1].regressions
        assert (worse.metric, worse.against, worse.was, worse.now) == ("acc", models[0].name, 0.9, 0.8)
        assert not one.rows[1].regressions
        missing = evaluation_pb2.GetLeaderboardRequest(dataset=f"{TEAM}/artifacts/never-{names[0][-9:]}")
        assert await refused(stub.GetLeaderboard(missing)) == "NOT_FOUND"
        for model in (models[0].name, f"{TEAM}/artifacts/{net}"):
            asked = evaluation_pb2.GetLeaderboardRequest(dataset=model)
            assert await refused(stub.GetLeaderboard(asked)) == "INVALID_ARGUMENT"
