"""Routes of experiments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cairn.tracker.v1 import mlflow_pb2 as pb
from cairn_common.auth import Role
from cairn_gateway.mlflow import pages
from cairn_gateway.mlflow.checks import check_tag
from cairn_gateway.mlflow.errors import invalid
from cairn_gateway.mlflow.fields import Fields
from cairn_gateway.mlflow.route import Asked, Route, of_runs
from cairn_gateway.wire import Json

_LONGEST_TAG: Final = 20_000
VIEWS: Final[Mapping[Any, pb.MlflowView.ValueType]] = {
    "ACTIVE_ONLY": pb.MLFLOW_VIEW_UNSPECIFIED,
    "DELETED_ONLY": pb.MLFLOW_VIEW_DELETED,
    "ALL": pb.MLFLOW_VIEW_ALL,
    1: pb.MLFLOW_VIEW_UNSPECIFIED,
    2: pb.MLFLOW_VIEW_DELETED,
    3: pb.MLFLOW_VIEW_ALL,
}


def view_of(fields: Fields, name: str) -> pb.MlflowView.ValueType:
    """What a search shows. Raises MlflowError for a view that is none."""
    value = fields.values.get(name)
    if value is None:
        return pb.MLFLOW_VIEW_UNSPECIFIED
    known = VIEWS.get(int(value) if isinstance(value, str) and value.isdecimal() else _hashable(value))
    if known is None:
        raise invalid(f"{name}: {str(value)[:40]!r} is none of ACTIVE_ONLY, DELETED_ONLY, ALL")
    return known


async def create(asked: Asked) -> Json:
    """experiments/create"""
    name = asked.fields.text("name", required=True)
    # Files are kept where all of Cairn's are, wherever somebody would have them.
    if any(mark in asked.fields.text("artifact_location") for mark in "#;"):
        raise invalid("'artifact_location' URL can't include fragments or params.")
    tags = dict(asked.fields.pairs("tags"))
    for key, value in tags.items():
        check_tag("", key, value, longest=_LONGEST_TAG)
    request = pb.CreateMlflowExperimentRequest(parent=asked.parent, name=name, tags=tags)
    made = await asked.call("MlflowService/CreateMlflowExperiment", request, pb.MlflowExperiment)
    return {"experiment_id": made.experiment_id}


async def get(asked: Asked) -> Json:
    """experiments/get"""
    id = asked.fields.text("experiment_id", required=True)
    return {"experiment": experiment(await _get(asked, experiment_id=id))}


async def get_by_name(asked: Asked) -> Json:
    """experiments/get-by-name"""
    name = asked.fields.text("experiment_name", required=True)
    return {"experiment": experiment(await _get(asked, name=name))}


async def search(asked: Asked) -> Json:
    """experiments/search"""
    fields = asked.fields
    limit = pages.max_results(fields, None)
    offset = pages.offset_of(fields)
    request = pb.SearchMlflowExperimentsRequest(
        parent=asked.parent,
        filter=fields.text("filter"),
        order_by=fields.text_items("order_by"),
        view=view_of(fields, "view_type"),
        offset=offset,
        limit=limit,
    )
    found = await asked.call(
        "MlflowService/SearchMlflowExperiments", request, pb.SearchMlflowExperimentsResponse
    )
    answer: dict[str, Any] = {}
    if found.experiments:
        answer["experiments"] = [experiment(item) for item in found.experiments]
    if found.more:
        answer["next_page_token"] = pages.token_at(offset + len(found.experiments))
    return answer


async def update(asked: Asked) -> Json:
    """experiments/update"""
    id = asked.fields.text("experiment_id", required=True)
    return await _change(asked, id, name=asked.fields.text("new_name", required=True))


async def delete(asked: Asked) -> Json:
    """experiments/delete"""
    return await _change(asked, asked.fields.text("experiment_id", required=True), deleted=True)


async def restore(asked: Asked) -> Json:
    """experiments/restore"""
    return await _change(asked, asked.fields.text("experiment_id", required=True), deleted=False)


async def set_tag(asked: Asked) -> Json:
    """experiments/set-experiment-tag"""
    id = asked.fields.text("experiment_id", required=True)
    key, value = asked.fields.text("key", required=True), asked.fields.text("value")
    check_tag("", key, value, longest=_LONGEST_TAG)
    return await _change(asked, id, set_tags={key: value})


async def delete_tag(asked: Asked) -> Json:
    """experiments/delete-experiment-tag"""
    id = asked.fields.text("experiment_id", required=True)
    return await _change(asked, id, delete_tags=[asked.fields.text("key", required=True)])


def experiment(value: pb.MlflowExperiment) -> Json:
    """An experiment as MLflow's JSON has it."""
    return {
        "experiment_id": value.experiment_id,
        "name": value.name,
        "artifact_location": f"mlflow-artifacts:/{value.experiment_id}",
        "lifecycle_stage": stage(value.deleted),
        "creation_time": value.creation_time,
        "last_update_time": value.last_update_time,
        **({"tags": pairs(value.tags)} if value.tags else {}),
    }


def pairs(texts: Mapping[str, str]) -> Json:
    """Texts by key as MLflow's JSON has them."""
    return [{"key": key, "value": value} for key, value in sorted(texts.items())]


def stage(deleted: bool) -> str:
    """MLflow's word for what is there, or was deleted."""
    return "deleted" if deleted else "active"


async def _get(asked: Asked, **which: str) -> pb.MlflowExperiment:
    request = pb.GetMlflowExperimentRequest(parent=asked.parent, **which)
    return await asked.call("MlflowService/GetMlflowExperiment", request, pb.MlflowExperiment)


async def _change(asked: Asked, id: str, **fields: Any) -> Json:
    request = pb.UpdateMlflowExperimentRequest(parent=asked.parent, experiment_id=id, **fields)
    await asked.call("MlflowService/UpdateMlflowExperiment", request, pb.MlflowExperiment)
    return {}


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


ROUTES: Final[tuple[Route, ...]] = (
    of_runs("POST", "experiments/create", Role.MEMBER, create),
    of_runs("GET", "experiments/get", Role.VIEWER, get, run_token=True),
    of_runs("GET", "experiments/get-by-name", Role.VIEWER, get_by_name, run_token=True),
    of_runs("GET", "experiments/search", Role.VIEWER, search),
    of_runs("POST", "experiments/search", Role.VIEWER, search),
    of_runs("POST", "experiments/update", Role.MEMBER, update),
    of_runs("POST", "experiments/delete", Role.MEMBER, delete),
    of_runs("POST", "experiments/restore", Role.MEMBER, restore),
    of_runs("POST", "experiments/set-experiment-tag", Role.MEMBER, set_tag),
    of_runs("POST", "experiments/delete-experiment-tag", Role.MEMBER, delete_tag),
)
