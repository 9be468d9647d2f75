"""Every route and every RPC of a running platform, found from outside, by everybody who may come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cairn._link import Link, Trouble
from cairn._tunnel import ADDRESS, Tunnel
from cairn_common.auth import new_token
from cairn_common.ids import new_uid
from tests.harness.people import MAIN, People, bearer, invite, port_of
from tests.harness.platform import Platform

SERVICES = ("scheduler", "quota", "tracker", "gateway")
# What a run's token may ask for, and nothing else.
OF_RUNS = {
    "CommitVersion",
    "CreateDownloads",
    "CreateUploads",
    "GetCaller",
    "GetLatestCheckpoint",
    "GetMedia",
    "GetPlatform",
    "GetRun",
    "GetVersion",
    "ListEntries",
    "ListMedia",
    "QuerySeries",
    "TailSeries",
}
# ... through MLflow's API, whose routes are not in the document.
OF_MLFLOWS_RUNS = {
    *("GetMlflowExperiment", "GetMlflowRun", "UpdateMlflowRun", "LogMlflowBatch", "LogMlflowInputs"),
    *("ListMlflowPoints", "PutMlflowFile", "GetMlflowFile", "ListMlflowFiles", "DeleteMlflowFiles"),
    *("CreateLoggedModel", "GetLoggedModel", "UpdateLoggedModel", "SearchLoggedModels", "LogModelMetrics"),
    *("CreateRegisteredModel", "GetRegisteredModel", "CreateModelVersion", "GetModelVersion"),
    *("CreateMlflowUpload", "CompleteMlflowUpload", "AbortMlflowUpload"),
    *("StartTrace", "ExportSpans", "CreateAssessment"),
}
# What only looks, though it is a POST.
LOOKS = {"CompareRuns", "CreateDownloads", "PreviewExpiry", "PreviewRetention"}
# Beside looking, what somebody may do with what is their own.
OWN = {"CreateToken", "RevokeToken", "EndSession", "SetPassword", "ApproveDeviceLogin"}
OWN |= {"SetUserSecret", "DeleteUserSecret", "CreateLoopbackLogin"}
# By which people come in; no token is asked for.
PUBLIC = {
    "AcceptInvitation",
    "CreateDeviceLogin",
    "CreateSession",
    "FinishDeviceLogin",
    "FinishLoopbackLogin",
}
PUBLIC |= {"ConfirmOidcLogin", "CreateOidcLogin", "GetSignInWays"}
PUBLIC |= {"GetSharedRuns", "QuerySharedSeries"}
OF_SERVICES = {
    "AcceptInvitation",
    "ApplyPlan",
    "BatchCreateTokens",
    "BatchRevokeTokens",
    "CheckToken",
    "ConfirmOidcLogin",
    "CreateDeviceLogin",
    "CreateOidcLogin",
    "CreateSession",
    "FinishDeviceLogin",
    "FinishLoopbackLogin",
    "FinishOidcLogin",
    "GetSharedRuns",
    "GetSignInWays",
    "QuerySharedSeries",
    "RenewToken",
    "ReserveQuota",
    "ReleaseReservation",
    "UseSecrets",
}
# What a PATCH changes: something that its resource has.
CHANGES: dict[str, dict[str, object]] = {"SetKeeping": {"retention": []}}


@dataclass(frozen=True)
class Place:
    """A running platform and its people."""

    people: People
    http: httpx.Client
    # To each service.
    channels: dict[str, grpc.Channel]

    @property
    def unknown(self) -> dict[str, str | None]:
        """Tokens that open nothing."""
        people = self.people
        return {"none": None, "junk": new_token(), "expired": people.expired, "revoked": people.revoked}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    platform = Platform(tmp_path_factory.mktemp("matrix"))
    platform.up()
    with ExitStack() as stack:
        stack.callback(platform.down)
        ports = {service: port_of(platform.data, service) for service in SERVICES}
        yield Place(
            people=invite(platform.data),
            http=stack.enter_context(httpx.Client(trust_env=False, base_url=platform.status()["url"])),
            channels={
                service: stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
                for service, port in ports.items()
            },
        )


@dataclass(frozen=True)
class Operation:
    """A route, as the OpenAPI document has it."""

    id: str
    method: str
    path: str

    def url(self, team: str) -> str:
        """The path with ids of nothing in it."""
        uid = new_uid()
        ids = {"team": team, "artifact": "weights", "version": "1", "digest": "a" * 64, "user": "nobody"}
        ids |= {"code": "BBBB-BBBB", "variable": "HF_TOKEN"}
        ids |= dict.fromkeys(
            ("job", "run", "sweep", "token", "budget", "invitation", "promotion", "share", "webhook"), uid
        )
        return self.path.format(**ids)

    def ask(self, place: Place, token: str | None, *, team: str = MAIN) -> tuple[int, str]:
        """Status and reason. A stream is not waited for."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        patch = CHANGES.get(self.id, {"display_name": "changed"}) if self.method == "PATCH" else {}
        body = None if self.method == "GET" else patch
        with place.http.stream(self.method, self.url(team), headers=headers, json=body) as answer:
            if answer.status_code < 400:
                return answer.status_code, ""
            answer.read()
            return answer.status_code, str(answer.json()["reason"])


