"""What MLflow's clients can search runs and experiments for."""

from __future__ import annotations

from typing import Final

from cairn_tracker.mlflow.grammar import LISTED, NULL, NUMERIC, TEXTUAL, Vocabulary

RUNS: Final = Vocabulary(
    entities={
        "metric": "metric", "metrics": "metric",
        "parameter": "parameter", "parameters": "parameter", "param": "parameter", "params": "parameter",
        "tag": "tag", "tags": "tag",
        "attribute": "attribute", "attributes": "attribute", "attr": "attribute", "run": "attribute",
        "dataset": "dataset", "datasets": "dataset",
    },
    comparators={
        "metric": NUMERIC, "parameter": TEXTUAL | NULL, "tag": TEXTUAL | NULL,
        "attribute": TEXTUAL | LISTED, "dataset": TEXTUAL | LISTED,
    },
    attributes={
        "run_id": "text", "run_name": "text", "status": "text", "user_id": "text", "artifact_uri": "text",
        "start_time": "number", "end_time": "number",
    },
    closed={"dataset": {"name", "digest", "context"}},
    lists=frozenset({"run_id", "dataset"}),
    aliases={
        "created": "start_time", "Created": "start_time",
        "run name": "run_name", "Run name": "run_name", "Run Name": "run_name",
    },
)  # fmt: skip
"""Of runs."""

EXPERIMENTS: Final = Vocabulary(
    entities={"attribute": "attribute", "tag": "tag", "tags": "tag"},
    comparators={"attribute": TEXTUAL | LISTED, "tag": TEXTUAL | NULL},
    attributes={
        "name": "text", "experiment_id": "text", "creation_time": "number", "last_update_time": "number",
    },
    lists=frozenset({"experiment_id"}),
)  # fmt: skip
"""Of experiments."""
