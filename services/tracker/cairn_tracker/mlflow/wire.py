"""Experiments and runs as the protos for MLflow's clients have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cairn.tracker.v1 import mlflow_pb2 as pb
from cairn_common.errors import InvalidArgument
from cairn_tracker.mlflow import written
from cairn_tracker.store.mlflow_experiments import Experiment
from cairn_tracker.store.mlflow_runs import Dataset, Input, MlflowRun, ModelUse

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MILLIS: Final = 253_402_300_799_999
STATUSES: Final = {written.STATUS[state]: state for state in written.ASSIGNED}


def experiment(team: str, value: Experiment) -> pb.MlflowExperiment:
    """An experiment, whole."""
    return pb.MlflowExperiment(
        experiment_id=str(value.number),
        name=value.name,
        deleted=value.delete_time is not None,
        creation_time=written.millis(value.create_time),
        last_update_time=written.millis(value.update_time),
        tags=value.labels,
        experiment=f"teams/{team}/experiments/{value.id}",
    )


def run(value: MlflowRun, *, as_json: bool = False) -> pb.MlflowRun:
    """A run, whole."""
    if as_json:
        return pb.MlflowRun(json=written.run(value))
    return pb.MlflowRun(
        run_id=value.uid,
        run_name=value.display_name,
        experiment_id=str(value.experiment),
        user_id=value.user_id,
        status=written.STATUS[value.state],
        start_time=written.millis(value.start_time),
        end_time=None if value.end_time is None else written.millis(value.end_time),
        deleted=value.delete_time is not None,
        metric_keys=value.keys,
        metric_values=[finite(point) for point in value.points],
        metric_times=value.times,
        metric_steps=value.steps,
        param_keys=list(value.params),
        param_values=[written.text_of(item) for item in value.params.values()],
        tag_keys=list(value.labels),
        tag_values=list(value.labels.values()),
        datasets=[_input(item) for item in value.inputs],
        model_inputs=_uses(value.models, made=False),
        model_outputs=_uses(value.models, made=True),
    )


def inputs(given: Sequence[pb.MlflowDatasetInput]) -> list[Input]:
    """Datasets that a run read."""
    return [
        Input(
            Dataset(
                name=item.dataset.name,
                digest=item.dataset.digest,
                source_type=item.dataset.source_type,
                source=item.dataset.source,
                schema=item.dataset.schema,
                profile=item.dataset.profile,
            ),
            dict(item.tags),
        )
        for item in given
    ]


def moment(millis: int, field: str) -> datetime:
    """The time of so many milliseconds since 1970. Raises InvalidArgument for one that no calendar has."""
    if not -_LAST_MILLIS // 4 <= millis <= _LAST_MILLIS:
        raise InvalidArgument(
            f"{field}: {millis} milliseconds since 1970 are in no year of ours", field=field
        )
    return _EPOCH + timedelta(milliseconds=millis)


def finite(value: float) -> float:
    """As MLflow keeps infinities: the greatest number there is, and the least."""
    return math.copysign(1.7976931348623157e308, value) if math.isinf(value) else value


def _input(value: Input) -> pb.MlflowDatasetInput:
    data = value.dataset
    return pb.MlflowDatasetInput(
        dataset=pb.MlflowDataset(
            name=data.name,
            digest=data.digest,
            source_type=data.source_type,
            source=data.source,
            schema=data.schema,
            profile=data.profile,
        ),
        tags=value.labels,
    )


def _uses(models: Sequence[ModelUse], *, made: bool) -> list[pb.MlflowModelUse]:
    return [pb.MlflowModelUse(model_id=item.model_id, step=item.step) for item in models if item.made is made]
