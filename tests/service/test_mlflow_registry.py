"""Registered and logged models as MLflow's clients ask for them: over HTTP, through to a real tracker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from cairn.quota.v1 import token_pb2
from cairn.tracker.v1 import artifact_pb2, tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.gateway import bearer, gateway, neighbours
from tests.harness.mlflow import Rest
from tests.harness.parts import commit, entry, upload
from tests.harness.tracker import ADMIN, MEMBER, STRANGER, VIEWER, Client, Tracker

API = "/mlflow/api/2.0/mlflow/"


class Door:
    """The API as one caller has it."""

    def __init__(self, http: httpx.AsyncClient, token: str = MEMBER) -> None:
        self._http = http
        self._token = token

    def of(self, token: str) -> Door:
        return Door(self._http, token)

    async def ask(self, method: str, path: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Status and answer."""
        given: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
        answer = await self._http.request(method, API + path, headers=bearer(self._token), **given)
        return answer.status_code, answer.json()

    async def good(self, method: str, path: str, **fields: Any) -> dict[str, Any]:
        status, answer = await self.ask(method, path, **fields)
        assert status == 200, answer
        return answer

    async def bad(self, method: str, path: str, **fields: Any) -> str:
        """The code of an error."""
        status, answer = await self.ask(method, path, **fields)
        assert status >= 400, answer
        return str(answer["error_code"])


@pytest.fixture
async def door(tracker: Tracker, nats_url: str) -> AsyncIterator[Door]:
    async with neighbours() as behind:
        behind.caller(MEMBER, "main", role=token_pb2.ROLE_MEMBER)
        behind.caller(ADMIN, "main", role=token_pb2.ROLE_ADMIN)
        behind.caller(VIEWER, "main", role=token_pb2.ROLE_VIEWER)
        behind.caller(STRANGER, "other", role=token_pb2.ROLE_MEMBER)
        async with gateway(nats_url, behind.address, tracker_address=tracker.address) as http:
            yield Door(http)


@pytest.fixture
async def name(door: Door) -> str:
    made = f"Net {new_uid()}"
    await door.good("POST", "registered-models/create", name=made, tags=[{"key": "a", "value": "b"}])
    return made


async def add(door: Door, name: str, **fields: Any) -> dict[str, Any]:
    given = {"source": "runs:/r1/model", "run_id": "r1", **fields}
    made = await door.good("POST", "model-versions/create", name=name, **given)
    return dict(made["model_version"])


async def test_a_model_is_what_mlflows_clients_read(door: Door, name: str) -> None:
    made = await add(door, name, description="first", tags=[{"key": "k", "value": "v"}])
    times = {key: made.pop(key) for key in ("creation_timestamp", "last_updated_timestamp")}
    assert all(isinstance(time, int) and time > 10**12 for time in times.values())
    assert made == {
        "name": name, "version": "1", "current_stage": "None", "description": "first",
        "source": "runs:/r1/model", "run_id": "r1", "run_link": "", "status": "READY",
        "tags": [{"key": "k", "value": "v"}],
    }  # fmt: skip
    found = (await door.good("GET", "registered-models/get", name=name))["registered_model"]
    assert (found["name"], found["tags"]) == (name, [{"key": "a", "value": "b"}])
    assert [one["version"] for one in found["latest_versions"]] == ["1"]
    where = await door.good("GET", "model-versions/get-download-uri", name=name, version="1")
    assert where == {"artifact_uri": "runs:/r1/model"}


async def test_models_are_changed_renamed_tagged_and_deleted(door: Door, name: str) -> None:
    change = await door.good("PATCH", "registered-models/update", name=name, description="new")
    assert change["registered_model"]["description"] == "new"
    await door.good("POST", "registered-models/set-tag", name=name, key="c", value="d")
    await door.good("DELETE", "registered-models/delete-tag", name=name, key="a")
    await door.good("DELETE", "registered-models/delete-tag", name=name, key="a")
    renamed = await door.good("POST", "registered-models/rename", name=name, new_name=f"{name} 2")
    assert renamed["registered_model"]["tags"] == [{"key": "c", "value": "d"}]
    assert await door.bad("GET", "registered-models/get", name=name) == "RESOURCE_DOES_NOT_EXIST"
    await door.good("DELETE", "registered-models/delete", name=f"{name} 2")
    status, answer = await door.ask("GET", "registered-models/get", name=f"{name} 2")
    assert (status, answer) == (
        404,
        {
            "error_code": "RESOURCE_DOES_NOT_EXIST",
            "message": f"Registered Model with name={name} 2 not found",
        },
    )


