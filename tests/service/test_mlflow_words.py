"""What MLflow's own server answers at the edges, word for word where its clients' tests look at words."""

from __future__ import annotations

from typing import Any

import pytest

from cairn_common.ids import new_uid
from tests.harness.gateway import bearer
from tests.harness.mlflow import Rest

API = "/mlflow/api/2.0/mlflow/"


async def test_a_text_that_is_too_long_is_cut_and_a_name_is_refused(rest: Rest) -> None:
    run_id = await rest.run(tags=[{"key": "at creation", "value": "t" * 8_001}])
    await rest.post("runs/log-parameter", run_id=run_id, key="p", value="p" * 6_001)
    # What is the same once it is cut is the same.
    await rest.post("runs/log-parameter", run_id=run_id, key="p", value="p" * 7_000)
    await rest.post("runs/set-tag", run_id=run_id, key="t", value="t" * 8_001)
    pairs = {"params": [{"key": "q", "value": "q" * 6_001}], "tags": [{"key": "u", "value": "u" * 8_001}]}
    await rest.post("runs/log-batch", run_id=run_id, **pairs)
    data = (await rest.get("runs/get", run_id=run_id))["run"]["data"]
    assert {item["key"]: len(item["value"]) for item in data["params"]} == {"p": 6_000, "q": 6_000}
    tags = {item["key"]: len(item["value"]) for item in data["tags"] if item["key"] != "mlflow.runName"}
    assert tags == {"at creation": 8_000, "t": 8_000, "u": 8_000}
    for route, given, what in (
        ("runs/log-parameter", {"value": "1"}, "Param key"),
        ("runs/set-tag", {"value": "1"}, "key"),
        ("runs/log-metric", {"value": 1, "timestamp": 1}, "Metric name"),
    ):
        code, message = await rest.refusal(route, run_id=run_id, key="k" * 251, **given)
        assert (code, message) == (
            "INVALID_PARAMETER_VALUE", f"'{what}' exceeds the maximum length of 250 characters",
        )  # fmt: skip


async def test_tags_at_creation_may_have_any_name(rest: Rest) -> None:
    run_id = await rest.run(tags=[{"key": "a@b/../c", "value": "1"}])
    tags = (await rest.get("runs/get", run_id=run_id))["run"]["data"]["tags"]
    assert {"key": "a@b/../c", "value": "1"} in tags


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics.a == 1", "Invalid comparator '==' not one of"),
        ("metrics.a <> 1", "Invalid comparator '<>' not one of"),
        ("metrics.a IN (1, 2)", "Expected numeric value type for metric. Found (1,2)"),
        (
            "params.a IN ('b')",
            "Expected a quoted string value for parameter (e.g. 'my-value'). Got value ('b')",
        ),
        ("tags.a NOT IN ('b')", "Expected a quoted string value for tag (e.g. 'my-value'). Got value ('b')"),
        ("metrics.a > 0; metrics.b > 0", "Search filter contained multiple expression"),
        ("run_name IN ('b')", "Only ['run_id'] attributes support comparison with a list"),
    ],
)
async def test_a_filter_that_cannot_be_says_why(rest: Rest, text: str, message: str) -> None:
    code, told = await rest.refusal("runs/search", experiment_ids=["0"], filter=text)
    assert (code, told[: len(message)]) == ("INVALID_PARAMETER_VALUE", message)


async def test_keys_stand_in_any_quotes(rest: Rest) -> None:
    experiment = await rest.experiment()
    run_id = await rest.run(experiment)
    await rest.post("runs/log-metric", run_id=run_id, key="a b", value=1, timestamp=1)
    for quote in "`\"'":
        wanted = {"experiment_ids": [experiment], "filter": f"metrics.{quote}a b{quote} > 0"}
        found = await rest.post("runs/search", **wanted)
        assert [item["info"]["run_id"] for item in found["runs"]] == [run_id], quote


