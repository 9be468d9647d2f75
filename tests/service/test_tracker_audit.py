"""What people change at the tracker is told, so that the audit has it; what is refused is not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from cairn.tracker.v1 import (
    artifact_pb2,
    events_pb2,
    keeping_pb2,
    keeping_pb2_grpc,
    mlflow_pb2,
    mlflow_pb2_grpc,
    promotion_pb2,
    promotion_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from cairn_common import subjects
from cairn_common.bus import connect
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, commit, entry, refused, upload
from tests.harness.tracker import ADMIN, MEMBER, Client, Tracker


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
        update = registry_pb2.UpdateRegisteredModelRequest(parent=TEAM, model=model, description="better")
        await registry.UpdateRegisteredModel(update)
        await registry.DeleteRegisteredModel(
            registry_pb2.DeleteRegisteredModelRequest(parent=TEAM, model=model)
        )
        experiments = client.stub(mlflow_pb2_grpc.MlflowServiceStub, MEMBER)
        made = await experiments.CreateMlflowExperiment(
            mlflow_pb2.CreateMlflowExperimentRequest(parent=TEAM, name=name)
        )
        experiment = f"{TEAM}/experiments/{made.experiment_id}"
    expected = {
        ("pin.made", version.name),
        ("pin.removed", version.name),
        ("keeping.updated", f"{TEAM}/keeping"),
        ("rules.updated", f"{TEAM}/promotionRules"),
        *((f"model.{event}", f"{TEAM}/models/{model}") for event in ("created", "updated", "deleted")),
        ("experiment.created", experiment),
    }
    found: list[tuple[str, str]] = []
    wanted = [
        f"cairn.v1.tracker.{each}.*.main.*" for each in ("pin", "keeping", "rules", "model", "experiment")
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
                found.append(what)
            if set(found) == expected:
                break
    assert sum(what[0] == "model.created" for what in found) == 1, "what was refused is not told"
