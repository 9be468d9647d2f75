"""The API for MLflow's clients over a real socket: who gets in, and how errors look."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from cairn.quota.v1 import token_pb2
from cairn_common.auth import Role
from cairn_gateway.mlflow import PREFIX, ROUTES
from tests.harness.gateway import Neighbours, bearer, gateway, neighbours

TOKEN = "cairn_0123456789abcdef-ada"
JUNK = "cairn_junkjunkjunkjunkjunk"


@pytest.fixture
async def behind() -> AsyncIterator[Neighbours]:
    async with neighbours() as made:
        made.caller(TOKEN, "main")
        yield made


@pytest.fixture
async def client(behind: Neighbours, nats_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway(nats_url, behind.address) as made:
        yield made


async def test_what_the_server_says_of_itself_is_open(client: httpx.AsyncClient) -> None:
    assert (await client.get("/mlflow/version")).text.startswith("3.")
    assert (await client.get("/mlflow/health")).text == "OK"
    told = (await client.get("/mlflow/api/3.0/mlflow/server-info")).json()
    assert told["workspaces_enabled"]
    assert told["artifacts_presigned_only"]


async def test_errors_are_those_that_mlflows_clients_read(client: httpx.AsyncClient) -> None:
    unknown = await client.get("/mlflow/api/2.0/mlflow/nothing", headers=bearer(TOKEN))
    assert (unknown.status_code, unknown.json()["error_code"]) == (404, "ENDPOINT_NOT_FOUND")
    foreign = await client.get("/mlflow/version", headers={"Host": "evil.example"})
    assert (foreign.status_code, foreign.json()["error_code"]) == (421, "PERMISSION_DENIED")
    out = await client.get("/mlflow/api/2.0/mlflow-artifacts/artifacts/%2e%2e/x", headers=bearer(TOKEN))
    assert (out.status_code, out.json()["message"]) == (400, "Invalid path")


async def test_no_route_answers_without_a_good_token(client: httpx.AsyncClient) -> None:
    for route in ROUTES:
        for headers in ({}, bearer(JUNK), {"Authorization": "Bearer"}):
            answer = await client.request(route.method, PREFIX + route.path, headers=headers)
            assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED"), route


async def test_who_may_only_look_is_refused_where_something_changes(
    client: httpx.AsyncClient, behind: Neighbours
) -> None:
    viewer = behind.caller("cairn_0123456789abcdef-bob", "main", role=token_pb2.ROLE_VIEWER)
    other = behind.caller("cairn_0123456789abcdef-eve", "rivals")
    for route in ROUTES:
        path = PREFIX + route.path.replace("{path:path}", "a/b")
        answer = await client.request(route.method, path, headers=bearer(viewer))
        assert (answer.status_code == 403) == (route.role > Role.VIEWER), route
        headers = {**bearer(other), "X-MLFLOW-WORKSPACE": "main"}
        answer = await client.request(route.method, path, headers=headers)
        assert answer.json()["message"] == "Workspace 'main' not found", route


async def test_who_may_only_look_and_who_is_of_another_team_open_nothing_else(
    client: httpx.AsyncClient, behind: Neighbours
) -> None:
    viewer = behind.caller("cairn_0123456789abcdef-bob", "main", role=token_pb2.ROLE_VIEWER)
    stranger = behind.caller("cairn_0123456789abcdef-eve", "other")
    for route in ROUTES:
        path = PREFIX + route.path.replace("{path:path}", "x").replace("{tag_key:path}", "x")
        if route.role > Role.VIEWER:
            refused = await client.request(route.method, path, headers=bearer(viewer))
            assert (refused.status_code, refused.json()["error_code"]) == (403, "PERMISSION_DENIED"), route
        other = bearer(stranger) | {"X-MLFLOW-WORKSPACE": "main"}
        hidden = await client.request(route.method, path, headers=other)
        assert (hidden.status_code, hidden.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST"), route


def test_every_route_asks_for_a_role_and_stands_once() -> None:
    assert {route.role for route in ROUTES} <= {Role.VIEWER, Role.MEMBER, Role.ADMIN}
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
