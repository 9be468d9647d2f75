"""What a run's token is good for in MLflow's registry: what its run logged, and to read versions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from cairn_common.ids import new_uid
from tests.harness.gateway import bearer
from tests.harness.mlflow import Rest

TREE = "/mlflow/api/2.0/mlflow-artifacts/artifacts"


@dataclass
class World:
    """Two runs that each logged a model with a file, and the token of the first."""

    rest: Rest
    own: Rest
    experiment: str
    runs: list[str]
    models: list[str]

    def folder(self, which: int) -> str:
        return f"{self.experiment}/models/{self.models[which]}/artifacts"


@pytest.fixture
async def world(rest: Rest) -> World:
    experiment = await rest.experiment()
    runs, models = [await rest.run(experiment) for _ in range(2)], []
    for uid in runs:
        made = await rest.post("logged-models", experiment_id=experiment, source_run_id=uid)
        models.append(made["model"]["info"]["model_id"])
        url = f"{TREE}/{experiment}/models/{models[-1]}/artifacts/MLmodel"
        answer = await rest.http.put(url, content=uid.encode(), headers=bearer(rest.token))
        assert answer.status_code == 200
    return World(rest, rest.as_run(runs[0]), experiment, runs, models)


async def test_a_run_logs_and_finds_its_own_models_alone(world: World) -> None:
    own, (mine, theirs) = world.own, world.runs
    given = {"experiment_id": world.experiment, "name": "net"}
    made = await own.post("logged-models", **given, source_run_id=mine)
    id = made["model"]["info"]["model_id"]
    ready = await own.ask("PATCH", f"logged-models/{id}", status="LOGGED_MODEL_READY")
    assert ready[0] == 200
    await own.post(f"logged-models/{id}/params", params=[{"key": "a", "value": "b"}])
    for other in (theirs, "", new_uid()):
        assert (await own.refusal("logged-models", **given, source_run_id=other))[0] == (
            "RESOURCE_DOES_NOT_EXIST"
        )
    foreign = f"logged-models/{world.models[1]}"
    for method, route, fields in (
        ("GET", foreign, {}),
        ("PATCH", foreign, {"status": "LOGGED_MODEL_READY"}),
        ("PATCH", f"{foreign}/tags", {"tags": [{"key": "a", "value": "b"}]}),
        ("POST", f"{foreign}/params", {"params": [{"key": "a", "value": "b"}]}),
    ):
        assert (await own.refusal(route, method=method, **fields))[0] == "RESOURCE_DOES_NOT_EXIST", route
    assert (await own.refusal(foreign, method="DELETE"))[0] == "PERMISSION_DENIED"
    point: dict[str, Any] = {"run_id": mine, "key": "acc", "value": 1, "timestamp": 1}
    await own.post("runs/log-metric", **point, model_id=id)
    assert (await own.refusal("runs/log-metric", **point, model_id=world.models[1]))[0] == (
        "RESOURCE_DOES_NOT_EXIST"
    )
    found = await own.post("logged-models/search", experiment_ids=[world.experiment])
    assert {one["info"]["model_id"] for one in found["models"]} == {id, world.models[0]}
    found = await world.rest.post("logged-models/search", experiment_ids=[world.experiment])
    assert len(found["models"]) == 3


async def test_a_run_writes_and_reads_its_own_models_files_alone(world: World) -> None:
    headers = bearer(world.own.token)
    for which, status in ((0, 200), (1, 404)):
        for method in ("PUT", "GET", "DELETE"):
            url = f"{TREE}/{world.folder(which)}/MLmodel"
            assert (await world.rest.http.request(method, url, headers=headers)).status_code == status
    # Its model, but in an experiment where it does not belong.
    url = f"{TREE}/0/models/{world.models[0]}/artifacts/MLmodel"
    assert (await world.rest.http.put(url, content=b"x", headers=headers)).status_code == 404


async def test_a_run_registers_what_it_logged_and_nothing_else(world: World) -> None:
    own, (mine, theirs), (model, foreign) = world.own, world.runs, world.models
    name = f"net-{new_uid()}"
    await own.post("registered-models/create", name=name)
    made = await own.post("model-versions/create", name=name, source=f"models:/{model}", model_id=model)
    assert made["model_version"]["run_id"] == mine
    await own.post("model-versions/create", name=name, source=f"runs:/{mine}/model", run_id=mine)
    other = {"name": name, "source": f"models:/{foreign}", "model_id": foreign}
    await world.rest.post("model-versions/create", **other)
    for fields in (
        other,
        # That it says it was this run does not make it so.
        {**other, "run_id": mine},
        {"source": f"runs:/{theirs}/model", "run_id": theirs},
        {"source": f"mlflow-artifacts:/{world.folder(1)}", "model_id": foreign, "run_id": mine},
        {"source": f"models:/{name}/3"},
    ):
        code, _ = await own.refusal("model-versions/create", **{"name": name, **fields})
        assert code == "INVALID_PARAMETER_VALUE", fields
    # Versions are there for all of the team to read.
    assert (await own.get("model-versions/get", name=name, version="3"))["model_version"]["run_id"] == theirs
    where = await own.get("model-versions/get-download-uri", name=name, version="3")
    root = where["artifact_uri"].removeprefix("mlflow-artifacts:/")
    answer = await world.rest.http.get(f"{TREE}/{root}/MLmodel", headers=bearer(own.token))
    assert (answer.status_code, answer.content) == (200, theirs.encode())
    for route, fields in (
        ("registered-models/alias", {"alias": "best", "version": "1"}),
        ("registered-models/rename", {"new_name": "x"}),
        ("model-versions/transition-stage", {"version": "1", "stage": "Staging"}),
        ("model-versions/set-tag", {"version": "1", "key": "a", "value": "b"}),
    ):
        assert (await own.refusal(route, name=name, **fields))[0] == "PERMISSION_DENIED", route
