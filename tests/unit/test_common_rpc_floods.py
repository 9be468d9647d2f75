"""Who floods a service's port, or asks too often, is cut off or told so, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import structlog
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cairn.quota.v1 import quota_pb2, quota_pb2_grpc, team_pb2
from cairn_common import _guard, rpc
from cairn_common.auth import Principal, Role, Scope, access
from cairn_common.errors import Reason, Unauthenticated
from cairn_common.rate import Rates
from tests.harness import http2
from tests.harness.http2 import CONTINUATION, DATA, END_HEADERS, HEADERS, PING, RESET, SETTINGS, frame
from tests.harness.problem import problem

GET_TEAM = "/cairn.quota.v1.QuotaService/GetTeam"
TOKEN, OTHER, SERVICE = "member-token-123456", "other-token-1234567", "service-token-12345"
KNOWN = {
    TOKEN: Principal("users/ada", Scope.WRITE, {"main": Role.MEMBER}, "t1"),
    OTHER: Principal("users/bob", Scope.WRITE, {"main": Role.MEMBER}, "t2"),
    SERVICE: Principal("services/gateway", Scope.ADMIN, {}, "t3"),
}
MANY = 4000


async def authenticate(token: str) -> Principal:
    try:
        return KNOWN[token]
    except KeyError:
        raise Unauthenticated("this token is not known here") from None


class Quota(quota_pb2_grpc.QuotaServiceServicer):
    """Tells which trace its work belongs to."""

    async def GetTeam(self, request: quota_pb2.GetTeamRequest, context: Any) -> team_pb2.Team:
        return team_pb2.Team(name=structlog.contextvars.get_contextvars()["trace_id"])


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[rpc.Server]:
    async with rpc.server(
        bind="127.0.0.1:0",
        access={GET_TEAM: access(Role.VIEWER)},
        authenticate=authenticate,
        services=[lambda made: quota_pb2_grpc.add_QuotaServiceServicer_to_server(Quota(), made)],
        names=[],
        rates=Rates(*getattr(request, "param", (0.0, 1.0))),
    ) as running:
        yield running


async def ask(channel: aio.Channel, token: str = TOKEN, **metadata: str) -> team_pb2.Team:
    return await quota_pb2_grpc.QuotaServiceStub(channel).GetTeam(
        quota_pb2.GetTeamRequest(name="main"),
        metadata=(("authorization", f"Bearer {token}"), *metadata.items()),
    )


def each(flood: str) -> list[bytes]:
    """The frames of a flood."""
    head, streams = http2.call(GET_TEAM, TOKEN), itertools.count(1, 2)
    begun = frame(HEADERS, END_HEADERS, 1, head)
    match flood:
        case "pings":
            return [frame(PING, 0, 0, b"12345678")] * MANY
        case "settings":
            return [frame(SETTINGS, 0, 0)] * MANY
        case "headers that go on":
            return [
                frame(HEADERS, 0, 1, head),
                *[frame(CONTINUATION, 0, 1, http2.field("x", "y" * 99))] * MANY,
            ]
        case "empty data":
            return [begun, *[frame(DATA, 0, 1)] * MANY]
        case "calls taken back at once":
            pairs = (next(streams) for _ in range(MANY))
            return [
                frame(HEADERS, END_HEADERS, number, head) + frame(RESET, 0, number, b"\0\0\0\x08")
                for number in pairs
            ]
    raise AssertionError(flood)


@pytest.mark.parametrize(
    "flood",
    [
        "pings",
        "settings",
        "headers that go on",
        "empty data",
        "calls taken back at once",
    ],
)
async def test_others_are_served_while_somebody_floods_the_port(server: rpc.Server, flood: str) -> None:
    """Pings, which cost nobody a call, end the connection that they come by."""
    pieces = each(flood)
    async with asyncio.timeout(30), rpc.channel(f"127.0.0.1:{server.port}") as channel:
        pouring = asyncio.create_task(http2.pour(server.port, pieces, until_cut=flood == "pings"))
        answered = 0
        while not pouring.done() or not answered:
            await ask(channel, OTHER)
            answered += 1
        await pouring
        await ask(channel, OTHER)


@pytest.mark.parametrize(("token", "connections"), [("", 1), ("", 4), (TOKEN, 1), (TOKEN, 4)])
async def test_others_are_served_while_calls_are_begun_that_send_nothing(
    server: rpc.Server, token: str, connections: int
) -> None:
    """Who may not call is refused at the headers; who may holds their own share of the room."""
    begun = http2.call(GET_TEAM, token or "nobody-knows-this-one")
    each = 1000 // connections
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        ends = []
        for _ in range(connections):
            reader, writer = await stack.enter_async_context(http2.connection(server.port))
            writer.write(b"".join(frame(HEADERS, END_HEADERS, 2 * n + 1, begun) for n in range(each)))
            await writer.drain()
            ends.append(reader)
        channel = await stack.enter_async_context(rpc.channel(f"127.0.0.1:{server.port}"))
        for _ in range(20):
            await ask(channel, OTHER)
        # All without a token are answered, and of one with a token all beyond their share.
        refused = 1000 if not token else 1000 - _guard.MOST_OF_ONE
        await http2.ended(ends, at_least=refused)
        await ask(channel, OTHER)


async def test_a_message_that_does_not_come_is_not_waited_for(
    server: rpc.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_guard, "MESSAGE_WITHIN", 0.05)
    async with http2.connection(server.port) as (reader, writer), asyncio.timeout(30):
        begun = http2.call(GET_TEAM, TOKEN)
        writer.write(b"".join(frame(HEADERS, END_HEADERS, 2 * n + 1, begun) for n in range(100)))
        await http2.ended([reader], at_least=100)
        async with rpc.channel(f"127.0.0.1:{server.port}") as channel:
            await ask(channel)


async def test_health_is_told_while_somebody_elsewhere_asks_for_it_and_sends_nothing(
    server: rpc.Server,
) -> None:
    begun = http2.call("/grpc.health.v1.Health/Check", "none")
    async with http2.connection(server.port, source="127.0.0.2") as (reader, writer), asyncio.timeout(30):
        writer.write(b"".join(frame(HEADERS, END_HEADERS, 2 * n + 1, begun) for n in range(1000)))
        await http2.ended([reader], at_least=1000 - _guard.MOST_OF_ADDRESS)
        async with rpc.channel(f"127.0.0.1:{server.port}") as channel:
            told = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert told.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("server", [(0.01, 3)], indirect=True)
async def test_a_token_that_asks_too_often_is_told_when_to_come_back(server: rpc.Server) -> None:
    async with rpc.channel(f"127.0.0.1:{server.port}") as channel:
        for _ in range(3):
            await ask(channel)
        refused = await problem(ask(channel))
        assert (refused.reason, refused.metadata["retry_after"]) == (Reason.RATE_EXCEEDED, "100")
        await ask(channel, OTHER)
        # A service asks for everybody.
        for _ in range(5):
            await ask(channel, SERVICE)


async def test_a_call_belongs_to_the_trace_that_its_caller_names(server: rpc.Server) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with rpc.channel(f"127.0.0.1:{server.port}") as channel:
        assert (await ask(channel, traceparent=f"00-{trace}-00f067aa0ba902b7-01")).name == trace
        for odd in ("", "00-0-0-0", f"ff-{trace}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01"):
            made = (await ask(channel, traceparent=odd)).name
            assert len(made) == 32
            assert made != trace
