"""What people change at the tracker is told, so that the audit has it; what is refused is not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from cairn.tracker.v1 import (
    artifact_pb2,
    events_pb2,
    keeping_pb2,
    keeping_pb2_grpc,
    logged_model_pb2,
    logged_model_pb2_grpc,
    mlflow_file_pb2,
    mlflow_file_pb2_grpc,
    mlflow_pb2,
    mlflow_pb2_grpc,
    promotion_pb2,
    promotion_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
    trace_pb2,
    trace_pb2_grpc,
)
from cairn_common import subjects
from cairn_common.bus import connect
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, commit, entry, refused, upload
from tests.harness.tracker import ADMIN, MEMBER, Client, Tracker


async def change_logged_model_and_traces(client: Client, experiment: str) -> str:
    """And a file of MLflow's; the logged model's name."""
    models = client.stub(logged_model_pb2_grpc.LoggedModelServiceStub, MEMBER)
    order = logged_model_pb2.CreateLoggedModelRequest(parent=TEAM)
    order.logged_model.experiment_id = experiment
    model = await models.CreateLoggedModel(order)
    changed = logged_model_pb2.UpdateLoggedModelRequest(parent=TEAM, model_id=model.model_id)
    changed.set_tags["a"] = "b"
    await models.UpdateLoggedModel(changed)
    await models.DeleteLoggedModel(
        logged_model_pb2.DeleteLoggedModelRequest(parent=TEAM, model_id=model.model_id)
    )
    traces = client.stub(trace_pb2_grpc.TraceServiceStub, MEMBER)
    begun = trace_pb2.StartTraceRequest(parent=TEAM)
    begun.trace.trace_id, begun.trace.experiment_id = f"tr-{experiment}", experiment
    begun.trace.state = trace_pb2.Trace.OK
    begun.trace.request_time.GetCurrentTime()
    await traces.StartTrace(begun)
    tagged = trace_pb2.UpdateTraceRequest(parent=TEAM, trace_id=begun.trace.trace_id)
    tagged.set_tags["a"] = "b"
    await traces.UpdateTrace(tagged)
    await traces.DeleteTraces(
        trace_pb2.DeleteTracesRequest(parent=TEAM, experiment_id=experiment, trace_ids=[begun.trace.trace_id])
    )
    data = experiment.encode()
    await upload(client, data)
    files = client.stub(mlflow_file_pb2_grpc.MlflowFileServiceStub, MEMBER)
    path = f"noted/{experiment}"
    await files.PutMlflowFile(mlflow_file_pb2.PutMlflowFileRequest(parent=TEAM, entry=entry(path, data)))
    await files.DeleteMlflowFiles(mlflow_file_pb2.DeleteMlflowFilesRequest(parent=TEAM, path=path))
    return f"{TEAM}/loggedModels/{model.model_id}"


async def test_pins_rules_models_and_experiments_are_told_with_who_changed_them(tracker: Tracker) -> None:
    name, data = f"noted-{new_uid()}", new_uid().encode()
    async with Client(tracker) as client:
        await upload(client, data)
        version = await client.artifacts.CommitVersion(
            commit(name, entry("a", data), kind=artifact_pb2.ARTIFACT_KIND_FILE)
        )
        for pinned in (True, False):
            await client.keeping().PinVersion(keeping_pb2.PinVersionRequest(name=version.name, pinned=pinned))
        keeping = keeping_pb2.SetKeepingRequest(parent=TEAM, keeping=keeping_pb2.Keeping())
        keeping.update_mask.paths.append("protected_aliases")
        assert await refused(client.keeping().SetKeeping(keeping)) == "PERMISSION_DENIED"
        await client.stub(keeping_pb2_grpc.KeepingServiceStub, ADMIN).SetKeeping(keeping)
        rules = promotion_pb2.SetPromotionRulesRequest(parent=TEAM, rules=promotion_pb2.PromotionRules())
        await client.stub(promotion_pb2_grpc.PromotionServiceStub, ADMIN).SetPromotionRules(rules)
        registry = client.stub(registry_pb2_grpc.RegistryServiceStub, MEMBER)
        model = f"model {name}"
        await registry.CreateRegisteredModel(
            registry_pb2.CreateRegisteredModelRequest(parent=TEAM, model=model)
        )
        again = registry.CreateRegisteredModel(
            registry_pb2.CreateRegisteredModelRequest(parent=TEAM, model=model)
        )
        assert await refused(again) == "ALREADY_EXISTS"
        registered = registry_pb2.CreateModelVersionRequest(
            parent=TEAM, model=model, source="runs:/r1/model", run_id="r1"
        )
        await registry.CreateModelVersion(registered)
        update = registry_pb2.UpdateRegisteredModelRequest(parent=TEAM, model=model, description="better")
        await registry.UpdateRegisteredModel(update)
        await registry.DeleteRegisteredModel(
            registry_pb2.DeleteRegisteredModelRequest(parent=TEAM, model=model)
        )
        experiments = client.stub(mlflow_pb2_grpc.MlflowServiceStub, MEMBER)
        made = await experiments.CreateMlflowExperiment(
            mlflow_pb2.CreateMlflowExperimentRequest(parent=TEAM, name=name)
        )
        await client.keeping().VerifyVersion(keeping_pb2.VerifyVersionRequest(name=version.name))
        logged = await change_logged_model_and_traces(client, made.experiment_id)
        experiment = f"{TEAM}/experiments/{made.experiment_id}"
    expected = {
        ("pin.made", version.name),
        ("pin.removed", version.name),
        ("keeping.updated", f"{TEAM}/keeping"),
        ("rules.updated", f"{TEAM}/promotionRules"),
        *((f"model.{event}", f"{TEAM}/models/{model}") for event in ("created", "updated", "deleted")),
        ("experiment.created", experiment),
        ("version.verified", version.name),
        *((f"loggedmodel.{event}", logged) for event in ("created", "updated", "deleted")),
        ("trace.updated", f"{TEAM}/traces/tr-{made.experiment_id}"),
        ("trace.deleted", f"{TEAM}/traces/-"),
        ("file.deleted", f"{TEAM}/files/noted/{made.experiment_id}"),
    }
    found: list[tuple[str, str]] = []
    words: set[str] = set()
    wanted = [
        f"cairn.v1.tracker.{each}.*.main.*"
        for each in (
            *("pin", "keeping", "rules", "model", "experiment"),
            *("loggedmodel", "trace", "file", "version"),
        )
    ]
    async with (
        connect(tracker.nats_url, name="test") as bus,
        asyncio.timeout(30),
        aclosing(bus.tail(stream="TRACKER", subjects=wanted, start_sequence=1)) as messages,
    ):
        async for message in messages:
            event = events_pb2.TrackerEvent.FromString(message.data)
            told = getattr(event, str(event.WhichOneof("event")))
            about = subjects.parse(message.subject)
            if (what := (f"{about.resource}.{about.event}", told.name)) in expected:
                assert event.actor.startswith("users/")
                assert message.address == "127.0.0.1"
                found.append(what)
                words.add(getattr(told, "what", ""))
            if set(found) == expected:
                break
    assert {"version 1 registered", f"1 of experiment {made.experiment_id}", "1 files"} <= words
    assert sum(what[0] == "model.created" for what in found) == 1, "what was refused is not told"
