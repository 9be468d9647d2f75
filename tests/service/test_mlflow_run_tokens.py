"""What a run's token is good for in MLflow's registry: what its run logged, and to read versions."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_bytes
from typing import Any

import pytest

from cairn.tracker.v1 import span_pb2
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


async def test_a_run_writes_traces_of_its_own_alone(world: World) -> None:
    own, (mine, theirs) = world.own, world.runs

    async def start(rest: Rest, trace_id: str, run: str, experiment: str = world.experiment) -> int:
        place = {"mlflow_experiment": {"experiment_id": experiment}}
        said = {"assessment_name": "a", "source": {"source_type": "CODE"}, "feedback": {"value": 1}}
        info = {
            "trace_id": trace_id, "trace_location": place, "request_time": "2026-01-01T00:00:00Z",
            "state": "OK", "trace_metadata": {"mlflow.sourceRun": run} if run else {}, "assessments": [said],
        }  # fmt: skip
        url, headers = "/mlflow/api/3.0/mlflow/traces", bearer(rest.token)
        answer = await rest.http.post(url, json={"trace": {"trace_info": info}}, headers=headers)
        return answer.status_code

    async def export(span: span_pb2.Span, experiment: str = world.experiment, run: str = "") -> int:
        scope = span_pb2.SpanBatch.Scope(spans=[span])
        resource = span_pb2.SpanBatch.Resource(scope_spans=[scope])
        headers = bearer(own.token) | {
            "content-type": "application/x-protobuf", "x-mlflow-experiment-id": experiment,
            "x-mlflow-run-id": run,
        }  # fmt: skip
        body = span_pb2.SpanBatch(resource_spans=[resource]).SerializeToString()
        return (await own.http.post("/mlflow/v1/traces", content=body, headers=headers)).status_code

    named, unnamed, foreign, spoken = (f"tr-{token_bytes(16).hex()}" for _ in range(4))
    assert [await start(own, named, mine), await start(own, unnamed, "")] == [200, 200]
    assert await start(world.rest, foreign, theirs) == 200
    for refused in (
        start(own, foreign, mine),
        start(own, f"tr-{new_uid()}", theirs),
        start(own, f"tr-{new_uid()}", mine, await world.rest.experiment()),
    ):
        assert await refused == 404
    span = span_pb2.Span(span_id=token_bytes(8), name="s", start_time_unix_nano=1)
    for trace_id, status in ((named, 200), (spoken, 200), (foreign, 404)):
        span.trace_id = bytes.fromhex(trace_id.removeprefix("tr-"))
        assert await export(span) == status
    assert (await export(span, run=theirs), await export(span, "0")) == (404, 404)
    url, places = (
        "/mlflow/api/3.0/mlflow/traces/search",
        [{"mlflow_experiment": {"experiment_id": world.experiment}}],
    )
    asked = {"locations": places, "filter": f"metadata.`mlflow.sourceRun` = '{mine}'"}
    found = (await own.http.post(url, json=asked, headers=bearer(world.rest.token))).json()["traces"]
    assert {one["trace_id"] for one in found} == {named, unnamed, spoken}
