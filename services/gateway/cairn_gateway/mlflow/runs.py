"""Routes of runs: what they are, what they read, which of them hold a filter."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic_core import from_json
from starlette.responses import Response

from cairn.tracker.v1 import mlflow_pb2 as pb
from cairn_common.auth import Role
from cairn_gateway.mlflow import pages
from cairn_gateway.mlflow.checks import LONGEST_KEY, LONGEST_TAG, check_length
from cairn_gateway.mlflow.errors import invalid
from cairn_gateway.mlflow.experiments import view_of
from cairn_gateway.mlflow.fields import Fields, as_object, invalid_value, missing_value, wrong_type
from cairn_gateway.mlflow.route import Asked, Route, of_runs
from cairn_gateway.wire import Json

_STATUSES: Final = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_USUAL_PAGE: Final = 1_000
# Of an answer: a page that is larger has a next one.
_PAGE_RUNS: Final = 64 * 1024 * 1024
_MOST_INPUTS: Final = 1_000
_LOGGED_MODELS: Final = "mlflow.log-model.history"


async def create(asked: Asked) -> Json:
    """runs/create"""
    fields = asked.fields
    # Their names may be what they like here, as with MLflow's own server.
    tags = [(key, text[:LONGEST_TAG]) for key, text in fields.pairs("tags")]
    for place, (key, _) in enumerate(tags):
        check_length(f"tags[{place}].key", LONGEST_KEY, key)
    request = pb.CreateMlflowRunRequest(
        parent=asked.parent,
        experiment_id=fields.text("experiment_id") or "0",
        run_name=fields.text("run_name"),
        user_id=fields.text("user_id"),
        start_time=fields.whole("start_time"),
        tags=dict(tags),
        as_json=True,
    )
    made = await asked.call("MlflowService/CreateMlflowRun", request, pb.MlflowRun)
    told = from_json(made.json)
    del told["outputs"]
    return {"run": told}


async def get(asked: Asked) -> Response:
    """runs/get"""
    request = pb.GetMlflowRunRequest(parent=asked.parent, run_id=asked.fields.run_id(), as_json=True)
    found = await asked.call("MlflowService/GetMlflowRun", request, pb.MlflowRun)
    return Response(b'{"run":%b}' % found.json, media_type="application/json")


async def update(asked: Asked) -> Json:
    """runs/update"""
    fields = asked.fields
    run_id = fields.run_id()
    changed = await _change(
        asked,
        run_id,
        end_time=fields.whole("end_time"),
        status=_status(fields.values.get("status")),
        run_name=fields.text("run_name"),
        as_json=True,
    )
    return {"run_info": from_json(changed.json)["info"]}


async def delete(asked: Asked) -> Json:
    """runs/delete"""
    await _change(asked, asked.fields.run_id(), deleted=True)
    return {}


async def restore(asked: Asked) -> Json:
    """runs/restore"""
    await _change(asked, asked.fields.run_id(), deleted=False)
    return {}


async def delete_tag(asked: Asked) -> Json:
    """runs/delete-tag"""
    run_id = asked.fields.run_id()
    await _change(asked, run_id, delete_tags=[asked.fields.text("key", required=True)])
    return {}


async def search(asked: Asked) -> Response:
    """runs/search. The tracker's pages are put together to the one that was asked for."""
    fields = asked.fields
    asked_for = fields.whole("max_results")
    if asked_for is not None and asked_for > pages.MOST:
        raise wrong_type("max_results", asked_for)
    wanted = pages.max_results(fields, _USUAL_PAGE)
    offset = first = pages.offset_of(fields)
    request = pb.SearchMlflowRunsRequest(
        parent=asked.parent,
        experiment_ids=fields.text_items("experiment_ids"),
        filter=fields.text("filter"),
        order_by=fields.text_items("order_by"),
        view=view_of(fields, "run_view_type"),
        as_json=True,
    )
    runs: list[bytes] = []
    size, more = 0, True
    while more and offset - first < wanted and size < _PAGE_RUNS:
        request.offset, request.limit = offset, wanted - (offset - first)
        found = await asked.call("MlflowService/SearchMlflowRuns", request, pb.SearchMlflowRunsResponse)
        runs += [item.json for item in found.runs]
        offset, more, size = offset + len(found.runs), found.more, size + found.ByteSize()
    answer = [b'"runs":[%b]' % b",".join(runs)] if runs else []
    if more:
        answer.append(b'"next_page_token":"%b"' % pages.token_at(offset).encode())
    return Response(b"{%b}" % b",".join(answer), media_type="application/json")


