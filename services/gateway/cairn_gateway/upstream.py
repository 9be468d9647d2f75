"""Calls to the services, with the caller's own token: the gateway has no power to add."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from cairn_common import rpc, trace
from cairn_common.auth import Principal
from cairn_common.errors import DomainError, InvalidArgument, Unavailable, from_rpc_error
from cairn_gateway.settings import GatewaySettings

CALL_TIMEOUT = 25.0
"""Seconds for one call: below the 30 s of a request, so that the answer can still say what was late."""

MOST_MESSAGE_BYTES = 4 * 1024 * 1024
"""What a service accepts in one message."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the token to pass on, and what it says."""

    token: str = field(repr=False)
    principal: Principal
    request_id: str
    # Of the client, as far as is known.
    address: str = ""
    # Whether the token came in the page's cookie.
    by_cookie: bool = False

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes on with a call."""
        found = [("authorization", f"Bearer {self.token}"), ("x-request-id", self.request_id)]
        if self.address:
            found.append(("x-client-address", self.address))
        if parent := trace.parent():
            found.append((trace.HEADER, parent))
        return tuple(found)


class Upstream:
    """The services behind the gateway, by the name in their protos' package."""

    def __init__(
        self, channels: Mapping[str, grpc.aio.Channel], bare: Mapping[str, grpc.aio.Channel]
    ) -> None:
        """`bare` are channels that add nothing to a call, for those that are made here."""
        self.channels = channels
        self._bare = bare
        self._methods: dict[tuple[str, type[Message]], Any] = {}

    async def call(self, method: MethodDescriptor, request: Message, caller: Caller) -> Message:
        """One unary call as the caller. Raises the DomainError that the service answered with."""
        service = method.containing_service
        neighbour = service.full_name.split(".")[1]
        if request.ByteSize() > MOST_MESSAGE_BYTES:
            raise InvalidArgument("the request is larger than 4 MiB as a message; send it in pieces")
        invoke = self._methods.get((method.full_name, type(request)))
        if invoke is None:
            invoke = self._bare[neighbour].unary_unary(
                f"/{service.full_name}/{method.name}",
                # Of its own class: the one of the base class serializes nothing, and says nothing.
                request_serializer=type(request).SerializeToString,
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
            )
            self._methods[method.full_name, type(request)] = invoke
        try:
            answer: Message = await invoke(request, timeout=CALL_TIMEOUT, metadata=caller.metadata)
        except grpc.aio.AioRpcError as error:
            raise _translated(error, neighbour) from error
        return answer

    async def stream(
        self, service: str, method: str, messages: AsyncIterator[bytes], caller: Caller
    ) -> AsyncGenerator[bytes, None]:
        """A streaming call as the caller, its messages as bytes. Raises the DomainError that it ends with.

        Leaving the iteration ends the call.
        """
        neighbour = service.split(".")[1]
        invoke: Any = self.channels[neighbour].stream_stream(f"/{service}/{method}")
        call = invoke(messages, metadata=caller.metadata)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise _translated(error, neighbour) from error
        finally:
            call.cancel()


@asynccontextmanager
async def connect(settings: GatewaySettings) -> AsyncIterator[Upstream]:
    """Channels to the neighbours; nothing is dialled before the first call, so none needs to be up."""
    addresses = {
        "scheduler": settings.scheduler_address,
        "quota": settings.quota_address,
        "tracker": settings.tracker_address,
    }
    async with AsyncExitStack() as stack:
        channels, bare = {}, {}
        for name, address in addresses.items():
            channels[name] = rpc.channel(address, None, tls=settings.tls)
            bare[name] = rpc.bare_channel(address, tls=settings.tls)
            for made in (channels[name], bare[name]):
                stack.push_async_callback(made.close)
        yield Upstream(channels, bare)


def _translated(error: grpc.aio.AioRpcError, neighbour: str) -> DomainError:
    translated = from_rpc_error(error)
    if error.code() is grpc.StatusCode.UNAVAILABLE and not translated.metadata:
        # What gRPC itself says here names addresses of the inside.
        details = error.details() or ""
        if "connect" in details or "ocket" in details or "ipv" in details:
            return Unavailable(f"the {neighbour} does not answer; try again", neighbour=neighbour)
    return translated
