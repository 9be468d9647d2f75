"""Registered and logged models as the protos have them."""

from __future__ import annotations

from cairn.tracker.v1 import logged_model_pb2, registered_model_pb2
from cairn_tracker import model_sources, wire
from cairn_tracker.registration import location
from cairn_tracker.store.logged_models import LoggedModel, Metric
from cairn_tracker.store.registry import ModelVersion, RegisteredModel


def model(value: RegisteredModel) -> registered_model_pb2.RegisteredModel:
    """A registered model as the API has it."""
    return registered_model_pb2.RegisteredModel(
        artifact=f"teams/{value.team}/artifacts/{value.artifact}",
        display_name=value.name,
        description=value.description,
        tags=value.tags,
        aliases=value.aliases,
        create_time=wire.stamp(value.create_time),
        update_time=wire.stamp(value.update_time),
        latest_versions=[version(one) for one in value.latest],
    )


def version(value: ModelVersion) -> registered_model_pb2.ModelVersion:
    """A version of a registered model as the API has it."""
    where = location(value)
    return registered_model_pb2.ModelVersion(
        name=f"teams/{value.team}/artifacts/{value.artifact}/versions/{value.number}",
        model=value.model,
        version=value.number,
        create_time=wire.stamp(value.create_time),
        update_time=wire.stamp(value.update_time),
        description=value.description,
        source=value.source or where,
        location=where,
        run_id=value.run_id,
        run_link=value.run_link,
        model_id=value.model_id,
        stage=value.stage,
        tags=value.tags,
        aliases=value.aliases,
        creator=value.creator,
    )


def logged_model(value: LoggedModel) -> logged_model_pb2.LoggedModel:
    """A logged model as the API has it."""
    return logged_model_pb2.LoggedModel(
        model_id=value.model_id,
        experiment_id=value.experiment_id,
        display_name=value.name,
        model_type=value.model_type,
        source_run_id=value.source_run_id,
        status=logged_model_pb2.LoggedModel.Status.ValueType(value.status),
        params=value.params,
        tags=value.tags,
        metrics=[metric(one) for one in value.metrics],
        location=model_sources.logged_model_files(value.experiment_id, value.model_id),
        create_time=wire.stamp(value.create_time),
        update_time=wire.stamp(value.update_time),
        creator=value.creator,
    )


def metric(value: Metric) -> logged_model_pb2.ModelMetric:
    """A value that was measured of a logged model, as the API has it."""
    return logged_model_pb2.ModelMetric(
        key=value.key,
        value=value.value,
        timestamp=value.timestamp,
        step=value.step,
        run_id=value.run_id,
        dataset_name=value.dataset_name,
        dataset_digest=value.dataset_digest,
    )
