"""Models that runs logged, in MLflow's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cairn.tracker.v1 import logged_model_pb2 as pb
from cairn_common.auth import Role
from cairn_gateway.mlflow.errors import invalid
from cairn_gateway.mlflow.fields import Fields, missing_value
from cairn_gateway.mlflow.registry import millis, tags
from cairn_gateway.mlflow.route import Asked, Route, empty, of_runs
from cairn_gateway.wire import Json

Model = pb.LoggedModel

_STATUSES: Final = {
    Model.PENDING: "LOGGED_MODEL_PENDING",
    Model.READY: "LOGGED_MODEL_READY",
    Model.UPLOAD_FAILED: "LOGGED_MODEL_UPLOAD_FAILED",
}
_MOST: Final = 1_000
_USUAL: Final = 100


async def create(asked: Asked) -> Json:
    """A new model, which waits for its files."""
    fields = asked.fields
    request = pb.CreateLoggedModelRequest(
        parent=asked.parent,
        logged_model=Model(
            experiment_id=fields.text("experiment_id", required=True),
            display_name=fields.text("name"),
            model_type=fields.text("model_type"),
            source_run_id=fields.text("source_run_id"),
            params=dict(fields.pairs("params")),
            tags=dict(fields.pairs("tags")),
        ),
    )
    return {"model": model(await asked.call("LoggedModelService/CreateLoggedModel", request, Model))}


async def get(asked: Asked) -> Json:
    """A model by its id."""
    request = pb.GetLoggedModelRequest(
        parent=asked.parent, model_id=_id(asked), allow_deleted=asked.fields.flag("allow_deleted")
    )
    return {"model": model(await asked.call("LoggedModelService/GetLoggedModel", request, Model))}


async def finalize(asked: Asked) -> Json:
    """Says how the upload of a model's files ended."""
    return {"model": model(await _change(asked, status=_status(asked.fields)))}


async def delete(asked: Asked) -> Json:
    """Takes a model out of sight."""
    request = pb.DeleteLoggedModelRequest(parent=asked.parent, model_id=_id(asked))
    await asked.call("LoggedModelService/DeleteLoggedModel", request, Model)
    return empty()


async def set_tags(asked: Asked) -> Json:
    """Sets tags of a model."""
    await _change(asked, set_tags=dict(asked.fields.pairs("tags")))
    return empty()


async def delete_tag(asked: Asked) -> Json:
    """Takes a tag from a model. One that it has not is RESOURCE_DOES_NOT_EXIST."""
    await _change(asked, remove_tags=[asked.request.path_params["tag_key"]])
    return empty()


async def log_params(asked: Asked) -> Json:
    """Adds params to a model."""
    await _change(asked, add_params=dict(asked.fields.pairs("params")))
    return empty()


async def search(asked: Asked) -> Json:
    """Models that a filter holds for."""
    fields = asked.fields
    experiments = fields.text_items("experiment_ids")
    if not experiments:
        raise missing_value("experiment_ids")
    size = fields.whole("max_results")
    request = pb.SearchLoggedModelsRequest(
        parent=asked.parent,
        experiment_ids=experiments,
        filter=fields.text("filter"),
        datasets=[
            pb.SearchLoggedModelsRequest.Dataset(
                name=one.text("dataset_name"), digest=one.text("dataset_digest")
            )
            for one in fields.objects("datasets")
        ],
        order_by=[_order(one) for one in fields.objects("order_by")],
        page_size=min(size, _MOST) if size and size > 0 else _USUAL,
        page_token=fields.text("page_token"),
    )
    found = await asked.call("LoggedModelService/SearchLoggedModels", request, pb.SearchLoggedModelsResponse)
    made: dict[str, Any] = {"models": [model(one) for one in found.models]} if found.models else {}
    return made | ({"next_page_token": found.next_page_token} if found.next_page_token else {})


