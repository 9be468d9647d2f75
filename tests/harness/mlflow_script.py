"""What somebody does with MLflow in a day, with nothing of Cairn's in it: run by a stock client's own Python.

Everything is checked here, as its user would see it; at the end the ids are printed, for whoever looks from
the other side.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression


def main(mark: str) -> None:
    """Logs, searches, trains and promotes under names with `mark` in them."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    experiment = mlflow.set_experiment(f"Stock {mark}").experiment_id
    by_hand = log_by_hand()
    search(experiment, by_hand)
    trained, model = train()
    promote(f"stock-{mark}", model)
    print(json.dumps({"by_hand": by_hand, "trained": trained, "model": model}))


def log_by_hand() -> str:
    """A run with metrics, params, tags and files; its id."""
    client = MlflowClient()
    with mlflow.start_run(run_name="by hand", tags={"team": "vision"}) as run:
        run_id = run.info.run_id
        mlflow.log_params({"lr": 0.1, "opt": "adam"})
        for step in range(10):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metrics({"acc": 0.5, "broken/nan": math.nan})
        # Read at once what was written.
        assert client.get_run(run_id).data.metrics["loss"] == 0.1
        assert [point.step for point in client.get_metric_history(run_id, "loss")] == list(range(10))
        mlflow.log_text("a note", "notes/ünï cödé.txt")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "inner").mkdir()
            # In three parts, where the client sends in parts.
            (Path(folder) / "inner" / "weights.bin").write_bytes(os.urandom(11_000_000))
            (Path(folder) / "empty").write_bytes(b"")
            mlflow.log_artifacts(folder, "files")
            sent = (Path(folder) / "inner" / "weights.bin").read_bytes()
        with mlflow.start_run(nested=True):
            mlflow.log_metric("child", 1)
    fetched = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="files"))
    assert (fetched / "inner" / "weights.bin").read_bytes() == sent
    assert (fetched / "empty").read_bytes() == b""
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/ünï cödé.txt") == "a note"
    assert {item.path for item in client.list_artifacts(run_id)} == {"notes", "files"}
    assert refusal(client, run_id) == "INVALID_PARAMETER_VALUE"
    ended = client.get_run(run_id)
    assert (ended.info.status, ended.data.tags["team"]) == ("FINISHED", "vision")
    assert math.isnan(ended.data.metrics["broken/nan"])
    return run_id


def refusal(client: MlflowClient, run_id: str) -> str:
    """The error code of an attempt to change a param."""
    try:
        client.log_param(run_id, "lr", "other")
    except mlflow.MlflowException as error:
        return str(error.error_code)
    return "none"


def search(experiment: str, run_id: str) -> None:
    """Finds the run by what it logged."""
    client = MlflowClient()
    for wanted in (
        "metrics.acc >= 0.5 AND params.opt = 'adam'",
        "tags.team LIKE 'vis%' AND attributes.status = 'FINISHED'",
        "metrics.loss < 0.2",
        f"attributes.run_id IN ('{run_id}')",
    ):
        found = client.search_runs([experiment], wanted, order_by=["metrics.loss ASC"])
        assert [run.info.run_id for run in found] == [run_id], wanted
    pages = client.search_runs([experiment], max_results=1)
    assert len(pages) == 1
    assert len(client.search_runs([experiment], max_results=1, page_token=pages.token)) == 1


def train() -> tuple[str, str]:
    """A training that MLflow logs by itself; the ids of run and model."""
    mlflow.sklearn.autolog(log_input_examples=False)
    chance = np.random.default_rng(0)
    with mlflow.start_run() as run:
        LogisticRegression().fit(chance.random((50, 3)), chance.integers(0, 2, 50))
    known = MlflowClient().get_run(run.info.run_id)
    assert "training_accuracy_score" in known.data.metrics
    assert known.data.params["penalty"]
    assert [item.dataset.name for item in known.inputs.dataset_inputs] == ["dataset"]
    (output,) = known.outputs.model_outputs
    assert mlflow.sklearn.load_model(f"models:/{output.model_id}").predict(np.zeros((1, 3))).shape == (1,)
    return run.info.run_id, output.model_id


def promote(name: str, model: str) -> None:
    """Registers the model, and loads it by an alias."""
    client = MlflowClient()
    version = mlflow.register_model(f"models:/{model}", name)
    client.set_registered_model_alias(name, "champion", version.version)
    assert client.get_model_version_by_alias(name, "champion").version == version.version
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    assert loaded.predict(np.zeros((2, 3))).shape == (2,)
    client.set_model_version_tag(name, version.version, "checked", "yes")
    (found,) = client.search_model_versions(f"name = '{name}' AND tags.checked = 'yes'")
    assert (found.version, found.source) == (version.version, f"models:/{model}")
    copied = client.copy_model_version(f"models:/{name}@champion", f"{name} live")
    assert {item.name for item in client.search_registered_models(f"name LIKE '{name}%'")} == {
        name,
        copied.name,
    }
    # What was registered stays, whatever becomes of the run and of what it logged.
    client.delete_logged_model(model)
    assert mlflow.pyfunc.load_model(f"models:/{name} live/1").predict(np.zeros((2, 3))).shape == (2,)


if __name__ == "__main__":
    main(sys.argv[1])
