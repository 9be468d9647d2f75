"""The gateway's rules that need no server: problems, hosts, paths, positions, routes, schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.scheduler.v1 import events_pb2
from cairn.tracker.v1 import events_pb2 as tracker_events
from cairn_common import errors
from cairn_common.bus import Message
from cairn_common.errors import DomainError, InvalidArgument
from cairn_gateway import feed, problems
from cairn_gateway.http import CODE, ENTRIES, PLATFORM, ROUTES, limits
from cairn_gateway.http.route import SERVICES
from cairn_gateway.live import Position
from cairn_gateway.schema import Schemas

# Answered to services only, a stream that the events route stands for, or where a provider sends browsers.
WITHOUT_ROUTE = {
    "ApplyPlan",
    "BatchCreateTokens",
    "BatchRevokeTokens",
    "CheckToken",
    "FinishOidcLogin",
    "RenewToken",
    "ReserveQuota",
    "UseSecrets",
    "ReleaseReservation",
    "WatchJobs",
}
# Their clients come by MLflow's own routes.
OF_MLFLOW = {"MlflowFileService", "MlflowService", "RegistryService", "LoggedModelService", "TraceService"}


def kinds() -> Iterator[type[DomainError]]:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, DomainError):
            yield value


def test_every_code_has_a_status() -> None:
    assert set(problems.STATUS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_error_becomes_a_problem(kind: type[DomainError]) -> None:
    response = problems.of_exception(kind("what was wrong", path="a.b"), request_id="r1")
    told = json.loads(bytes(response.body))
    assert response.media_type == "application/problem+json"
    assert told["status"] == response.status_code >= 400
    assert told["request_id"] == "r1"
    assert ("retry-after" in response.headers) == (response.status_code in (429, 503, 504))
    assert ("www-authenticate" in response.headers) == (response.status_code == 401)
    if response.status_code < 500:
        assert told["detail"] == "what was wrong"
        assert told["metadata"] == {"path": "a.b"}


def test_our_own_mistakes_tell_nothing() -> None:
    for error in (ValueError("password=hunter2"), errors.Internal("/etc/secret")):
        response = problems.of_exception(error, request_id="r1")
        assert response.status_code == 500
        assert b"hunter2" not in bytes(response.body)
        assert b"/etc" not in bytes(response.body)
        assert b"r1" in bytes(response.body)


def test_an_old_etag_is_a_failed_precondition_of_http() -> None:
    assert problems.status_of(errors.Aborted("old")) == 412


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_a_position_reads_back(scheduler: int, tracker: int) -> None:
    position = Position(scheduler=scheduler, tracker=tracker)
    assert Position.parse(str(position)) == position


@given(st.text(max_size=30))
def test_what_is_no_position_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        assert str(Position.parse(text)).replace("0", "") in text
    except InvalidArgument:
        pass


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost:7700", "localhost"),
        ("LOCALHOST", "localhost"),
        ("localhost.:80", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:7700", "[::1]"),
        ("[::1]", "[::1]"),
    ],
)
def test_our_names_pass(header: str, name: str) -> None:
    assert limits.host_name(header) == name
    limits.check_host([header], limits.LOOPBACK)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["evil.com"],
        ["localhost.evil.com"],
        ["localhost@evil.com"],
        ["127.0.0.1.evil.com:7700"],
        ["[::1].evil.com"],
        ["localhost", "localhost"],
        ["localhost:80:80"],
        ["localhost, evil.com"],
    ],
)
def test_other_names_do_not(headers: list[str]) -> None:
    with pytest.raises(problems.HttpError) as caught:
        limits.check_host(headers, limits.LOOPBACK)
    assert caught.value.status == 421


def test_the_public_url_gives_a_name() -> None:
    hosts = limits.hosts_of("https://Cairn.example.org:8443/x", "gateway.cairn.svc, other")
    assert hosts - limits.LOOPBACK == {"cairn.example.org", "gateway.cairn.svc", "other"}


@pytest.mark.parametrize(
    "path", ["//", "/api//v1/me", "/api/v1/me/", "/./api", "/api/../etc", "/a\\b", "/a\0"]
)
def test_a_path_has_one_spelling(path: str) -> None:
    with pytest.raises(problems.HttpError) as caught:
        limits.check_path(path, b"")
    assert caught.value.status == 404


def test_every_rpc_for_people_has_a_route() -> None:
    routed = {route.descriptor.name for route in (*ROUTES, *ENTRIES, PLATFORM, CODE)}
    rpcs = {
        method
        for name, service in SERVICES.items()
        if name not in OF_MLFLOW
        for method in service.methods_by_name
    }
    assert rpcs - routed == WITHOUT_ROUTE


def test_routes_name_only_what_their_rpcs_have() -> None:
    for route in ROUTES:
        fields = route.descriptor.input_type.fields_by_name
        assert all(name.partition(".")[0] in fields for name in (*route.bind, *route.refs, *route.fixed))
        assert isinstance(route.query, dict)
        assert all(part in route.parameters for part in _bound(route.bind.values()))
    operations = [route.operation_id for route in ROUTES]
    assert len(operations) == len(set(operations))


def _bound(patterns: object) -> list[str]:
    return [
        part[1:-1]
        for pattern in patterns  # type: ignore[attr-defined]
        for part in pattern.split("/")
        if part.startswith("{")
    ]


def test_schemas_refer_to_what_is_there() -> None:
    schemas = Schemas()
    for route in ROUTES:
        schemas.of_message(route.descriptor.output_type)
    text = json.dumps(schemas.components)
    for name in (part.split('"')[0] for part in text.split("#/components/schemas/")[1:]):
        assert name in schemas.components


def test_an_event_carries_its_resource() -> None:
    job = events_pb2.SchedulerEvent()
    job.job_finished.job.uid = "01j"
    about, data = feed.encode(events_pb2.SchedulerEvent, job.SerializeToString())
    assert (about, json.loads(data)["uid"]) == ("", "01j")
    made = tracker_events.TrackerEvent()
    made.artifact_committed.version.run = "teams/main/runs/01k"
    about, data = feed.encode(tracker_events.TrackerEvent, made.SerializeToString())
    assert (about, json.loads(data)["run"]) == ("01k", "teams/main/runs/01k")
    progress = tracker_events.TrackerEvent()
    progress.run_progressed.lines = True
    assert json.loads(feed.encode(tracker_events.TrackerEvent, progress.SerializeToString())[1])["lines"]
    assert feed.encode(tracker_events.TrackerEvent, b"") == ("", b"")


def fact_of(team: str, sequence: int) -> feed.Fact:
    told = events_pb2.SchedulerEvent()
    told.job_finished.job.uid = "01j"
    return feed.Fact(
        "scheduler",
        Message(
            subject=f"cairn.v1.scheduler.job.finished.{team}.01j",
            data=told.SerializeToString(),
            sequence=sequence,
            num_delivered=1,
            time=datetime(2026, 1, 1, tzinfo=UTC),
        ),
    )


def test_who_does_not_read_is_cut_where_something_would_be_missing() -> None:
    """What waits for one client is bounded, holds no gap, and is nothing of another team."""
    listener = feed.Listener(feed.Watch(team="main"))
    for sequence in range(1, 2 * feed.MOST_WAITING + 1):
        assert not listener.lost.is_set()
        listener.put(fact_of("main" if sequence % 2 else "other", sequence))
    assert listener.waiting.qsize() == feed.MOST_WAITING
    listener.put(fact_of("main", 9999))
    assert listener.lost.is_set()
    waited = [listener.waiting.get_nowait().sequence for _ in range(feed.MOST_WAITING)]
    assert waited == list(range(1, 2 * feed.MOST_WAITING, 2))
    listener.put(fact_of("main", 10_000))
    assert listener.waiting.empty(), "nothing comes behind the gap"


def test_types_are_those_of_the_protos() -> None:
    assert {"job.finished", "run.progressed", "artifact.committed"} <= feed.TYPES
