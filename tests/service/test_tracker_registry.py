"""A registered model is an artifact of kind model: what is done to either shows in both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from cairn.tracker.v1 import (
    artifact_pb2,
    keeping_pb2,
    logged_model_pb2,
    logged_model_pb2_grpc,
    registered_model_pb2,
    registry_pb2,
    registry_pb2_grpc,
    tracker_pb2,
)
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, commit, entry, refused, upload
from tests.harness.tracker import ADMIN, STRANGER, VIEWER, Client, Tracker

MODEL = artifact_pb2.ARTIFACT_KIND_MODEL


class Registry:
    """The registry as one caller sees it."""

    def __init__(self, client: Client, token: str) -> None:
        self.stub = client.stub(registry_pb2_grpc.RegistryServiceStub, token)

    def create(self, model: str, **fields: Any) -> Any:
        return self.stub.CreateRegisteredModel(
            registry_pb2.CreateRegisteredModelRequest(parent=TEAM, model=model, **fields)
        )

    def get(self, model: str) -> Any:
        return self.stub.GetRegisteredModel(registry_pb2.GetRegisteredModelRequest(parent=TEAM, model=model))

    def update(self, model: str, **fields: Any) -> Any:
        return self.stub.UpdateRegisteredModel(
            registry_pb2.UpdateRegisteredModelRequest(parent=TEAM, model=model, **fields)
        )

    def delete(self, model: str) -> Any:
        return self.stub.DeleteRegisteredModel(
            registry_pb2.DeleteRegisteredModelRequest(parent=TEAM, model=model)
        )

    def add(self, model: str, source: str = "runs:/r1/model", **fields: Any) -> Any:
        given: dict[str, Any] = {"run_id": "r1"} if source.startswith("runs:/r1/") else {}
        request = registry_pb2.CreateModelVersionRequest(
            parent=TEAM, model=model, source=source, **(given | fields)
        )
        return self.stub.CreateModelVersion(request)

    def version(self, model: str, which: int | str) -> Any:
        named: Mapping[str, Any] = {"alias" if isinstance(which, str) else "version": which}
        return self.stub.GetModelVersion(
            registry_pb2.GetModelVersionRequest(parent=TEAM, model=model, **named)
        )

    def change(self, model: str, version: int, **fields: Any) -> Any:
        return self.stub.UpdateModelVersion(
            registry_pb2.UpdateModelVersionRequest(parent=TEAM, model=model, version=version, **fields)
        )

    def remove(self, model: str, version: int) -> Any:
        return self.stub.DeleteModelVersion(
            registry_pb2.DeleteModelVersionRequest(parent=TEAM, model=model, version=version)
        )

    def alias(self, model: str, alias: str, version: int) -> Any:
        return self.stub.SetModelAlias(
            registry_pb2.SetModelAliasRequest(parent=TEAM, model=model, alias=alias, version=version)
        )

    def unalias(self, model: str, alias: str) -> Any:
        return self.stub.RemoveModelAlias(
            registry_pb2.RemoveModelAliasRequest(parent=TEAM, model=model, alias=alias)
        )

    async def models(self, text: str = "", **fields: Any) -> list[str]:
        found = await self.stub.SearchRegisteredModels(
            registry_pb2.SearchRegisteredModelsRequest(parent=TEAM, filter=text, **fields)
        )
        return [one.display_name for one in found.models]

    async def versions(self, text: str = "", **fields: Any) -> list[tuple[str, int]]:
        found = await self.stub.SearchModelVersions(
            registry_pb2.SearchModelVersionsRequest(parent=TEAM, filter=text, **fields)
        )
        return [(one.model, one.version) for one in found.versions]


@pytest.fixture
async def client(tracker: Tracker) -> AsyncIterator[Client]:
    async with Client(tracker) as made:
        yield made


@pytest.fixture
def registry(client: Client) -> Registry:
    return Registry(client, "cairn_test_member_of_main_team")


def fresh(word: str = "net") -> str:
    return f"{word}-{new_uid()}"


async def committed(client: Client, name: str, **fields: Any) -> artifact_pb2.ArtifactVersion:
    data = new_uid().encode()
    await upload(client, data)
    return await client.artifacts.CommitVersion(commit(name, entry("model.pkl", data), kind=MODEL, **fields))


async def aliases_of(client: Client, artifact: str) -> dict[str, int]:
    listed = await client.artifacts.ListArtifacts(
        tracker_pb2.ListArtifactsRequest(parent=TEAM, page_size=1000)
    )
    (found,) = [one for one in listed.artifacts if one.name.endswith(f"/{artifact}")]
    return dict(found.aliases)


async def test_a_version_of_either_side_is_one_of_the_other(client: Client, registry: Registry) -> None:
    name = fresh()
    await registry.create(name, description="small", tags={"task": "digits"})
    assert await refused(registry.create(name)) == "ALREADY_EXISTS"
    first = await registry.add(name, tags={"by": "mlflow"}, description="one")
    assert (first.version, first.stage, first.source, first.run_id) == (1, "None", "runs:/r1/model", "r1")
    second = await committed(client, name, aliases=["best"])
    assert second.version == 2
    found = await registry.version(name, "best")
    assert (found.version, found.location) == (2, f"mlflow-artifacts:/models/{name}/2")
    listing = tracker_pb2.ListVersionsRequest(parent=f"{TEAM}/artifacts/{name}", kind=MODEL)
    assert [one.version for one in (await client.artifacts.ListVersions(listing)).versions] == [2, 1]
    model = await registry.get(name)
    assert (model.description, dict(model.tags), dict(model.aliases)) == (
        "small",
        {"task": "digits"},
        {"best": 2},
    )
    assert [one.version for one in model.latest_versions] == [2]


async def test_what_was_committed_as_an_artifact_is_registered(client: Client, registry: Registry) -> None:
    name = fresh()
    await committed(client, name)
    assert await refused(registry.create(name)) == "ALREADY_EXISTS"
    assert (await registry.get(name)).display_name == name
    await registry.change(name, 1, description="said later", set_tags={"a": "b"})
    found = await registry.version(name, "latest")
    assert (found.version, found.description, dict(found.tags)) == (1, "said later", {"a": "b"})
    assert (await registry.add(name)).version == 2


async def test_an_alias_set_on_either_side_is_seen_on_the_other(client: Client, registry: Registry) -> None:
    name = fresh()
    await registry.create(name)
    await registry.add(name)
    await registry.add(name)
    await registry.alias(name, "champion", 1)
    assert await aliases_of(client, name) == {"champion": 1, "latest": 2}
    target = f"{TEAM}/artifacts/{name}/versions/2"
    await client.artifacts.SetAlias(tracker_pb2.SetAliasRequest(name=target, alias="champion"))
    assert (await registry.version(name, "champion")).version == 2
    await registry.unalias(name, "champion")
    await registry.unalias(name, "champion")
    assert await aliases_of(client, name) == {"latest": 2}
    assert await refused(registry.version(name, "champion")) == "INVALID_ARGUMENT"
    moves = keeping_pb2.ListAliasMovesRequest(artifact=f"{TEAM}/artifacts/{name}")
    told = [(one.alias, one.version) for one in (await client.keeping().ListAliasMoves(moves)).moves]
    assert told == [("champion", 0), ("champion", 2), ("champion", 1)]


async def test_a_protected_alias_is_an_admins_on_this_side_too(client: Client, registry: Registry) -> None:
    name, admin = fresh(), Registry(client, ADMIN)
    await registry.create(name)
    await registry.add(name)
    assert await refused(registry.alias(name, "production", 1)) == "PERMISSION_DENIED"
    await admin.alias(name, "production", 1)
    for denied in (
        registry.unalias(name, "production"),
        registry.remove(name, 1),
        registry.delete(name),
        registry.update(name, new_name=fresh()),
    ):
        assert await refused(denied) == "PERMISSION_DENIED"
    assert (await registry.version(name, "production")).version == 1
    await admin.delete(name)
    assert await refused(registry.get(name)) == "NOT_FOUND"


async def test_a_name_that_is_no_id_goes_with_an_artifact_that_has_one(registry: Registry) -> None:
    name = f"My Model {new_uid()}"
    made = await registry.create(name)
    assert made.artifact.startswith(f"{TEAM}/artifacts/my-model-")
    assert (await registry.add(name)).model == name
    renamed = await registry.update(name, new_name=f"{name} 2")
    assert (renamed.display_name, renamed.artifact != made.artifact) == (f"{name} 2", True)
    assert await refused(registry.get(name)) == "NOT_FOUND"
    assert (await registry.version(f"{name} 2", 1)).model == f"{name} 2"


async def test_a_renamed_model_keeps_its_versions_aliases_and_lineage(
    client: Client, registry: Registry
) -> None:
    old, new = fresh("old"), fresh("new")
    base = await committed(client, old, aliases=["best"])
    made = await committed(client, fresh("child"), sources=[base.name])
    await registry.update(old, new_name=new)
    assert await aliases_of(client, new) == {"best": 1, "latest": 1}
    lineage = await client.artifacts.GetLineage(tracker_pb2.GetLineageRequest(name=made.name))
    assert list(lineage.inputs) == [f"{TEAM}/artifacts/{new}/versions/1"]
    assert await refused(registry.update(new, new_name=(await registry.create(fresh())).display_name)) == (
        "ALREADY_EXISTS"
    )
    assert (await committed(client, old)).version == 1


async def test_a_deleted_model_leaves_its_name_and_begins_again_at_one(
    client: Client, registry: Registry
) -> None:
    name = fresh()
    await registry.create(name)
    base = await committed(client, name, aliases=["best"])
    child = await committed(client, fresh("child"), sources=[base.name])
    pin = keeping_pb2.PinVersionRequest(name=base.name, pinned=True)
    await client.keeping().PinVersion(pin)
    assert await refused(registry.delete(name)) == "FAILED_PRECONDITION"
    await client.keeping().PinVersion(keeping_pb2.PinVersionRequest(name=base.name, pinned=False))
    await registry.delete(name)
    assert await registry.models(f"name = '{name}'") == []
    assert await refused(registry.version(name, 1)) == "NOT_FOUND"
    await registry.create(name)
    assert (await registry.add(name)).version == 1
    assert dict((await registry.get(name)).aliases) == {}
    lineage = await client.artifacts.GetLineage(tracker_pb2.GetLineageRequest(name=child.name))
    assert len(lineage.inputs) == 1


async def test_a_deleted_versions_number_is_not_given_again(registry: Registry) -> None:
    name = fresh()
    await registry.create(name)
    await registry.add(name)
    await registry.add(name)
    await registry.alias(name, "best", 2)
    await registry.remove(name, 2)
    assert await refused(registry.remove(name, 2)) == "NOT_FOUND"
    assert (await registry.version(name, "latest")).version == 1
    assert (await registry.add(name)).version == 3
    assert await registry.versions(f"name = '{name}'") == [(name, 3), (name, 1)]


async def test_stages_archive_what_was_there(registry: Registry) -> None:
    name = fresh()
    await registry.create(name)
    for _ in range(3):
        await registry.add(name)
    await registry.change(name, 1, stage="production")
    await registry.change(name, 2, stage="Staging")
    await registry.change(name, 3, stage="PRODUCTION", archive_existing_versions=True)
    stages = {one.version: one.stage for one in (await registry.get(name)).latest_versions}
    assert stages == {1: "Archived", 2: "Staging", 3: "Production"}
    assert await refused(registry.change(name, 1, stage="best")) == "INVALID_ARGUMENT"
    archived = registry.change(name, 1, stage="None", archive_existing_versions=True)
    assert await refused(archived) == "INVALID_ARGUMENT"


async def test_searches_filter_sort_and_page(registry: Registry) -> None:
    word = new_uid()
    names = [f"{word}{letter}" for letter in "aBc"]
    for name in names:
        await registry.create(name, tags={"first": name[-1], "dotted.key": word})
        await registry.add(name, tags={"v": name[-1]})
    own = f"name LIKE '{word}%'"
    by_bytes = sorted(names)
    assert await registry.models(own) == by_bytes
    assert await registry.models(f"name ILIKE '{word}b' AND tags.first = 'B'") == [names[1]]
    assert await registry.models(f"name IN ('{names[0]}', '{names[2]}')", order_by=["name DESC"]) == [
        names[2],
        names[0],
    ]
    assert await registry.models(f"tags.`dotted.key` = '{word}' AND tag.first != 'a'") == names[1:]
    assert await registry.versions(f"name LIKE '{word}%' AND tags.v = 'c' AND version_number >= 1") == [
        (names[2], 1)
    ]
    assert await registry.versions(f"run_id = 'r1' AND {own}", order_by=["name ASC"]) == [
        (one, 1) for one in by_bytes
    ]
    pages, token = [], ""
    while not pages or token:
        answer = await registry.stub.SearchRegisteredModels(
            registry_pb2.SearchRegisteredModelsRequest(
                parent=TEAM, filter=own, page_size=2, page_token=token, order_by=["name"]
            )
        )
        pages.append([one.display_name for one in answer.models])
        token = answer.next_page_token
    assert pages == [by_bytes[:2], by_bytes[2:]]
    for bad in (
        "nome = 'x'",
        "name ~ 'x'",
        "name = x",
        "tags.a > 'b'",
        "name = 'a' OR name = 'b'",
        "name IN ()",
    ):
        search = registry_pb2.SearchRegisteredModelsRequest(parent=TEAM, filter=bad)
        assert await refused(registry.stub.SearchRegisteredModels(search)) == "INVALID_ARGUMENT", bad
    for fields in ({"page_token": "x"}, {"order_by": ["size"]}, {"order_by": ["name UP"]}):
        search = registry_pb2.SearchRegisteredModelsRequest(parent=TEAM, **fields)  # type: ignore[arg-type]
        assert await refused(registry.stub.SearchRegisteredModels(search)) == "INVALID_ARGUMENT"


async def test_prompts_are_found_where_they_are_asked_for(registry: Registry) -> None:
    name, tags = fresh("prompt"), {"mlflow.prompt.is_prompt": "true"}
    await registry.create(name, tags=tags)
    await registry.add(name, "dummy-source", tags=tags)
    assert await registry.models(f"name = '{name}'") == []
    assert await registry.models(f"name = '{name}' AND tags.`mlflow.prompt.is_prompt` = 'true'") == [name]
    assert await registry.versions(f"name = '{name}'") == []
    assert await refused(registry.add(name, "file:///etc/passwd", tags=tags)) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "source",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "s3://bucket/model",
        "http://169.254.169.254/latest",
        "mlflow-artifacts://host/1/r1/artifacts/model",
        "mlflow-artifacts:/1/r1/artifacts/../../../secret",
        "mlflow-artifacts:/1/r1/artifacts/%2e%2e/secret",
        "mlflow-artifacts:/1/r1/artifacts/model",
        "runs:/r2/model",
        "runs:/r1/../r2/model",
        "runs://host/r1/model",
        "models:/m-0123456789abcdef0123456789abcdef",
        "models:/",
        "model",
    ],
)
async def test_a_version_is_never_made_of_what_lies_elsewhere(registry: Registry, source: str) -> None:
    name = fresh()
    await registry.create(name)
    assert await refused(registry.add(name, source, run_id="r1")) == "INVALID_ARGUMENT"
    assert await registry.versions(f"name = '{name}'") == []


async def test_a_version_made_from_another_has_its_files_and_descends_from_it(
    client: Client, registry: Registry
) -> None:
    base, name = fresh("base"), fresh()
    first = await committed(client, base, aliases=["best"])
    await registry.create(name)
    made = await registry.add(name, f"models:/{base}@best")
    assert (made.source, made.location) == (f"models:/{base}/1", f"mlflow-artifacts:/models/{name}/1")
    wanted = tracker_pb2.GetVersionRequest(name=made.name)
    files = await client.artifacts.GetVersion(wanted)
    assert (files.digest, list(files.sources)) == (first.digest, [first.name])
    assert await refused(registry.add(name, f"models:/{base}/7")) == "NOT_FOUND"
    assert await refused(registry.add(name, f"models:/{base}/1", run_id="other")) == "INVALID_ARGUMENT"


async def test_a_version_of_a_logged_model_lies_where_that_does(client: Client, registry: Registry) -> None:
    models = client.stub(logged_model_pb2_grpc.LoggedModelServiceStub)
    logged = await models.CreateLoggedModel(
        logged_model_pb2.CreateLoggedModelRequest(
            parent=TEAM, logged_model=logged_model_pb2.LoggedModel(experiment_id="0", source_run_id="r9")
        )
    )
    name, source = fresh(), f"models:/{logged.model_id}"
    await registry.create(name)
    assert await refused(registry.add(name, source)) == "INVALID_ARGUMENT"
    made = await registry.add(name, source, model_id=logged.model_id)
    assert (made.location, made.run_id, made.model_id) == (logged.location, "r9", logged.model_id)
    inside = await registry.add(name, f"{logged.location}/data", model_id=logged.model_id)
    assert inside.location == f"{logged.location}/data"
    elsewhere = registry.add(name, "mlflow-artifacts:/0/models/other/artifacts", model_id=logged.model_id)
    assert await refused(elsewhere) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("alias", "good"),
    [
        ("Champion_2", True),
        ("v1", False),
        ("V12", False),
        ("Latest", False),
        ("a b", False),
        ("x" * 256, False),
    ],
)
async def test_an_alias_is_a_word_that_is_no_number(registry: Registry, alias: str, good: bool) -> None:
    name = fresh()
    await registry.create(name)
    await registry.add(name)
    assert await refused(registry.alias(name, alias, 1)) == ("OK" if good else "INVALID_ARGUMENT")


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "..", "x" * 257])
async def test_a_name_is_one_that_a_file_could_have(registry: Registry, name: str) -> None:
    assert await refused(registry.create(name)) == "INVALID_ARGUMENT"


async def test_another_teams_models_do_not_exist(client: Client, registry: Registry) -> None:
    name = fresh()
    await registry.create(name)
    await registry.add(name)
    stranger, viewer = Registry(client, STRANGER), Registry(client, VIEWER)
    assert await refused(stranger.get(name)) == "NOT_FOUND"
    assert (await viewer.get(name)).display_name == name
    assert await refused(viewer.alias(name, "best", 1)) == "PERMISSION_DENIED"
    own = registry_pb2.GetRegisteredModelRequest(parent="teams/other", model=name)
    assert await refused(stranger.stub.GetRegisteredModel(own)) == "NOT_FOUND"
    theirs = registry_pb2.CreateModelVersionRequest(
        parent="teams/other", model=name, source=f"models:/{name}/1"
    )
    assert await refused(stranger.stub.CreateModelVersion(theirs)) == "NOT_FOUND"


async def test_versions_made_at_once_have_numbers_of_their_own(client: Client, registry: Registry) -> None:
    name = fresh()
    await registry.create(name)
    made: list[registered_model_pb2.ModelVersion] = await asyncio.gather(
        *(registry.add(name) for _ in range(8)),
        *(committed(client, name) for _ in range(4)),
    )
    assert sorted(one.version for one in made) == list(range(1, 13))
