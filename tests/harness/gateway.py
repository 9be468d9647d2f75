"""The gateway in the test's own process, between small gRPC servers that record what they hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc import aio

from cairn.quota.v1 import token_pb2
from cairn_common.errors import DomainError, Unauthenticated, to_status
from cairn_gateway.app import running
from cairn_gateway.http.route import SERVICES
from cairn_gateway.settings import GatewaySettings

SERVICE_TOKEN = "cairn_gateways-own-token"
Answer = Message | DomainError | Callable[[], Any]


@dataclass(frozen=True)
class Call:
    """One call as a neighbour heard it."""

    method: str
    request: Any
    token: str
    request_id: str
    traceparent: str = ""


@dataclass
class Neighbours:
    """Scheduler, quota and tracker in one server: they know tokens, and answer what they are told to."""

    address: str = ""
    tokens: dict[str, token_pb2.Principal] = field(default_factory=dict)
    # By the RPC's name; what is not here answers an empty message.
    answers: dict[str, Answer] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def caller(self, token: str, *teams: str, role: token_pb2.Role.ValueType = token_pb2.ROLE_OWNER) -> str:
        """Makes a token known; returns it."""
        memberships = [token_pb2.Principal.Membership(team=team, role=role) for team in teams]
        self.tokens[token] = token_pb2.Principal(
            subject="users/ada", scope=token_pb2.SCOPE_ADMIN, memberships=memberships, token_uid=token[-8:]
        )
        return token

    async def answer(self, method: str, request: Any, context: aio.ServicerContext[Any, Any]) -> Message:
        """One call, whatever it is."""
        metadata = dict(context.invocation_metadata() or ())
        token = str(metadata.get("authorization", "")).removeprefix("Bearer ")
        name = method.rpartition("/")[2]
        told = (str(metadata.get(header, "")) for header in ("x-request-id", "traceparent"))
        self.calls.append(Call(name, request, token, *told))
        if name == "CheckToken":
            asked = self.tokens.get(request.token)
            return asked if asked is not None else await fail(context, Unauthenticated("not known here"))
        if token not in self.tokens:
            return await fail(context, Unauthenticated("not known here"))
        answer = self.answers.get(name)
        if callable(answer):
            answer = await answer()
        if isinstance(answer, DomainError):
            return await fail(context, answer)
        return answer if answer is not None else _empty(method)

    def heard(self, name: str) -> Call:
        """The last call of this RPC."""
        return next(call for call in reversed(self.calls) if call.method == name)


async def fail(context: aio.ServicerContext[Any, Any], error: DomainError) -> Any:
    """Ends a call as every service of ours does."""
    status = to_status(error)
    await context.abort(
        error.code, status.message, (("grpc-status-details-bin", status.SerializeToString()),)
    )


def _empty(method: str) -> Message:
    service, name = method.removeprefix("/").split("/")
    descriptor = SERVICES[service.rpartition(".")[2]].methods_by_name[name]
    return message_factory.GetMessageClass(descriptor.output_type)()


class _Everything(grpc.GenericRpcHandler):
    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        service, name = details.method.removeprefix("/").split("/")
        found = SERVICES.get(service.rpartition(".")[2])
        if found is None:
            return None
        request = message_factory.GetMessageClass(found.methods_by_name[name].input_type)

        async def behaviour(message: Any, context: Any) -> Message:
            return await self._neighbours.answer(details.method, message, context)

        return grpc.unary_unary_rpc_method_handler(
            behaviour, request.FromString, lambda message: message.SerializeToString()
        )


@asynccontextmanager
async def neighbours() -> AsyncIterator[Neighbours]:
    """The neighbours, for the block."""
    made = Neighbours()
    made.tokens[SERVICE_TOKEN] = token_pb2.Principal(subject="services/gateway")
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Everything(made),))
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield made
    await server.stop(0)


@asynccontextmanager
async def gateway(nats_url: str, address: str, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway, for the block, and a client of it without a token."""
    made = GatewaySettings(
        **{
            "service_token": SERVICE_TOKEN,
            "nats_url": nats_url,
            "quota_address": address,
            "scheduler_address": address,
            "tracker_address": address,
            **settings,
        }
    )
    async with (
        running(made) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client,
    ):
        yield client


@dataclass(frozen=True)
class Frame:
    """One server-sent event."""

    id: str
    event: str
    data: str


async def frames(lines: AsyncIterator[str]) -> AsyncIterator[Frame]:
    """Server-sent events of a response's lines."""
    found: dict[str, str] = {}
    async for line in lines:
        if line.startswith(":"):
            continue
        if not line and "data" in found:
            yield Frame(found.get("id", ""), found.get("event", "message"), found["data"])
            found = {}
        elif line:
            name, _, value = line.partition(": ")
            found[name] = value


async def take(stream: AsyncIterator[Frame], count: int) -> list[Frame]:
    """The next frames of a stream."""
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(count)]


def bearer(token: str) -> dict[str, str]:
    """The header that carries a token."""
    return {"Authorization": f"Bearer {token}"}


def events_of(frames: Iterable[Frame]) -> list[str]:
    """Names of events."""
    return [frame.event for frame in frames]
