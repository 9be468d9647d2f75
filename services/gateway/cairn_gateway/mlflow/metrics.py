"""Routes of what runs log: metrics, params and tags, one by one or in batches, and what came of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cairn.tracker.v1 import mlflow_pb2 as pb
from cairn_common.auth import Role
from cairn_common.errors import NotFound
from cairn_gateway.mlflow import pages
from cairn_gateway.mlflow.checks import as_json, check_batch, check_metric, check_size, param, tag
from cairn_gateway.mlflow.errors import MlflowError, invalid
from cairn_gateway.mlflow.fields import SEE, as_object, missing_value, number, whole
from cairn_gateway.mlflow.logged_models import measure
from cairn_gateway.mlflow.route import Asked, Route, of_runs
from cairn_gateway.wire import Json

_LARGEST_PAGE: Final = 25_000
_MOST_INTERVAL: Final = 2_500
_MOST_RUNS: Final = 100
# Points of one answer; who asks for more has to ask in pages.
_MOST_POINTS: Final = 200_000

# Of metrics: keys, values, times and steps.
Columns = tuple[list[str], list[float], list[int], list[int]]


async def log_metric(asked: Asked) -> Json:
    """runs/log-metric"""
    fields = asked.fields
    run_id, key = fields.run_id(), fields.text("key", required=True)
    value = fields.number("value")
    time, step = fields.whole("timestamp", required=True), fields.whole("step") or 0
    assert time is not None, "it is required"
    check_metric("", key, value, time)
    request = pb.LogMlflowBatchRequest(
        parent=asked.parent,
        run_id=run_id,
        metric_keys=[key],
        metric_values=[value],
        metric_times=[time],
        metric_steps=[step],
    )
    answer = await _log(asked, request)
    await measure(asked, run_id, [fields.values])
    return answer


async def log_param(asked: Asked) -> Json:
    """runs/log-parameter"""
    run_id, key = asked.fields.run_id(), asked.fields.text("key", required=True)
    params = dict([param("", key, asked.fields.text("value"))])
    return await _log(asked, pb.LogMlflowBatchRequest(parent=asked.parent, run_id=run_id, params=params))


async def set_tag(asked: Asked) -> Json:
    """runs/set-tag"""
    run_id, key = asked.fields.run_id(), asked.fields.text("key", required=True)
    tags = dict([tag("", key, asked.fields.text("value"))])
    return await _log(asked, pb.LogMlflowBatchRequest(parent=asked.parent, run_id=run_id, tags=tags))


async def log_batch(asked: Asked) -> Json:
    """runs/log-batch"""
    fields = asked.fields
    check_size(fields.size)
    run_id = fields.run_id()
    request = pb.LogMlflowBatchRequest(parent=asked.parent, run_id=run_id)
    metrics = fields.items("metrics")
    _fill_metrics(request, metrics)
    params = [param(f"params[{place}].", *pair) for place, pair in enumerate(fields.pairs("params"))]
    tags = [tag(f"tags[{place}].", *pair) for place, pair in enumerate(fields.pairs("tags"))]
    check_batch(metrics, params, tags)
    request.params.update(params)
    request.tags.update(tags)
    answer = await _log(asked, request)
    await measure(asked, run_id, metrics)
    return answer


async def history(asked: Asked) -> Json:
    """metrics/get-history"""
    fields = asked.fields
    run_id, key = fields.run_id(), fields.text("metric_key", required=True)
    asked_for = fields.whole("max_results")
    if asked_for is not None and asked_for <= 0:
        raise invalid(
            f"Invalid value {asked_for} for parameter 'max_results' supplied. It must be a positive integer."
        )
    limit = _MOST_POINTS if asked_for is None else min(asked_for, _LARGEST_PAGE)
    offset = pages.offset_of(fields)
    request = pb.ListMlflowPointsRequest(parent=asked.parent, run_ids=[run_id], metric_key=key)
    try:
        found, more = await _points(asked, request, offset=offset, limit=limit)
    except NotFound:
        # MLflow's server does not look whether there is such a run.
        return {}
    answer: dict[str, Any] = {}
    if found:
        answer["metrics"] = [
            {"key": key, "value": value, "timestamp": time, "step": step} for _, value, time, step in found
        ]
    if more:
        answer["next_page_token"] = pages.token_at(offset + len(found))
    return answer


async def history_bulk(asked: Asked) -> Json:
    """metrics/get-history-bulk"""
    fields = asked.fields
    runs, key = _run_ids(asked, "run_id"), fields.text("metric_key", required=True)
    limit = min(pages.max_results(fields, _LARGEST_PAGE), _LARGEST_PAGE)
    request = pb.ListMlflowPointsRequest(parent=asked.parent, run_ids=runs, metric_key=key)
    found, _ = await _points(asked, request, offset=0, limit=limit)
    return {"metrics": [_of_run(runs, key, *point) for point in found]}


async def history_interval(asked: Asked) -> Json:
    """metrics/get-history-bulk-interval: at most so many points of each run, spread over its steps."""
    fields = asked.fields
    runs, key = _run_ids(asked, "run_ids"), fields.text("metric_key", required=True)
    first, last = fields.whole("start_step"), fields.whole("end_step")
    if (first is None) != (last is None):
        raise invalid("If either start step or end step are specified, both must be specified.")
    if first is not None and last is not None and first > last:
        raise invalid(
            f"end_step must be greater than start_step. Found start_step={first} and end_step={last}."
        )
    asked_for = fields.whole("max_results")
    limit = _MOST_INTERVAL if asked_for is None else asked_for
    if not 0 < limit <= _MOST_INTERVAL:
        raise invalid(f"max_results must be between 1 and {_MOST_INTERVAL}.{SEE}")
    metrics: list[Json] = []
    for place, run_id in enumerate(runs):
        request = pb.ListMlflowPointsRequest(
            parent=asked.parent, run_ids=[run_id], metric_key=key, start_step=first, end_step=last
        )
        try:
            found, _ = await _points(asked, request, offset=0, limit=_MOST_POINTS)
        except NotFound:
            continue
        found.sort(key=lambda point: (point[3], point[2]))
        metrics += [_of_run(runs, key, place, *point[1:]) for point in _spread(found, limit)]
    return {"metrics": metrics} if metrics else {}


def _fill_metrics(request: pb.LogMlflowBatchRequest, metrics: Sequence[Any]) -> None:
    """Metrics into columns; the first thing that is wrong is told with its place."""
    keys, values, times, steps = _as_sent(metrics) or _read_one_by_one(metrics)
    request.metric_keys.extend(keys)
    request.metric_values.extend(values)
    request.metric_times.extend(times)
    request.metric_steps.extend(steps)


def _as_sent(metrics: Sequence[Any]) -> Columns | None:
    """The columns, where all of them have their types and nothing is wrong, as from MLflow's own clients."""
    try:
        keys = [item["key"] for item in metrics]
        values = [item["value"] for item in metrics]
        times = [item["timestamp"] for item in metrics]
        steps = [item["step"] for item in metrics]
    except (KeyError, TypeError):
        return None
    typed = {*map(type, keys)} == {str} and {*map(type, values)} == {float}
    if not typed or {*map(type, times)} != {int} or {*map(type, steps)} != {int}:
        return None
    if min(times) < 0 or max(times) >= 2**63 or min(steps) < -(2**63) or max(steps) >= 2**63:
        return None
    try:
        for key in set(keys):
            check_metric("", key, 0.0, 0)
    except MlflowError:
        return None
    return (keys, values, times, steps) if "" not in keys else None