@pytest.fixture(scope="module")
def all_operations(place: Place) -> list[Operation]:
    headers = {"Authorization": f"Bearer {place.people.viewer}"}
    document = place.http.get("/api/v1/openapi.json", headers=headers).json()
    found = [
        Operation(described["operationId"], method.upper(), path)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
        if method in ("get", "put", "post", "patch", "delete")
    ]
    assert len(found) >= 35
    return found


@pytest.fixture(scope="module")
def operations(all_operations: list[Operation]) -> list[Operation]:
    return [operation for operation in all_operations if operation.id not in PUBLIC]


def test_what_needs_no_token_gives_nothing_to_who_knows_nothing(
    place: Place, all_operations: list[Operation]
) -> None:
    public = [operation for operation in all_operations if operation.id in PUBLIC]
    assert {operation.id for operation in public} == PUBLIC
    answers = {operation.id: operation.ask(place, None)[0] for operation in public}
    assert answers.pop("CreateDeviceLogin") == 200, "it waits for somebody who is in"
    assert answers.pop("GetSignInWays") == 200, "by what people come in"
    assert {answers.pop(f"{one}OidcLogin") for one in ("Create", "Confirm")} == {409}, "it is off here"
    assert set(answers.values()) <= {400, 401, 404}


def test_no_route_answers_without_a_good_token(place: Place, operations: list[Operation]) -> None:
    wrong = {
        (operation.id, who): answer
        for operation in operations
        for who, token in place.unknown.items()
        if (answer := operation.ask(place, token))[0] != 401
    }
    assert not wrong


def test_no_route_shows_another_team_to_exist(place: Place, operations: list[Operation]) -> None:
    of_teams = [operation for operation in operations if "{team}" in operation.path]
    there = {operation.id: operation.ask(place, place.people.stranger) for operation in of_teams}
    nowhere = {
        operation.id: operation.ask(place, place.people.stranger, team="nowhere") for operation in of_teams
    }
    assert there == nowhere == {operation.id: (404, "TEAM_NOT_FOUND") for operation in of_teams}


def test_a_runs_token_opens_the_routes_of_runs_alone(place: Place, operations: list[Operation]) -> None:
    answers = {operation.id: operation.ask(place, place.people.run) for operation in operations}
    opened = {name for name, answer in answers.items() if answer != (403, "SCOPE_TOO_LOW")}
    assert opened == OF_RUNS | {"GetCode", "OpenBus"}


def test_who_may_only_look_changes_nothing(place: Place, operations: list[Operation]) -> None:
    changing = {operation for operation in operations if operation.method != "GET"} - {
        operation for operation in operations if operation.id in LOOKS | OWN
    }
    assert len(changing) >= 10
    wrong = {
        (operation.id, who): answer
        for operation in changing
        for who in ("viewer", "reader")
        if (answer := operation.ask(place, getattr(place.people, who)))[0] != 403
    }
    assert not wrong


def through(place: Place, token: str | None, *subjects: str) -> str:
    """What becomes of messages for the bus that come through the gateway's door."""

    async def publish() -> str:
        secret = token or ""
        try:
            link = await Link.open(ADDRESS, secret, transport=Tunnel(str(place.http.base_url), secret))
        except (Trouble, OSError) as error:
            return str(error)
        try:
            for subject in subjects:
                await link.publish(subject, b"")
        except Trouble as error:
            return str(error)
        finally:
            await link.close()
        return "taken"

    return asyncio.run(publish())


def test_the_bus_behind_the_door_lets_in_who_it_always_lets_in(place: Place) -> None:
    people = place.people
    for who, token in place.unknown.items():
        assert "TOKEN_" in (said := through(place, token)), (who, said)
    assert "SCOPE_TOO_LOW" in through(place, people.reader)
    # May see all, and tell the bus nothing.
    assert "Authorization Violation" in through(place, people.viewer)
    subject = "cairn.v1.job.run.points-logged.{}.{}".format
    own, foreign = subject(MAIN, people.run_uid), subject(MAIN, people.other_run_uid)
    assert through(place, people.run, own) == "taken"
    assert through(place, people.member, foreign) == "taken"
    for token, wrong in (
        (people.run, foreign),
        (people.stranger, own),
        (people.run, "$JS.API.STREAM.DELETE.ATTEMPT"),
        (people.admin, "cairn.v1.scheduler.job.finished.main.x"),
    ):
        assert "permissions violation" in through(place, token, wrong).lower()