async def test_points_by_interval_have_limits_and_unknown_runs_none(rest: Rest) -> None:
    run_id, route = await rest.run(), "metrics/get-history-bulk-interval"
    points = [{"key": "m", "value": n, "timestamp": 10 + n, "step": n} for n in range(10)]
    await rest.post("runs/log-batch", run_id=run_id, metrics=points)
    asked: dict[str, Any] = {"run_ids": [run_id], "metric_key": "m"}
    found = await rest.get(route, **asked, max_results=3)
    assert [item["step"] for item in found["metrics"]][:: len(found["metrics"]) - 1] == [0, 9]
    inside = await rest.get(route, **asked, start_step=3, end_step=5)
    assert [item["step"] for item in inside["metrics"]] == [3, 4, 5]
    assert await rest.get(route, run_ids=[new_uid()], metric_key="m") == {}
    see = " See the API docs for more information about request parameters."
    for wrong, message in (
        ({**asked, "max_results": 0}, f"max_results must be between 1 and 2500.{see}"),
        ({**asked, "max_results": 2501}, f"max_results must be between 1 and 2500.{see}"),
        ({"metric_key": "m"}, f"Missing value for required parameter 'run_ids'.{see}"),
        ({"run_ids": [run_id]}, f"Missing value for required parameter 'metric_key'.{see}"),
        (
            {**asked, "start_step": 1},
            "If either start step or end step are specified, both must be specified.",
        ),
    ):
        code, told = await rest.refusal(route, method="GET", **wrong)
        assert (code, told[: len(message)]) == ("INVALID_PARAMETER_VALUE", message)


async def test_the_pages_paths_are_the_same_api(rest: Rest) -> None:
    run_id = await rest.run()
    headers = bearer(rest.token)
    for path in ("/mlflow/ajax-api/2.0/mlflow/runs/get", f"{API}runs/get"):
        answer = await rest.http.get(path, params={"run_id": run_id}, headers=headers)
        assert (answer.status_code, answer.json()["run"]["info"]["run_id"]) == (200, run_id)
    assert (await rest.http.get("/mlflow/ajax-api/2.0/mlflow/runs/get?run_id=x")).status_code == 401
    assert (await rest.http.get("/mlflow/ajax-api/3.0/mlflow/server-info")).status_code == 200


async def test_what_is_no_request_is_refused_with_mlflows_words(rest: Rest) -> None:
    headers = {**bearer(rest.token), "Content-Type": "text/plain"}
    answer = await rest.http.post(f"{API}runs/log-batch", content=b"{}", headers=headers)
    assert answer.json() == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": "Bad Request. Content-Type must be one of ['application/json'].",
    }
    told = await rest.refusal("experiments/search", max_results=1, page_token="eyJhIjogMX0=")
    assert told == ("INVALID_PARAMETER_VALUE", "Invalid page token, parsed value={'a': 1}")
    told = await rest.refusal("experiments/create", name=new_uid(), artifact_location="s3://bucket/a#b")
    assert told == (
        "INVALID_PARAMETER_VALUE", "'artifact_location' URL can't include fragments or params.",
    )  # fmt: skip
    dataset = {"name": "n", "digest": "d" * 37, "source_type": "local", "source": "s"}
    told = await rest.refusal("runs/log-inputs", run_id=await rest.run(), datasets=[{"dataset": dataset}])
    assert told == ("INVALID_PARAMETER_VALUE", "'digest' exceeds the maximum length of 36 characters")


async def test_an_update_that_changes_nothing_answers_with_the_run_or_that_there_is_none(rest: Rest) -> None:
    run_id = await rest.run(await rest.experiment())
    before = await rest.get("runs/get", run_id=run_id)
    told = await rest.post("runs/update", run_id=run_id)
    assert told["run_info"] == before["run"]["info"]
    assert (await rest.refusal("runs/update", run_id=new_uid()))[0] == "RESOURCE_DOES_NOT_EXIST"