async def test_versions_are_changed_staged_tagged_and_deleted(door: Door, name: str) -> None:
    for _ in range(2):
        await add(door, name)
    one = {"name": name, "version": "1"}
    await door.good("PATCH", "model-versions/update", **one, description="said")
    await door.good("POST", "model-versions/set-tag", **one, key="c", value="d")
    await door.good("DELETE", "model-versions/delete-tag", **one, key="none")
    await door.good("POST", "model-versions/transition-stage", **one, stage="staging")
    await door.good(
        "POST", "model-versions/transition-stage", name=name, version="2", stage="Staging",
        archive_existing_versions=True,
    )  # fmt: skip
    found = (await door.good("GET", "model-versions/get", **one))["model_version"]
    assert (found["current_stage"], found["description"], found["tags"]) == (
        "Archived",
        "said",
        [{"key": "c", "value": "d"}],
    )
    staged = await door.good("POST", "registered-models/get-latest-versions", name=name, stages=["STAGING"])
    assert [one["version"] for one in staged["model_versions"]] == ["2"]
    assert await door.bad("GET", "registered-models/get-latest-versions", name=name, stages="x") == (
        "INVALID_PARAMETER_VALUE"
    )
    await door.good("DELETE", "model-versions/delete", **one)
    status, answer = await door.ask("GET", "model-versions/get", **one)
    assert (status, answer["message"]) == (404, f"Model Version (name={name}, version=1) not found")


async def test_aliases_name_versions(door: Door, name: str) -> None:
    await add(door, name)
    await door.good("POST", "registered-models/alias", name=name, alias="Best_1", version="1")
    for alias in ("Best_1", "latest"):
        found = await door.good("GET", "registered-models/alias", name=name, alias=alias)
        assert (found["model_version"]["version"], found["model_version"]["aliases"]) == ("1", ["Best_1"])
    model = (await door.good("GET", "registered-models/get", name=name))["registered_model"]
    assert model["aliases"] == [{"alias": "Best_1", "version": "1"}]
    for alias in ("v1", "Latest", "a b", ""):
        code = await door.bad("POST", "registered-models/alias", name=name, alias=alias, version="1")
        assert code == "INVALID_PARAMETER_VALUE"
    protected = {"name": name, "alias": "production", "version": "1"}
    assert await door.bad("POST", "registered-models/alias", **protected) == "PERMISSION_DENIED"
    await door.of(ADMIN).good("POST", "registered-models/alias", **protected)
    assert await door.bad("DELETE", "registered-models/delete", name=name) == "PERMISSION_DENIED"
    await door.good("DELETE", "registered-models/alias", name=name, alias="Best_1")
    status, answer = await door.ask("GET", "registered-models/alias", name=name, alias="Best_1")
    assert (status, answer["message"]) == (400, "Registered model alias Best_1 not found.")


async def test_searches_have_pages_and_say_what_cannot_be_read(door: Door, name: str) -> None:
    for _ in range(3):
        await add(door, name)
    own = f"name = '{name}'"
    first = await door.good("GET", "model-versions/search", filter=own, max_results=2)
    rest = await door.good(
        "GET", "model-versions/search", filter=own, max_results=2, page_token=first["next_page_token"]
    )
    assert [one["version"] for one in first["model_versions"] + rest["model_versions"]] == ["3", "2", "1"]
    assert "next_page_token" not in rest
    found = await door.good("GET", "registered-models/search", filter=own, order_by=["name DESC"])
    assert [one["name"] for one in found["registered_models"]] == [name]
    assert await door.good("GET", "registered-models/search", filter="name = 'none'") == {}
    for fields in (
        {"filter": "nome = 'x'"},
        {"max_results": "1001"},
        {"max_results": "x"},
        {"page_token": "x"},
    ):
        assert await door.bad("GET", "registered-models/search", **fields) == "INVALID_PARAMETER_VALUE"


