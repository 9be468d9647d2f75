"""A job's script, with nothing of Cairn's in it: it goes on in the run that the environment names, by that
run's token, and logs and registers what it trained. Run by a stock client's own Python."""

from __future__ import annotations

import json
import logging
import sys

import mlflow
import numpy as np
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression


def main(name: str) -> None:
    """Trains, logs the model with its registered name, and loads it back by that name."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    chance = np.random.default_rng(0)
    with mlflow.start_run() as run:
        model = LogisticRegression().fit(chance.random((50, 3)), chance.integers(0, 2, 50))
        mlflow.log_metric("loss", 0.5, step=1)
        info = mlflow.sklearn.log_model(
            model, name="classifier", registered_model_name=name, serialization_format="cloudpickle"
        )
        mlflow.log_metric("acc", 0.9, model_id=info.model_id)
    version = MlflowClient().get_model_version(name, "1")
    assert (version.run_id, version.status) == (run.info.run_id, "READY")
    for uri in (info.model_uri, f"models:/{name}/1"):
        assert mlflow.sklearn.load_model(uri).predict(np.zeros((1, 3))).shape == (1,)
    print(json.dumps({"run": run.info.run_id, "model": info.model_id}))


if __name__ == "__main__":
    main(sys.argv[1])
