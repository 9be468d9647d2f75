"""Models that runs logged: an id, params that stay, tags that change, metrics that count once, searches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cairn.tracker.v1 import logged_model_pb2 as pb
from cairn.tracker.v1 import logged_model_pb2_grpc, mlflow_pb2, mlflow_pb2_grpc
from cairn_common.ids import new_uid
from tests.harness.parts import TEAM, refused
from tests.harness.tracker import STRANGER, VIEWER, Client, Tracker


class Models:
    """Logged models as one caller sees them."""

    def __init__(self, client: Client, token: str = "cairn_test_member_of_main_team") -> None:
        self.stub = client.stub(logged_model_pb2_grpc.LoggedModelServiceStub, token)
        self.experiments = client.stub(mlflow_pb2_grpc.MlflowServiceStub, token)

    def create(self, experiment: str, **fields: Any) -> Any:
        model = pb.LoggedModel(experiment_id=experiment, **fields)
        return self.stub.CreateLoggedModel(pb.CreateLoggedModelRequest(parent=TEAM, logged_model=model))

    async def experiment(self) -> str:
        """The id of a new one."""
        made = mlflow_pb2.CreateMlflowExperimentRequest(parent=TEAM, name=new_uid())
        return str((await self.experiments.CreateMlflowExperiment(made)).experiment_id)

    def get(self, model_id: str, **fields: Any) -> Any:
        return self.stub.GetLoggedModel(pb.GetLoggedModelRequest(parent=TEAM, model_id=model_id, **fields))

    def update(self, model_id: str, **fields: Any) -> Any:
        return self.stub.UpdateLoggedModel(
            pb.UpdateLoggedModelRequest(parent=TEAM, model_id=model_id, **fields)
        )

    def delete(self, model_id: str) -> Any:
        return self.stub.DeleteLoggedModel(pb.DeleteLoggedModelRequest(parent=TEAM, model_id=model_id))

    def measure(self, model_id: str, key: str, value: float, **fields: Any) -> Any:
        metric = pb.ModelMetric(model_id=model_id, key=key, value=value, **fields)
        return self.stub.LogModelMetrics(pb.LogModelMetricsRequest(parent=TEAM, metrics=[metric]))

    def search(self, experiment: str, text: str = "", **fields: Any) -> Any:
        return self.stub.SearchLoggedModels(
            pb.SearchLoggedModelsRequest(parent=TEAM, experiment_ids=[experiment], filter=text, **fields)
        )

    async def found(self, experiment: str, text: str = "", **fields: Any) -> list[str]:
        return [one.display_name for one in (await self.search(experiment, text, **fields)).models]


@pytest.fixture
async def models(tracker: Tracker) -> AsyncIterator[Models]:
    async with Client(tracker) as client:
        yield Models(client)


async def test_a_model_waits_until_it_is_ready(models: Models) -> None:
    made = await models.create("0", params={"lr": "0.1"}, tags={"a": "b"}, source_run_id="r1")
    assert made.location == f"mlflow-artifacts:/0/models/{made.model_id}/artifacts"
    assert (made.status, made.display_name != "") == (pb.LoggedModel.PENDING, True)
    ready = await models.update(made.model_id, status=pb.LoggedModel.READY)
    assert (ready.status, dict(ready.params)) == (pb.LoggedModel.READY, {"lr": "0.1"})
    await models.update(made.model_id, add_params={"lr": "0.1", "depth": "3"}, set_tags={"c": "d"})
    assert await refused(models.update(made.model_id, add_params={"lr": "0.2"})) == "INVALID_ARGUMENT"
    found = await models.update(made.model_id, remove_tags=["a"])
    assert (dict(found.tags), dict(found.params)) == ({"c": "d"}, {"lr": "0.1", "depth": "3"})
    assert await refused(models.update(made.model_id, remove_tags=["a"])) == "NOT_FOUND"


async def test_a_deleted_model_is_seen_by_who_asks_for_it(models: Models) -> None:
    made = await models.create("0")
    await models.delete(made.model_id)
    assert await refused(models.get(made.model_id)) == "NOT_FOUND"
    assert (await models.get(made.model_id, allow_deleted=True)).model_id == made.model_id
    assert made.display_name not in await models.found("0")
    assert await refused(models.get("m-" + "0" * 32)) == "NOT_FOUND"
    assert await refused(models.create("123")) == "NOT_FOUND"


async def test_a_value_that_is_sent_twice_is_one(models: Models) -> None:
    made = await models.create("0")
    for value in (0.5, 0.5, float("nan"), float("nan"), float("inf")):
        await models.measure(made.model_id, "acc", value, step=1, timestamp=10, run_id="r1")
    found = (await models.get(made.model_id)).metrics
    assert [str(one.value) for one in found] == ["0.5", "1.7976931348623157e+308", "nan"]
    assert await refused(models.measure("m-nothing", "acc", 1.0)) == "NOT_FOUND"


async def test_searches_filter_sort_and_page(models: Models) -> None:
    experiment = await models.experiment()
    for number, name in enumerate(("one", "two", "three")):
        made = await models.create(
            experiment, display_name=name, params={"lr": f"0.{number}"}, tags={"n": name}
        )
        if number < 2:
            await models.measure(
                made.model_id,
                "acc",
                number / 10,
                timestamp=1,
                dataset_name="test",
                dataset_digest=f"d{number}",
            )
    assert await models.found(experiment) == ["three", "two", "one"]
    assert await models.found(experiment, "metrics.acc >= 0.1") == ["two"]
    assert await models.found(experiment, "params.lr = '0.2' AND tags.n LIKE 'th%'") == ["three"]
    assert await models.found(experiment, "name IN ('one', 'two') AND status = 'PENDING'") == ["two", "one"]
    dataset = pb.SearchLoggedModelsRequest.Dataset(name="test", digest="d0")
    assert await models.found(experiment, datasets=[dataset]) == ["one"]
    assert await models.found(experiment, "metrics.acc >= 0", datasets=[dataset]) == ["one"]
    best = pb.SearchLoggedModelsRequest.Order(field_name="metrics.acc", descending=True)
    assert await models.found(experiment, order_by=[best]) == ["two", "one", "three"]
    by_name = pb.SearchLoggedModelsRequest.Order(field_name="name")
    page = await models.search(experiment, page_size=2, order_by=[by_name])
    rest = await models.search(experiment, page_size=2, order_by=[by_name], page_token=page.next_page_token)
    assert [one.display_name for one in (*page.models, *rest.models)] == ["one", "three", "two"]
    other = models.search(experiment, page_size=2, page_token=page.next_page_token)
    assert await refused(other) == "INVALID_ARGUMENT"
    for bad in ("metrics.acc LIKE 'x'", "size = 'x'", "what.is = 'x'", "name > 'a'"):
        assert await refused(models.search(experiment, bad)) == "INVALID_ARGUMENT", bad


async def test_another_teams_models_do_not_exist(tracker: Tracker, models: Models) -> None:
    made = await models.create("0")
    async with Client(tracker) as client:
        assert await refused(Models(client, STRANGER).get(made.model_id)) == "NOT_FOUND"
        assert (await Models(client, VIEWER).get(made.model_id)).model_id == made.model_id
        assert await refused(Models(client, VIEWER).delete(made.model_id)) == "PERMISSION_DENIED"
        theirs = pb.GetLoggedModelRequest(parent="teams/other", model_id=made.model_id)
        assert await refused(Models(client, STRANGER).stub.GetLoggedModel(theirs)) == "NOT_FOUND"
