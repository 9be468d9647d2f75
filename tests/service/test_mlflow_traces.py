"""Traces as MLflow's clients and OpenTelemetry's exporters send them, over HTTP, through to a tracker."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import AsyncIterator
from secrets import token_bytes
from typing import Any

import httpx
import pytest

from cairn.quota.v1 import token_pb2
from cairn.tracker.v1 import span_pb2
from cairn_common.ids import new_uid
from tests.harness.gateway import bearer, gateway, neighbours
from tests.harness.tracker import MEMBER, STRANGER, VIEWER, Tracker

TRACES = "/mlflow/api/3.0/mlflow/traces"
SECOND = 10**9
START = 1_700_000_000 * SECOND


class Door:
    """The API as one caller has it."""

    def __init__(self, http: httpx.AsyncClient, token: str = MEMBER) -> None:
        self.http = http
        self.token = token

    async def ask(self, method: str, path: str, **fields: Any) -> httpx.Response:
        given: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
        return await self.http.request(method, path, headers=bearer(self.token), **given)

    async def good(self, method: str, path: str, **fields: Any) -> Any:
        answer = await self.ask(method, path, **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def experiment(self) -> str:
        path = "/mlflow/api/2.0/mlflow/experiments/create"
        return str((await self.good("POST", path, name=new_uid()))["experiment_id"])

    async def start(self, experiment: str, trace_id: str, **fields: Any) -> Any:
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        info = {
            "trace_id": trace_id, "trace_location": place, "request_time": "2026-01-01T00:00:00.500Z",
            "execution_duration": "1.5s", "state": "OK", **fields,
        }  # fmt: skip
        return await self.good("POST", TRACES, trace={"trace_info": info})

    async def export(
        self, experiment: str, *spans: span_pb2.Span, pack: bool = False, body: bytes | None = None
    ) -> httpx.Response:
        """Sends spans as an exporter does."""
        if body is None:
            scope = span_pb2.SpanBatch.Scope(spans=spans)
            body = span_pb2.SpanBatch(
                resource_spans=[span_pb2.SpanBatch.Resource(scope_spans=[scope])]
            ).SerializeToString()
        headers = bearer(self.token) | {
            "content-type": "application/x-protobuf",
            "x-mlflow-experiment-id": experiment,
            **({"content-encoding": "gzip"} if pack else {}),
        }
        content = gzip.compress(body) if pack else body
        return await self.http.post("/mlflow/v1/traces", headers=headers, content=content)

    async def found(self, experiment: str, **fields: Any) -> Any:
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        return await self.good("POST", f"{TRACES}/search", locations=[place], **fields)


@pytest.fixture
async def door(tracker: Tracker, nats_url: str) -> AsyncIterator[Door]:
    async with neighbours() as behind:
        behind.caller(MEMBER, "main", role=token_pb2.ROLE_MEMBER)
        behind.caller(VIEWER, "main", role=token_pb2.ROLE_VIEWER)
        behind.caller(STRANGER, "other", role=token_pb2.ROLE_MEMBER)
        async with gateway(nats_url, behind.address, tracker_address=tracker.address) as http:
            yield Door(http)


def span(trace: bytes, name: str, *, parent: bytes = b"", seconds: int = 1, **fields: Any) -> span_pb2.Span:
    return span_pb2.Span(
        trace_id=trace,
        span_id=token_bytes(8),
        parent_span_id=parent,
        name=name,
        start_time_unix_nano=START,
        end_time_unix_nano=START + seconds * SECOND,
        **fields,
    )


def attribute(key: str, text: str) -> span_pb2.KeyValue:
    return span_pb2.KeyValue(key=key, value=span_pb2.AnyValue(string_value=text))


@pytest.mark.parametrize("spans_first", [True, False])
async def test_a_trace_and_its_spans_may_come_in_any_order(door: Door, spans_first: bool) -> None:
    experiment, trace = await door.experiment(), token_bytes(16)
    trace_id = f"tr-{trace.hex()}"
    root = span(trace, "root", attributes=[attribute("mlflow.traceRequestId", trace_id)], seconds=9)
    told = {"tags": {"mlflow.traceName": "f", "a": "b"}, "trace_metadata": {"m": "n"}, "request_preview": "x"}
    if spans_first:
        await door.export(experiment, root)
    await door.start(experiment, trace_id, **told)
    if not spans_first:
        await door.export(experiment, root)
    got = (await door.good("GET", f"{TRACES}/get", trace_id=trace_id))["trace"]
    info = got["trace_info"]
    assert (info["request_time"], info["execution_duration"], info["state"]) == (
        "2026-01-01T00:00:00.500Z", "1.500s", "OK",
    )  # fmt: skip
    assert (info["tags"]["a"], info["tags"]["mlflow.traceName"], info["request_preview"]) == ("b", "f", "x")
    assert info["tags"]["mlflow.trace.spansLocation"] == "TRACKING_STORE"
    assert info["trace_metadata"] == {"m": "n"}
    (found,) = got["spans"]
    assert (found["trace_id"], found["name"]) == (b64encode(trace).decode(), "root")
    assert found["attributes"] == [{"key": "mlflow.traceRequestId", "value": {"string_value": trace_id}}]


async def test_spans_alone_make_a_trace_and_a_span_that_is_sent_again_is_one(door: Door) -> None:
    experiment, trace = await door.experiment(), token_bytes(16)
    failed = span_pb2.SpanStatus(code=span_pb2.SpanStatus.STATUS_CODE_ERROR)
    root = span(trace, "root", seconds=3, status=failed)
    inner = span(trace, "inner", parent=root.span_id)
    for pack in (False, True):
        assert (await door.export(experiment, inner, pack=pack)).status_code == 200
    (early,) = (await door.found(experiment))["traces"]
    assert (early["state"], early["execution_duration"]) == ("IN_PROGRESS", "1s")
    await door.export(experiment, root)
    got = await door.good("GET", f"{TRACES}/batchGet", trace_ids=[f"tr-{trace.hex()}", "tr-none"])
    (found,) = got["traces"]
    assert sorted(one["name"] for one in found["spans"]) == ["inner", "root"]
    info = found["trace_info"]
    assert (info["state"], info["execution_duration"], info["tags"]["mlflow.traceName"]) == (
        "ERROR", "3s", "root",
    )  # fmt: skip


async def test_spans_larger_than_one_message_come_whole(door: Door) -> None:
    experiment, trace = await door.experiment(), token_bytes(16)
    for _ in range(3):
        large = [span(trace, "s", attributes=[attribute("text", "x" * 900_000)]) for _ in range(4)]
        assert (await door.export(experiment, *large)).status_code == 200
    got = await door.good("GET", f"{TRACES}/get", trace_id=f"tr-{trace.hex()}")
    assert len({one["span_id"] for one in got["trace"]["spans"]}) == 12


async def test_traces_are_searched_sorted_and_paged(door: Door) -> None:
    experiment = await door.experiment()
    for number, state in enumerate(("OK", "ERROR", "OK")):
        await door.start(
            experiment, f"tr-{new_uid()}", state=state, request_time=f"2026-01-0{number + 1}T00:00:00Z",
            tags={"mlflow.traceName": f"t{number}", "n": str(number)},
            trace_metadata={"mlflow.sourceRun": "r1"},
        )  # fmt: skip

    async def names(**fields: Any) -> list[str]:
        found = await door.found(experiment, **fields)
        return [one["tags"]["mlflow.traceName"] for one in found.get("traces", [])]

    assert await names() == ["t2", "t1", "t0"]
    assert await names(filter="status = 'OK' AND tags.n != '0'") == ["t2"]
    assert await names(filter="attributes.run_id = 'r1' AND metadata.`mlflow.sourceRun` LIKE 'r%'") == [
        "t2", "t1", "t0",
    ]  # fmt: skip
    assert await names(filter="timestamp_ms < 1767225600001", order_by=["name ASC"]) == ["t0"]
    assert await names(filter="execution_time_ms IS NULL") == []
    first = await door.found(experiment, max_results=2, order_by=["timestamp_ms ASC"])
    rest = await door.found(
        experiment, max_results=2, order_by=["timestamp_ms ASC"], page_token=first["next_page_token"]
    )
    assert (len(first["traces"]), len(rest["traces"]), "next_page_token" in rest) == (2, 1, False)
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    for bad in ({"filter": "nome = 'x'"}, {"max_results": 501}, {"page_token": "x"}, {"order_by": ["x"]}):
        answer = await door.ask("POST", f"{TRACES}/search", locations=[place], **bad)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), bad


async def test_tags_change_and_traces_go(door: Door) -> None:
    experiment, trace_ids = await door.experiment(), [f"tr-{new_uid()}" for _ in range(3)]
    for trace_id in trace_ids:
        await door.start(experiment, trace_id)
    one = f"{TRACES}/{trace_ids[0]}"
    await door.good("PATCH", f"{one}/tags", key="a", value="b")
    assert (await door.good("GET", one))["trace"]["trace_info"]["tags"]["a"] == "b"
    await door.good("DELETE", f"{one}/tags", key="a")
    assert (await door.ask("DELETE", f"{one}/tags", key="a")).status_code == 404
    gone = {"experiment_id": experiment, "request_ids": trace_ids[:1]}
    assert await door.good("POST", f"{TRACES}/delete-traces", **gone) == {"traces_deleted": 1}
    assert (await door.ask("GET", one)).json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    old = {"experiment_id": experiment, "max_timestamp_millis": 2**41, "max_traces": 1}
    assert await door.good("POST", f"{TRACES}/delete-traces", **old) == {"traces_deleted": 1}
    assert (await door.ask("POST", f"{TRACES}/delete-traces", experiment_id=experiment)).status_code == 400


def feedback(value: Any, **fields: Any) -> dict[str, Any]:
    source = {"source_type": "HUMAN", "source_id": "ada"}
    return {"assessment_name": "correct", "source": source, "feedback": {"value": value}, **fields}


async def test_what_is_said_of_a_trace_is_kept_changed_shown_and_taken_back(door: Door) -> None:
    experiment, trace_id = await door.experiment(), f"tr-{new_uid()}"
    told = await door.start(experiment, trace_id, assessments=[feedback(True)])
    # Again, as a client that heard no answer does: said once.
    assert (await door.start(experiment, trace_id, assessments=[feedback(True)])) == told
    (first,) = told["trace"]["trace_info"]["assessments"]
    all_of = f"{TRACES}/{trace_id}/assessments"
    second = (
        await door.good(
            "POST",
            all_of,
            assessment=feedback({"score": 2.5}, overrides=first["assessment_id"], metadata={"by": "hand"}),
        )
    )["assessment"]
    expected = {
        **feedback(None),
        "assessment_name": "answer",
        "expectation": {"value": "42"},
        "feedback": None,
    }
    await door.good("POST", all_of, assessment=expected)
    (found,) = (await door.found(experiment))["traces"]
    assert [(one["assessment_name"], one["valid"]) for one in found["assessments"]] == [
        ("correct", False), ("correct", True), ("answer", True),
    ]  # fmt: skip
    one = f"{all_of}/{second['assessment_id']}"
    changed = {**feedback("no"), "rationale": "too short", "metadata": {"more": "x"}}
    await door.good("PATCH", one, assessment=changed, update_mask="feedback,rationale,metadata")
    got = (await door.good("GET", one))["assessment"]
    assert (got["feedback"], got["rationale"], got["create_time"]) == (
        {"value": "no"}, "too short", second["create_time"],
    )  # fmt: skip
    assert (got["metadata"], got["source"]) == ({"by": "hand", "more": "x"}, feedback(0)["source"])
    for text, count in (
        ("feedback.correct = 'no'", 1), ("feedback.correct = 'true'", 0), ("expectation.answer LIKE '4%'", 1),
        ("feedback.other IS NULL", 1), ("expectation.answer IS NULL", 0),
    ):  # fmt: skip
        assert len((await door.found(experiment, filter=text)).get("traces", [])) == count, text
    await door.good("DELETE", one)
    got = await door.good("GET", f"{TRACES}/get", trace_id=trace_id)
    assert [item["valid"] for item in got["trace"]["trace_info"]["assessments"]] == [True, True]


async def test_what_cannot_be_said_is_refused(door: Door) -> None:
    experiment, trace_id = await door.experiment(), f"tr-{new_uid()}"
    told = await door.start(experiment, trace_id, assessments=[feedback(1)])
    (known,) = told["trace"]["trace_info"]["assessments"]
    all_of = f"{TRACES}/{trace_id}/assessments"
    one = f"{all_of}/{known['assessment_id']}"
    bad, missing = "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"
    for method, path, fields, code in (
        ("POST", all_of, {}, bad),
        ("POST", all_of, {"assessment": feedback(1, assessment_name="")}, bad),
        ("POST", all_of, {"assessment": feedback(1, feedback=None)}, bad),
        ("POST", all_of, {"assessment": feedback(1, source={"source_type": "CROWD"})}, bad),
        ("POST", all_of, {"assessment": feedback("x" * 30_000)}, bad),
        ("POST", all_of, {"assessment": feedback("\0")}, bad),
        ("POST", all_of, {"assessment": feedback(1, metadata={"a": 1})}, bad),
        ("POST", all_of, {"assessment": feedback(1, overrides="a-none")}, missing),
        ("POST", f"{TRACES}/tr-none/assessments", {"assessment": feedback(1)}, missing),
        ("PATCH", one, {"assessment": {"expectation": {"value": 1}}}, bad),
        ("PATCH", one, {"assessment": {}, "update_mask": "create_time"}, bad),
        ("DELETE", f"{all_of}/a-none", {}, missing),
    ):
        answer = await door.ask(method, path, **fields)
        assert answer.json().get("error_code") == code, (method, path, str(fields)[:200], answer.text[:300])
    stranger, viewer = Door(door.http, STRANGER), Door(door.http, VIEWER)
    assert (await stranger.ask("GET", one)).status_code == 404
    assert (await viewer.good("GET", one))["assessment"]["feedback"] == {"value": 1}
    assert (await viewer.ask("DELETE", one)).status_code == 403


async def test_what_is_no_trace_is_refused(door: Door) -> None:
    experiment = await door.experiment()
    good = span(token_bytes(16), "s")
    for body in (b"", b"\xff\xff", span_pb2.SpanBatch().SerializeToString()):
        assert (await door.export(experiment, body=body)).status_code == 400
    short = span_pb2.Span(trace_id=b"x", span_id=b"y", start_time_unix_nano=1)
    assert (await door.export(experiment, short)).json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert (await door.export("123", good)).json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    bomb = gzip.compress(b"\0" * 50 * 2**20)
    headers = bearer(MEMBER) | {
        "content-type": "application/x-protobuf", "content-encoding": "gzip",
        "x-mlflow-experiment-id": experiment,
    }  # fmt: skip
    answer = await door.http.post("/mlflow/v1/traces", headers=headers, content=bomb)
    assert (answer.status_code, "larger than" in answer.json()["message"]) == (413, True)


async def test_another_teams_traces_do_not_exist_and_a_viewer_writes_none(door: Door) -> None:
    experiment, trace_id = await door.experiment(), f"tr-{new_uid()}"
    await door.start(experiment, trace_id)
    stranger, viewer = Door(door.http, STRANGER), Door(door.http, VIEWER)
    assert (await stranger.ask("GET", f"{TRACES}/{trace_id}")).status_code == 404
    assert await stranger.good("GET", f"{TRACES}/batchGet", trace_ids=[trace_id]) == {}
    assert (await stranger.export(experiment, span(token_bytes(16), "s"))).status_code == 404
    await viewer.good("GET", f"{TRACES}/{trace_id}")
    assert (await viewer.export(experiment, span(token_bytes(16), "s"))).status_code == 403


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/2.0/mlflow/webhooks", "NOT_IMPLEMENTED"),
        ("/api/3.0/mlflow/traces/tr-1/info", "NOT_IMPLEMENTED"),
        ("/api/3.0/mlflow/datasets/search", "NOT_IMPLEMENTED"),
        ("/ajax-api/2.0/mlflow/webhooks", "NOT_IMPLEMENTED"),
        ("/ajax-api/2.0/mlflow/nothing", "ENDPOINT_NOT_FOUND"),
        ("/api/2.0/mlflow/nothing", "ENDPOINT_NOT_FOUND"),
    ],
)
async def test_what_is_not_here_says_so(door: Door, path: str, code: str) -> None:
    answer = await door.ask("POST", f"/mlflow{path}")
    assert (answer.status_code, answer.json()["error_code"]) == (501 if code[0] == "N" else 404, code)