async def measure(asked: Asked, run_id: str, metrics: Sequence[Any]) -> None:
    """Notes those metrics of a run that it measured of logged models; the fields were checked for the run."""
    found = [Fields(item) for item in metrics if isinstance(item, dict) and item.get("model_id")]
    if not found:
        return
    request = pb.LogModelMetricsRequest(
        parent=asked.parent,
        metrics=[
            pb.ModelMetric(
                model_id=one.text("model_id"),
                key=one.text("key", required=True),
                value=one.number("value"),
                timestamp=one.whole("timestamp") or 0,
                step=one.whole("step") or 0,
                run_id=run_id,
                dataset_name=one.text("dataset_name"),
                dataset_digest=one.text("dataset_digest"),
            )
            for one in found
        ],
    )
    await asked.call("LoggedModelService/LogModelMetrics", request, pb.LogModelMetricsResponse)


def model(value: Model) -> dict[str, Any]:
    """A logged model as MLflow's clients read it."""
    info: dict[str, Any] = {
        "model_id": value.model_id,
        "experiment_id": value.experiment_id,
        "name": value.display_name,
        "creation_timestamp_ms": millis(value.create_time),
        "last_updated_timestamp_ms": millis(value.update_time),
        "artifact_uri": value.location,
        "status": _STATUSES[value.status],
        "model_type": value.model_type,
        "source_run_id": value.source_run_id,
    }
    if value.tags:
        info["tags"] = tags(value.tags)
    data: dict[str, Any] = {"params": tags(value.params)} if value.params else {}
    if value.metrics:
        data["metrics"] = [_metric(value.model_id, one) for one in value.metrics]
    return {"info": info, "data": data}


def _metric(model_id: str, value: pb.ModelMetric) -> dict[str, Any]:
    made: dict[str, Any] = {
        "key": value.key,
        "value": value.value,
        "timestamp": value.timestamp,
        "step": value.step,
        "model_id": model_id,
        "run_id": value.run_id,
    }
    if value.dataset_name:
        made |= {"dataset_name": value.dataset_name, "dataset_digest": value.dataset_digest}
    return made


async def _change(asked: Asked, **fields: Any) -> Model:
    request = pb.UpdateLoggedModelRequest(parent=asked.parent, model_id=_id(asked), **fields)
    return await asked.call("LoggedModelService/UpdateLoggedModel", request, Model)


def _id(asked: Asked) -> str:
    model_id: str = asked.request.path_params["model_id"]
    return model_id


def _status(fields: Fields) -> Model.Status.ValueType:
    """By name or by number, as protobuf's JSON has enums."""
    given = fields.values.get("status")
    for number, name in _STATUSES.items():
        if given in (name, number, str(int(number))) and not isinstance(given, bool):
            return number
    if given is None:
        raise missing_value("status")
    raise invalid(f"Unknown model status: {str(given)[:80]}")


def _order(fields: Fields) -> pb.SearchLoggedModelsRequest.Order:
    ascending = fields.values.get("ascending")
    return pb.SearchLoggedModelsRequest.Order(
        field_name=fields.text("field_name", required=True),
        # Of itself: what is least comes first.
        descending=ascending is not None and not fields.flag("ascending"),
        dataset_name=fields.text("dataset_name"),
        dataset_digest=fields.text("dataset_digest"),
    )


_ONE: Final = "logged-models/{model_id}"
ROUTES: Final[tuple[Route, ...]] = (
    of_runs("POST", "logged-models", Role.MEMBER, create, run_token=True),
    of_runs("POST", "logged-models/search", Role.VIEWER, search, run_token=True),
    of_runs("GET", _ONE, Role.VIEWER, get, run_token=True),
    of_runs("PATCH", _ONE, Role.MEMBER, finalize, run_token=True),
    of_runs("DELETE", _ONE, Role.MEMBER, delete),
    of_runs("PATCH", f"{_ONE}/tags", Role.MEMBER, set_tags, run_token=True),
    of_runs("DELETE", f"{_ONE}/tags/{{tag_key:path}}", Role.MEMBER, delete_tag, run_token=True),
    of_runs("POST", f"{_ONE}/params", Role.MEMBER, log_params, run_token=True),
)