async def test_what_is_missing_or_malformed_has_mlflows_words(door: Door, name: str) -> None:
    status, answer = await door.ask("POST", "registered-models/create")
    assert (status, answer["message"].partition(" See ")[0]) == (
        400,
        "Missing value for required parameter 'name'.",
    )
    assert await door.bad("POST", "registered-models/create", name=name) == "RESOURCE_ALREADY_EXISTS"
    status, answer = await door.ask("GET", "model-versions/get", name=name, version="x")
    assert (status, answer["message"]) == (400, "Parameter 'version' must be an integer, got 'x'.")
    for source in ("file:///etc/passwd", "s3://bucket/model", "mlflow-artifacts:/1/r1/artifacts/../../x"):
        code = await door.bad("POST", "model-versions/create", name=name, source=source, run_id="r1")
        assert code == "INVALID_PARAMETER_VALUE"


async def test_logged_models_live_from_creation_to_deletion(door: Door) -> None:
    created = await door.good("POST", "experiments/create", name=new_uid())
    experiment = created["experiment_id"]
    made = (
        await door.good(
            "POST", "logged-models", experiment_id=experiment, name="net", model_type="Agent",
            source_run_id="r1", params=[{"key": "lr", "value": "0.1"}], tags=[{"key": "a", "value": "b"}],
        )
    )["model"]  # fmt: skip
    info, model = made["info"], f"logged-models/{made['info']['model_id']}"
    assert (info["status"], info["name"], info["model_type"], info["source_run_id"]) == (
        "LOGGED_MODEL_PENDING", "net", "Agent", "r1",
    )  # fmt: skip
    assert info["artifact_uri"] == f"mlflow-artifacts:/{experiment}/models/{info['model_id']}/artifacts"
    assert made["data"] == {"params": [{"key": "lr", "value": "0.1"}]}
    ready = await door.good("PATCH", model, model_id=info["model_id"], status="LOGGED_MODEL_READY")
    assert ready["model"]["info"]["status"] == "LOGGED_MODEL_READY"
    await door.good("PATCH", f"{model}/tags", tags=[{"key": "c/d", "value": "e"}])
    await door.good("DELETE", f"{model}/tags/c/d")
    assert await door.bad("DELETE", f"{model}/tags/c") == "RESOURCE_DOES_NOT_EXIST"
    await door.good("POST", f"{model}/params", params=[{"key": "depth", "value": "3"}])
    order = [{"field_name": "creation_time", "ascending": False}]
    found = await door.good(
        "POST",
        "logged-models/search",
        experiment_ids=[experiment],
        filter="params.depth = '3'",
        order_by=order,
    )
    assert [one["info"]["name"] for one in found["models"]] == ["net"]
    await door.good("DELETE", model)
    assert await door.bad("GET", model) == "RESOURCE_DOES_NOT_EXIST"
    assert (await door.good("GET", model, allow_deleted="true"))["model"]["info"]["name"] == "net"
    assert await door.bad("PATCH", model, status="DONE") == "INVALID_PARAMETER_VALUE"
    assert await door.bad("POST", "logged-models") == "INVALID_PARAMETER_VALUE"


async def test_another_teams_models_do_not_exist_and_a_viewer_changes_none(door: Door, name: str) -> None:
    await add(door, name)
    stranger, viewer = door.of(STRANGER), door.of(VIEWER)
    assert await stranger.bad("GET", "registered-models/get", name=name) == "RESOURCE_DOES_NOT_EXIST"
    assert await stranger.good("GET", "model-versions/search", filter=f"name = '{name}'") == {}
    await viewer.good("GET", "registered-models/get", name=name)
    assert await viewer.bad("DELETE", "registered-models/delete", name=name) == "PERMISSION_DENIED"


async def put(rest: Rest, path: str, data: bytes) -> None:
    url = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{path}"
    (await rest.http.put(url, headers=bearer(rest.token), content=data)).raise_for_status()


