"""Experiments and runs through MLflow's REST API, on a real tracker: what a client says is what both see."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from cairn.tracker.v1 import tracker_pb2
from cairn_common.ids import new_uid
from tests.harness.gateway import bearer
from tests.harness.mlflow import Rest
from tests.harness.tracker import STRANGER, VIEWER, Client, Spool, run_name


async def test_an_experiment_has_one_name_until_it_is_given_another(rest: Rest) -> None:
    default = (await rest.get("experiments/get", experiment_id="0"))["experiment"]
    assert (default["name"], default["lifecycle_stage"]) == ("Default", "active")
    name = f"Digits of {new_uid()}"
    made = await rest.post("experiments/create", name=name, tags=[{"key": "a", "value": "b"}])
    id = made["experiment_id"]
    assert id.isdecimal()
    for told in (
        await rest.get("experiments/get", experiment_id=id),
        await rest.get("experiments/get-by-name", experiment_name=name),
    ):
        assert told["experiment"]["artifact_location"] == f"mlflow-artifacts:/{id}"
        assert told["experiment"]["tags"] == [{"key": "a", "value": "b"}]
    await rest.post("experiments/delete", experiment_id=id)
    code, _ = await rest.refusal("experiments/create", name=name)
    assert code == "RESOURCE_ALREADY_EXISTS"
    code, message = await rest.refusal("runs/create", experiment_id=id)
    assert (code, "must be in the 'active' state" in message) == ("INVALID_PARAMETER_VALUE", True)
    await rest.post("experiments/restore", experiment_id=id)
    await rest.post("experiments/update", experiment_id=id, new_name=name + "!")
    code, message = await rest.refusal("experiments/get-by-name", method="GET", experiment_name=name)
    assert (code, message) == ("RESOURCE_DOES_NOT_EXIST", f"Could not find experiment with name '{name}'")
    # Cairn's own API has it under an id of words, and this name.
    async with Client(rest.tracker) as client:
        found = await client.runs.ListExperiments(tracker_pb2.ListExperimentsRequest(parent="teams/main"))
        names = {item.display_name for item in found.experiments}
    assert name + "!" in names


async def test_experiments_are_searched_in_pages(rest: Rest) -> None:
    mark = new_uid()
    ids = [(await rest.post("experiments/create", name=f"{mark}-{n}"))["experiment_id"] for n in range(3)]
    await rest.post("experiments/set-experiment-tag", experiment_id=ids[1], key="x", value="y")
    found = await rest.post(
        "experiments/search", filter=f"name LIKE '{mark}%'", max_results=2, order_by=["name DESC"]
    )
    assert [item["experiment_id"] for item in found["experiments"]] == [ids[2], ids[1]]
    rest_of = await rest.post(
        "experiments/search", filter=f"name LIKE '{mark}%'", max_results=2, order_by=["name DESC"],
        page_token=found["next_page_token"],
    )  # fmt: skip
    assert [item["experiment_id"] for item in rest_of["experiments"]] == [ids[0]]
    assert "next_page_token" not in rest_of
    found = await rest.post("experiments/search", filter="tags.x = 'y'", max_results=10)
    assert [item["experiment_id"] for item in found["experiments"]] == [ids[1]]
    await rest.post("experiments/delete", experiment_id=ids[0])
    by_view = {
        view: len((await rest.post(
            "experiments/search", filter=f"name LIKE '{mark}%'", max_results=9, view_type=view
        )).get("experiments", ()))
        for view in ("ACTIVE_ONLY", "DELETED_ONLY", "ALL")
    }  # fmt: skip
    assert by_view == {"ACTIVE_ONLY": 2, "DELETED_ONLY": 1, "ALL": 3}


async def test_what_a_run_logs_is_read_at_once_and_is_the_same_in_both_views(rest: Rest) -> None:
    run_id = await rest.run(run_name="first", start_time=1_700_000_000_000)
    for value, step, time in ((1.0, 5, 10), (2.0, 5, 10), (0.5, 5, 11), (9.0, 5, 9), (7.0, 4, 100)):
        await rest.post("runs/log-metric", run_id=run_id, key="a/b", value=value, step=step, timestamp=time)
    await rest.post("runs/log-metric", run_id=run_id, key="nan", value="NaN", timestamp=1)
    await rest.post("runs/log-metric", run_id=run_id, key="inf", value="-Infinity", timestamp=1)
    await rest.post("runs/log-parameter", run_id=run_id, key="lr", value="0.1")
    await rest.post("runs/set-tag", run_id=run_id, key="mlflow.note.content", value="a note")
    await rest.post("runs/set-tag", run_id=run_id, key="mlflow.runName", value="second")
    await rest.post("runs/set-tag", run_id=run_id, key="team", value="vision")
    run = (await rest.get("runs/get", run_id=run_id))["run"]
    assert run["info"]["run_name"] == "second"
    assert run["info"]["artifact_uri"].endswith(f"/{run_id}/artifacts")
    metrics = {
        item["key"]: (item["value"], item["step"], item["timestamp"]) for item in run["data"]["metrics"]
    }
    assert metrics == {
        "a/b": (0.5, 5, 11), "nan": ("NaN", 0, 1), "inf": (-1.7976931348623157e308, 0, 1),
    }  # fmt: skip
    history = await rest.get("metrics/get-history", run_id=run_id, metric_key="a/b")
    assert [(item["value"], item["step"], item["timestamp"]) for item in history["metrics"]] == [
        (9.0, 5, 9), (1.0, 5, 10), (2.0, 5, 10), (0.5, 5, 11), (7.0, 4, 100),
    ]  # fmt: skip
    page = await rest.get("metrics/get-history", run_id=run_id, metric_key="a/b", max_results=3)
    after = await rest.get(
        "metrics/get-history",
        run_id=run_id,
        metric_key="a/b",
        max_results=3,
        page_token=page["next_page_token"],
    )
    assert [item["value"] for item in page["metrics"] + after["metrics"]] == [9.0, 1.0, 2.0, 0.5, 7.0]
    assert await rest.get("metrics/get-history", run_id=run_id, metric_key="none") == {}
    async with Client(rest.tracker) as client:
        seen = await client.runs.GetRun(tracker_pb2.GetRunRequest(name=run_name(run_id)))
        assert (seen.display_name, seen.notes, dict(seen.params)) == ("second", "a note", {"lr": "0.1"})
        assert dict(seen.labels) == {"team": "vision"}
        assert (seen.summary["a/b"].last, seen.summary["a/b"].last_step) == (0.5, 5)
        (series,) = (await client.series(run_id, "a/b")).series
        assert (list(series.steps), list(series.last)) == ([4, 5], [7.0, 0.5])


async def test_a_run_of_cairns_own_sdk_is_there_for_mlflow(rest: Rest) -> None:
    uid = new_uid()
    spool = Spool(uid, attempt=0)
    started = spool.event()
    started.run_started.params.update({"lr": 0.1, "deep": {"er": [1, 2]}, "flag": True})
    started.run_started.experiment = "of the sdk"
    started.run_started.display_name = "sdk run"
    logged = spool.points([0, 1, 2], loss=[3.0, 2.0, 1.0])
    async with Client(rest.tracker) as client:
        await client.publish(started, logged)
        await client.applied(logged)
    run = (await rest.get("runs/get", run_id=uid))["run"]
    assert (run["info"]["run_name"], run["info"]["status"]) == ("sdk run", "RUNNING")
    params = {item["key"]: item["value"] for item in run["data"]["params"]}
    assert params == {"lr": "0.1", "deep": '{"er": [1, 2]}', "flag": "True"}
    assert run["data"]["metrics"] == [
        {"key": "loss", "value": 1.0, "step": 2, "timestamp": 1_700_000_002_000}
    ]
    history = await rest.get("metrics/get-history", run_id=uid, metric_key="loss")
    assert [item["value"] for item in history["metrics"]] == [3.0, 2.0, 1.0]
    experiment = run["info"]["experiment_id"]
    found = await rest.post("runs/search", experiment_ids=[experiment], filter="metrics.loss < 1.5")
    assert [item["info"]["run_id"] for item in found["runs"]] == [uid]


async def test_a_batch_that_comes_again_changes_nothing(rest: Rest) -> None:
    run_id = await rest.run()
    batch = {
        "metrics": [{"key": "m", "value": n, "timestamp": 10 + n, "step": n} for n in range(20)],
        "params": [{"key": "p", "value": "1"}],
        "tags": [{"key": "t", "value": "x"}],
    }
    for _ in range(3):
        assert await rest.post("runs/log-batch", run_id=run_id, **batch) == {}
        history = await rest.get("metrics/get-history", run_id=run_id, metric_key="m")
        assert [item["value"] for item in history["metrics"]] == list(range(20))
    async with Client(rest.tracker) as client:
        (series,) = (await client.series(run_id, "m")).series
        assert sum(series.counts) == 20


async def test_many_clients_log_into_one_run_and_nothing_is_lost(rest: Rest) -> None:
    run_id = await rest.run()

    async def log(worker: int) -> None:
        for step in range(10):
            metrics = [{"key": key, "value": step, "timestamp": worker, "step": step} for key in ("b", "a")]
            params = [{"key": f"p{worker}", "value": "1"}] if step == 0 else []
            await rest.post("runs/log-batch", run_id=run_id, metrics=metrics, params=params)

    await asyncio.gather(*(log(worker) for worker in range(8)))
    run = (await rest.get("runs/get", run_id=run_id))["run"]
    assert len(run["data"]["params"]) == 8
    assert {(item["key"], item["value"], item["timestamp"]) for item in run["data"]["metrics"]} == {
        ("a", 9.0, 7), ("b", 9.0, 7),
    }  # fmt: skip
    for key in ("a", "b"):
        history = await rest.get("metrics/get-history", run_id=run_id, metric_key=key)
        assert len(history["metrics"]) == 80


async def test_a_run_has_so_many_metrics_and_no_more(rest: Rest) -> None:
    run_id = await rest.run()
    async with Client(rest.tracker) as client:
        await client.postgres.execute(
            "INSERT INTO summaries (team, run_uid, key, last, last_step, count)"
            " SELECT 'main', $1, 'k' || n, 1, 1, 1 FROM generate_series(1, 100001) AS n",
            run_id,
        )
    params = [{"key": "p", "value": "1"}]
    metrics = [{"key": "m", "value": 1, "timestamp": 1}]
    for given in ({"metrics": metrics}, {"metrics": metrics, "params": params}):
        code, message = await rest.refusal("runs/log-batch", run_id=run_id, **given)
        assert (code, "at most 100,000 metrics" in message) == ("INVALID_PARAMETER_VALUE", True)
    async with Client(rest.tracker) as client:
        await client.postgres.execute("DELETE FROM summaries WHERE run_uid = $1", run_id)
    assert "params" not in (await rest.get("runs/get", run_id=run_id))["run"]["data"]


async def test_a_param_stays_what_it_was(rest: Rest) -> None:
    run_id = await rest.run()
    await rest.post("runs/log-parameter", run_id=run_id, key="p", value="1")
    await rest.post("runs/log-parameter", run_id=run_id, key="p", value="1")
    code, message = await rest.refusal("runs/log-parameter", run_id=run_id, key="p", value="2")
    assert code == "INVALID_PARAMETER_VALUE"
    assert message == (
        f"Changing param values is not allowed. Param with key='p' was already logged with value='1' for run "
        f"ID='{run_id}'. Attempted logging new value '2'."
    )
    # All or nothing.
    pairs = [{"key": "new", "value": "1"}, {"key": "p", "value": "2"}]
    await rest.refusal("runs/log-batch", run_id=run_id, params=pairs)
    run = (await rest.get("runs/get", run_id=run_id))["run"]
    assert run["data"]["params"] == [{"key": "p", "value": "1"}]


async def test_a_deleted_run_is_changed_no_more_and_comes_back_whole(rest: Rest) -> None:
    experiment = await rest.experiment()
    run_id = await rest.run(experiment)
    await rest.post("runs/log-metric", run_id=run_id, key="m", value=1, timestamp=1)
    await rest.post("runs/update", run_id=run_id, status="FINISHED", end_time=1_700_000_000_000)
    await rest.post("runs/delete", run_id=run_id)
    for path, given in (
        ("runs/log-metric", {"key": "m", "value": 2, "timestamp": 2}),
        ("runs/log-parameter", {"key": "p", "value": "1"}),
        ("runs/set-tag", {"key": "p", "value": "1"}),
        ("runs/update", {"status": "RUNNING"}),
        ("runs/log-inputs", {"datasets": []}),
    ):
        code, message = await rest.refusal(path, run_id=run_id, **given)
        assert code == "INVALID_PARAMETER_VALUE"
        assert message == f"The run {run_id} must be in the 'active' state. Current state is deleted."
    counts = {
        view: len(
            (await rest.post("runs/search", experiment_ids=[experiment], run_view_type=view)).get("runs", ())
        )
        for view in ("ACTIVE_ONLY", "DELETED_ONLY", "ALL")
    }
    assert counts == {"ACTIVE_ONLY": 0, "DELETED_ONLY": 1, "ALL": 1}
    async with Client(rest.tracker) as client:
        listed = await client.runs.ListRuns(
            tracker_pb2.ListRunsRequest(parent="teams/main", filter=f'id == "{run_id}"')
        )
        assert not listed.runs
    await rest.post("runs/restore", run_id=run_id)
    run = (await rest.get("runs/get", run_id=run_id))["run"]
    assert (run["info"]["status"], run["info"]["end_time"]) == ("FINISHED", 1_700_000_000_000)
    assert run["data"]["metrics"][0]["value"] == 1.0


async def test_runs_are_searched_by_what_they_logged(rest: Rest) -> None:
    experiment = await rest.experiment()
    runs = []
    for number in range(4):
        run_id = await rest.run(experiment, run_name=f"r{number}", start_time=1_000_000 + number)
        metrics = [{"key": "acc b/c", "value": number / 10, "timestamp": 1}]
        if number == 3:
            metrics = [{"key": "acc b/c", "value": "NaN", "timestamp": 1}]
        tags = [{"key": "un.x y", "value": "Ünï%"}] if number == 1 else []
        params = [{"key": "model", "value": f"ResNet{number}"}]
        await rest.post("runs/log-batch", run_id=run_id, metrics=metrics, params=params, tags=tags)
        runs.append(run_id)
    dataset = {"name": "mnist", "digest": "d1", "source_type": "local", "source": "s", "schema": "{}"}
    context = [{"key": "mlflow.data.context", "value": "train"}]
    for _ in range(2):
        await rest.post("runs/log-inputs", run_id=runs[2], datasets=[{"dataset": dataset, "tags": context}])

    async def found(filter: str = "", **given: Any) -> str:
        answer = await rest.post("runs/search", experiment_ids=[experiment], filter=filter, **given)
        return "".join(str(runs.index(item["info"]["run_id"])) for item in answer.get("runs", ()))

    assert await found() == "3210"
    assert await found("metrics.`acc b/c` > 0") == "21"
    assert await found("metrics.`acc b/c` != 0.1") == "320"
    assert await found("params.model LIKE 'resnet%'") == ""
    assert await found("params.model ILIKE 'resnet%' AND params.model != 'ResNet0'") == "321"
    assert await found("tags.`un.x y` = 'Ünï%'") == "1"
    assert await found("tags.`un.x y` IS NULL") == "320"
    assert await found(f"run_id IN ('{runs[0]}', '{runs[3]}')") == "30"
    assert await found("run_name = 'r2' AND status = 'RUNNING'") == "2"
    assert await found("start_time >= 1000002") == "32"
    assert await found("datasets.name = 'mnist' AND dataset.context = 'train'") == "2"
    assert await found("datasets.digest = 'other'") == ""
    assert await found(order_by=["metrics.`acc b/c` DESC"]) == "2103"
    assert await found(order_by=["params.model ASC"]) == "0123"
    assert await found(order_by=["tags.`un.x y`", "start_time ASC"]) == "1023"
    assert await found(max_results=3) == "321"
    inputs = (await rest.get("runs/get", run_id=runs[2]))["run"]["inputs"]["dataset_inputs"]
    assert inputs == [{"tags": context, "dataset": dataset}]


async def test_a_runs_token_is_good_for_its_run_alone(rest: Rest) -> None:
    experiment = await rest.experiment()
    run_id, other = await rest.run(experiment), await rest.run(experiment)
    own = rest.as_run(run_id)
    await own.post("runs/log-metric", run_id=run_id, key="m", value=1, timestamp=1)
    await own.post("runs/update", run_id=run_id, status="FINISHED")
    assert (await own.get("runs/get", run_id=run_id))["run"]["info"]["status"] == "FINISHED"
    assert (await own.get("metrics/get-history", run_id=run_id, metric_key="m"))["metrics"]
    for path, given in (
        ("runs/log-metric", {"key": "m", "value": 1, "timestamp": 1}),
        ("runs/set-tag", {"key": "m", "value": "1"}),
        ("runs/update", {"status": "FAILED"}),
        ("runs/log-inputs", {"datasets": []}),
    ):
        code, message = await own.refusal(path, run_id=other, **given)
        assert (code, message) == ("RESOURCE_DOES_NOT_EXIST", f"Run with id={other} not found")
    for path, given in (
        ("runs/delete", {"run_id": run_id}),
        ("runs/search", {"experiment_ids": [experiment]}),
        ("runs/create", {"experiment_id": experiment}),
        ("experiments/create", {"name": "x"}),
    ):
        assert (await own.refusal(path, **given))[0] == "PERMISSION_DENIED"
    tree = "/mlflow/api/2.0/mlflow-artifacts/artifacts"
    for uid, status in ((run_id, 200), (other, 404)):
        url = f"{tree}/{experiment}/{uid}/artifacts/f"
        for method in ("PUT", "GET", "DELETE"):
            answer = await rest.http.request(method, url, headers=bearer(own.token))
            assert answer.status_code == status


async def test_who_may_only_look_changes_nothing_and_strangers_see_nothing(rest: Rest) -> None:
    run_id = await rest.run()
    viewer, stranger = replace(rest, token=VIEWER), replace(rest, token=STRANGER)
    assert (await viewer.get("runs/get", run_id=run_id))["run"]["info"]["run_id"] == run_id
    code, _ = await viewer.refusal("runs/log-metric", run_id=run_id, key="m", value=1, timestamp=1)
    assert code == "PERMISSION_DENIED"
    theirs = await stranger.refusal("runs/get", method="GET", run_id=run_id)
    assert theirs == ("RESOURCE_DOES_NOT_EXIST", f"Run with id={run_id} not found")
    headers = {**bearer(STRANGER), "X-MLFLOW-WORKSPACE": "main"}
    answer = await rest.http.get("/mlflow/api/2.0/mlflow/experiments/get?experiment_id=0", headers=headers)
    assert (answer.status_code, answer.json()["message"]) == (404, "Workspace 'main' not found")
    experiment = (await stranger.get("experiments/get", experiment_id="0"))["experiment"]
    assert experiment["name"] == "Default"
