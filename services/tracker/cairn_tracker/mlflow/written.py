"""Runs as MLflow's JSON has them, written at once: a page of them passes no other shape on its way. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic_core import to_json

from cairn_tracker.model import Json, RunState
from cairn_tracker.store.mlflow_runs import Input, MlflowRun, ModelUse

STATUS: Final[Mapping[RunState, str]] = {
    RunState.PENDING: "SCHEDULED",
    RunState.RUNNING: "RUNNING",
    RunState.SUCCEEDED: "FINISHED",
    RunState.FAILED: "FAILED",
    RunState.CANCELLED: "KILLED",
    RunState.RECOVERING: "RUNNING",
    RunState.TIMED_OUT: "FAILED",
}
ASSIGNED: Final = (
    RunState.PENDING, RunState.RUNNING, RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED,
)  # fmt: skip
"""States that a client can name; the others are told as one of these."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def run(value: MlflowRun) -> bytes:
    """A run whose metrics are written; lists that are empty are left out, as MLflow's server does."""
    data = [f'"metrics":[{value.metrics}]'] if value.metrics else []
    params = {key: text_of(item) for key, item in value.params.items()}
    for name, texts in (("params", params), ("tags", value.labels)):
        if texts:
            pairs = to_json([{"key": key, "value": text} for key, text in texts.items()])
            data.append(f'"{name}":{pairs.decode()}')
    return (
        f'{{"info":{to_json(_info(value)).decode()},"data":{{{",".join(data)}}},'
        f'"inputs":{_inputs(value)},"outputs":{_outputs(value.models)}}}'
    ).encode()


def text_of(value: Json) -> str:
    """A param as a text, as Python would write it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        return json.dumps(value)
    return str(value)


def millis(time: datetime) -> int:
    """Milliseconds since 1970."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _info(value: MlflowRun) -> dict[str, Any]:
    return {
        "run_id": value.uid,
        "run_uuid": value.uid,
        "run_name": value.display_name,
        "experiment_id": str(value.experiment),
        "user_id": value.user_id,
        "status": STATUS[value.state],
        "start_time": millis(value.start_time),
        **({} if value.end_time is None else {"end_time": millis(value.end_time)}),
        "artifact_uri": f"mlflow-artifacts:/{value.experiment}/{value.uid}/artifacts",
        "lifecycle_stage": "active" if value.delete_time is None else "deleted",
    }


def _inputs(value: MlflowRun) -> str:
    told: dict[str, Any] = {}
    if value.inputs:
        told["dataset_inputs"] = [_described(item) for item in value.inputs]
    read = [{"model_id": item.model_id} for item in value.models if not item.made]
    if read:
        told["model_inputs"] = read
    return to_json(told).decode() if told else "{}"


def _outputs(models: Sequence[ModelUse]) -> str:
    made = [{"model_id": item.model_id, "step": item.step} for item in models if item.made]
    return to_json({"model_outputs": made}).decode() if made else "{}"


def _described(value: Input) -> dict[str, Any]:
    data = value.dataset
    dataset = {
        "name": data.name,
        "digest": data.digest,
        "source_type": data.source_type,
        "source": data.source,
        **({"schema": data.schema} if data.schema else {}),
        **({"profile": data.profile} if data.profile else {}),
    }
    tags = [{"key": key, "value": text} for key, text in sorted(value.labels.items())]
    return {**({"tags": tags} if tags else {}), "dataset": dataset}