async def read(rest: Rest, location: str, path: str) -> bytes:
    root = location.removeprefix("mlflow-artifacts:/")
    url = f"/mlflow/api/2.0/mlflow-artifacts/artifacts/{root}/{path}"
    answer = await rest.http.get(url, headers=bearer(rest.token))
    answer.raise_for_status()
    return answer.content


async def location(rest: Rest, name: str, number: str) -> str:
    found = await rest.get("model-versions/get-download-uri", name=name, version=number)
    return str(found["artifact_uri"])


async def test_a_version_keeps_its_files_whatever_is_written_to_the_run_later(rest: Rest) -> None:
    name, experiment = f"net-{new_uid()}", await rest.experiment()
    run = await rest.run(experiment)
    folder = f"{experiment}/{run}/artifacts/model"
    await put(rest, f"{folder}/MLmodel", b"first")
    await put(rest, f"{folder}/data/weights", b"w")
    await rest.post("registered-models/create", name=name)
    for source in (f"runs:/{run}/model", f"mlflow-artifacts:/{folder}"):
        await rest.post("model-versions/create", name=name, source=source, run_id=run)
    await put(rest, f"{folder}/MLmodel", b"second")
    await rest.post("model-versions/create", name=name, source=f"runs:/{run}/model", run_id=run)
    assert [await read(rest, await location(rest, name, number), "MLmodel") for number in "123"] == [
        b"first", b"first", b"second",
    ]  # fmt: skip
    assert await read(rest, await location(rest, name, "1"), "data/weights") == b"w"
    await rest.post("registered-models/rename", name=name, new_name=f"{name}-2")
    assert await read(rest, await location(rest, f"{name}-2", "1"), "MLmodel") == b"first"
    async with Client(rest.tracker) as client:
        wanted = tracker_pb2.GetVersionRequest(name=f"teams/main/artifacts/{name}-2/versions/3")
        found = await client.artifacts.GetVersion(wanted)
    assert ([entry.path for entry in found.entries], found.run) == (
        ["MLmodel", "data/weights"],
        f"teams/main/runs/{run}",
    )


async def test_what_cairn_committed_is_read_by_mlflows_clients(rest: Rest) -> None:
    name, data = f"net-{new_uid()}", new_uid().encode()
    async with Client(rest.tracker) as client:
        await upload(client, data)
        kind = artifact_pb2.ARTIFACT_KIND_MODEL
        await client.artifacts.CommitVersion(commit(name, entry("sub/model.bin", data), kind=kind))
    found = (await rest.get("model-versions/get", name=name, version="1"))["model_version"]
    assert found["source"] == f"mlflow-artifacts:/models/{name}/1"
    assert await read(rest, await location(rest, name, "1"), "sub/model.bin") == data


async def test_a_logged_model_has_files_metrics_and_versions(rest: Rest) -> None:
    name, experiment = f"net-{new_uid()}", await rest.experiment()
    run = await rest.run(experiment)
    made = await rest.post("logged-models", experiment_id=experiment, source_run_id=run)
    info = made["model"]["info"]
    await put(rest, f"{experiment}/models/{info['model_id']}/artifacts/MLmodel", b"m")
    listed = await rest.get(f"logged-models/{info['model_id']}/artifacts/directories")
    assert listed == {
        "root_uri": info["artifact_uri"],
        "files": [{"path": "MLmodel", "is_dir": False, "file_size": 1}],
    }
    point = {"key": "acc", "value": 0.9, "timestamp": 5, "step": 1, "model_id": info["model_id"]}
    for _ in range(2):
        await rest.post("runs/log-batch", run_id=run, metrics=[point, {**point, "model_id": ""}])
        await rest.post("runs/log-metric", run_id=run, **point)
    found = await rest.get(f"logged-models/{info['model_id']}")
    assert found["model"]["data"]["metrics"] == [{**point, "run_id": run}]
    await rest.post("registered-models/create", name=name)
    source = {"source": f"models:/{info['model_id']}", "model_id": info["model_id"]}
    version = (await rest.post("model-versions/create", name=name, **source))["model_version"]
    assert (version["run_id"], version["source"]) == (run, source["source"])
    await rest.ask("DELETE", f"logged-models/{info['model_id']}")
    assert await read(rest, await location(rest, name, "1"), "MLmodel") == b"m"