def test_who_asks_plainly_for_the_bus_is_told_how(place: Place) -> None:
    operation = Operation("OpenBus", "GET", "/api/v1/streams/bus")
    assert operation.ask(place, place.people.run) == (426, "UPGRADE_REQUIRED")
    assert operation.ask(place, place.people.reader) == (403, "SCOPE_TOO_LOW")


@dataclass(frozen=True)
class Method:
    """An RPC, as reflection has it, with the fields of its request."""

    service: str
    path: str
    streams: bool
    fields: frozenset[str]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def ask(self, place: Place, token: str | None, request: bytes = b"") -> str:
        """The code of the answer."""
        channel = place.channels[self.service]
        make: Any = channel.unary_stream if self.streams else channel.unary_unary
        call = make(self.path, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer = call(request, metadata=bearer(token) if token else (), timeout=10)
            if self.streams:
                next(answer)
                answer.cancel()
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
        return "OK"


def reflected(place: Place, service: str) -> Iterator[Method]:
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    stub = reflection_pb2_grpc.ServerReflectionStub(place.channels[service])

    def ask(**fields: str) -> Any:
        request = reflection_pb2.ServerReflectionRequest(**fields)
        (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=bearer(place.people.viewer))
        return answer

    names = [item.name for item in ask(list_services="").list_services_response.service]
    for name in names:
        for found in ask(file_containing_symbol=name).file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(found)
            files[file.name] = file
    messages = {
        f".{file.package}.{message.name}": frozenset(field.name for field in message.field)
        for file in files.values()
        for message in file.message_type
    }
    for file in files.values():
        for described in file.service:
            full = f"{file.package}.{described.name}"
            if full in names and file.package.startswith("cairn."):
                for method in described.method:
                    fields = messages[method.input_type]
                    yield Method(service, f"/{full}/{method.name}", method.server_streaming, fields)


@pytest.fixture(scope="module")
def methods(place: Place) -> list[Method]:
    found = [method for service in SERVICES for method in reflected(place, service)]
    assert len(found) >= 35
    return found


def test_no_rpc_answers_without_a_good_token(place: Place, methods: list[Method]) -> None:
    unknown = place.unknown
    shape = [
        Method(service, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", True, frozenset())
        for service in SERVICES
    ]
    wrong = {
        (method.path, who): code
        for method in (*methods, *shape)
        for who, token in unknown.items()
        if (code := method.ask(place, token)) != "UNAUTHENTICATED"
    }
    assert not wrong


def test_a_runs_token_opens_the_rpcs_of_runs_alone(place: Place, methods: list[Method]) -> None:
    opened = {method.name for method in methods if method.ask(place, place.people.run) != "PERMISSION_DENIED"}
    assert opened == OF_RUNS | OF_MLFLOWS_RUNS | {"Serve", "Carry"}


def test_nobody_but_a_service_calls_what_is_for_services(place: Place, methods: list[Method]) -> None:
    refused = {
        method.name: {method.ask(place, token) for token in (place.people.admin, place.people.stranger)}
        for method in methods
        if method.name in OF_SERVICES
    }
    assert refused == {name: {"PERMISSION_DENIED"} for name in OF_SERVICES}


def test_no_rpc_shows_another_team_to_exist(place: Place, methods: list[Method]) -> None:
    team = f"teams/{MAIN}".encode()
    # The parent is the first field of every request that has one.
    wrong = {
        method.path: code
        for method in methods
        if "parent" in method.fields and method.name not in OF_SERVICES | {"ListLogLines", "ListVersions"}
        if method.name not in {"GetLatestCheckpoint", "ListMedia", "GetMedia", "ListWebhookDeliveries"}
        if (code := method.ask(place, place.people.stranger, b"\x0a" + bytes([len(team)]) + team))
        != "NOT_FOUND"
    }
    assert not wrong


@pytest.mark.parametrize(
    "junk", [b"\xff" * 20, b"\x0a\x03\xff\xfe\xfd", b"\x0a\xff\xff\xff\x7f", b"\x0b" * 200]
)
def test_bytes_that_are_no_message_are_a_mistake_of_the_caller(
    place: Place, methods: list[Method], junk: bytes
) -> None:
    codes = {method.path: method.ask(place, place.people.admin, junk) for method in methods}
    tolerated = {"OK", "INVALID_ARGUMENT", "PERMISSION_DENIED"}
    assert {path: code for path, code in codes.items() if code not in tolerated} == {}