async def log_inputs(asked: Asked) -> Json:
    """runs/log-inputs"""
    fields = asked.fields
    run_id = fields.run_id()
    request = pb.LogMlflowInputsRequest(
        parent=asked.parent,
        run_id=run_id,
        datasets=[
            _dataset_input(f"datasets[{place}]", item)
            for place, item in enumerate(fields.objects("datasets"))
        ],
        model_inputs=[pb.MlflowModelUse(model_id=item.text("model_id")) for item in fields.objects("models")],
    )
    if len(request.datasets) > _MOST_INPUTS:
        raise invalid(f"at most {_MOST_INPUTS} datasets can be logged at once")
    await asked.call("MlflowService/LogMlflowInputs", request, pb.LogMlflowInputsResponse)
    return {}


async def log_outputs(asked: Asked) -> Json:
    """runs/outputs"""
    fields = asked.fields
    request = pb.LogMlflowInputsRequest(
        parent=asked.parent,
        run_id=fields.run_id(),
        model_outputs=[
            pb.MlflowModelUse(model_id=item.text("model_id"), step=item.whole("step") or 0)
            for item in fields.objects("models", required=True)
        ],
    )
    await asked.call("MlflowService/LogMlflowInputs", request, pb.LogMlflowInputsResponse)
    return {}


async def log_model(asked: Asked) -> Json:
    """runs/log-model, of old clients: the models are a tag."""
    run_id = asked.fields.run_id()
    text = asked.fields.text("model_json", required=True)
    try:
        model = json.loads(text)
    except (ValueError, RecursionError):
        raise invalid(f"Malformed model info. \n {text[:500]} \n is not a valid JSON.") from None
    absent = {"artifact_path", "flavors", "utc_time_created", "run_id"} - set(as_object("model_json", model))
    if absent:
        raise invalid(f"Model json is missing mandatory fields: {absent}")
    get_run = pb.GetMlflowRunRequest(parent=asked.parent, run_id=run_id)
    known = await asked.call("MlflowService/GetMlflowRun", get_run, pb.MlflowRun)
    tags = dict(zip(known.tag_keys, known.tag_values, strict=True))
    model["flavors"] = {
        name: {key: item for key, item in flavor.items() if key != "config"}
        if isinstance(flavor, dict)
        else flavor
        for name, flavor in as_object("flavors", model["flavors"]).items()
    }
    models = json.dumps([*json.loads(tags.get(_LOGGED_MODELS, "[]")), model])
    check_length("value", 8_000, models)
    request = pb.LogMlflowBatchRequest(parent=asked.parent, run_id=run_id, tags={_LOGGED_MODELS: models})
    await asked.call("MlflowService/LogMlflowBatch", request, pb.LogMlflowBatchResponse)
    return {}


def _dataset_input(path: str, item: Fields) -> pb.MlflowDatasetInput:
    given = item.values.get("dataset")
    if given is None:
        raise missing_value(f"{path}.dataset")
    data = Fields(as_object(f"{path}.dataset", given))
    made = pb.MlflowDataset()
    for name, longest, required in (
        ("name", 500, True), ("digest", 36, True), ("source_type", 500, True), ("source", 65_535, True),
        ("schema", 1_048_575, False), ("profile", 2_000_000, False),
    ):  # fmt: skip
        text = data.text(name)
        if required and not text:
            raise missing_value(f"{path}.dataset.{name}")
        check_length(name, longest, text)
        setattr(made, name, text)
    tags = item.pairs("tags")
    for key, value in tags:
        check_length("key", 255, key)
        check_length("value", 500, value)
    return pb.MlflowDatasetInput(dataset=made, tags=dict(tags))


async def _change(asked: Asked, run_id: str, **fields: Any) -> pb.MlflowRun:
    request = pb.UpdateMlflowRunRequest(parent=asked.parent, run_id=run_id, **fields)
    return await asked.call("MlflowService/UpdateMlflowRun", request, pb.MlflowRun)


def _status(value: Any) -> str:
    if value is None or value == "":
        return ""
    name = _STATUSES.get(value) if isinstance(value, int) else value
    if name not in _STATUSES.values():
        raise invalid(f"{invalid_value('status', value)} it is none of {', '.join(_STATUSES.values())}")
    return str(name)


ROUTES: Final[tuple[Route, ...]] = (
    of_runs("POST", "runs/create", Role.MEMBER, create),
    of_runs("GET", "runs/get", Role.VIEWER, get, run_token=True),
    of_runs("POST", "runs/update", Role.MEMBER, update, run_token=True),
    of_runs("POST", "runs/delete", Role.MEMBER, delete),
    of_runs("POST", "runs/restore", Role.MEMBER, restore),
    of_runs("POST", "runs/delete-tag", Role.MEMBER, delete_tag, run_token=True),
    of_runs("POST", "runs/search", Role.VIEWER, search),
    of_runs("POST", "runs/log-inputs", Role.MEMBER, log_inputs, run_token=True),
    of_runs("POST", "runs/outputs", Role.MEMBER, log_outputs, run_token=True),
    of_runs("POST", "runs/log-model", Role.MEMBER, log_model, run_token=True),
)