def _read_one_by_one(metrics: Sequence[Any]) -> Columns:
    known: set[str] = set()
    keys, values, times, steps = [], [], [], []
    for place, item in enumerate(metrics):
        as_object(f"metrics[{place}]", item)
        key, value, time = item.get("key"), item.get("value"), item.get("timestamp")
        for name, given in (("key", key), ("value", value), ("timestamp", time)):
            if given is None or given == "":
                raise missing_value(f"metrics[{place}].{name}")
        step = item.get("step")
        value = number(f"metrics[{place}].value", value)
        time = whole(f"metrics[{place}].timestamp", time)
        step = whole(f"metrics[{place}].step", 0 if step is None else step)
        if not isinstance(key, str):
            raise invalid(f"metrics[{place}].key is not a text")
        if key not in known or time < 0:
            check_metric(f"metrics[{place}].", key, value, time)
            known.add(key)
        keys.append(key)
        values.append(value)
        times.append(time)
        steps.append(step)
    return keys, values, times, steps


async def _log(asked: Asked, request: pb.LogMlflowBatchRequest) -> Json:
    await asked.call("MlflowService/LogMlflowBatch", request, pb.LogMlflowBatchResponse)
    return {}


async def _points(
    asked: Asked, request: pb.ListMlflowPointsRequest, *, offset: int, limit: int
) -> tuple[list[tuple[int, float | str, int, int]], bool]:
    """Place of the run, value, time and step of points, and whether there are others behind them."""
    found: list[tuple[int, float | str, int, int]] = []
    more = True
    while more and len(found) < limit:
        request.offset, request.limit = offset + len(found), min(limit - len(found), 100_000)
        page = await asked.call("MlflowService/ListMlflowPoints", request, pb.ListMlflowPointsResponse)
        values = [as_json(value) for value in page.values]
        found += zip(page.runs, values, page.times, page.steps, strict=True)
        more = page.more
    return found, more


def _run_ids(asked: Asked, name: str) -> list[str]:
    runs = list(dict.fromkeys(asked.fields.text_items(name)))
    if not runs and name == "run_ids":
        raise missing_value(name)
    if not runs:
        raise invalid(f"GetMetricHistoryBulk request must specify at least one {name}.")
    if len(runs) > _MOST_RUNS:
        raise invalid(f"{name}: {len(runs)} were given; at most {_MOST_RUNS} can be asked for at once")
    return runs


def _of_run(runs: Sequence[str], key: str, place: int, value: float | str, time: int, step: int) -> Json:
    return {"key": key, "value": value, "timestamp": time, "step": step, "run_id": runs[place]}


def _spread(points: list[Any], most: int) -> list[Any]:
    """At most so many of them, evenly, with the first and the last."""
    if len(points) <= most:
        return points
    if most == 1:
        return points[-1:]
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


ROUTES: Final[tuple[Route, ...]] = (
    of_runs("POST", "runs/log-metric", Role.MEMBER, log_metric, run_token=True),
    of_runs("POST", "runs/log-parameter", Role.MEMBER, log_param, run_token=True),
    of_runs("POST", "runs/set-tag", Role.MEMBER, set_tag, run_token=True),
    of_runs("POST", "runs/log-batch", Role.MEMBER, log_batch, run_token=True),
    of_runs("GET", "metrics/get-history", Role.VIEWER, history, run_token=True),
    of_runs("GET", "metrics/get-history-bulk", Role.VIEWER, history_bulk),
    of_runs("GET", "metrics/get-history-bulk-interval", Role.VIEWER, history_interval),
)
