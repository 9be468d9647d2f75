"""What is added to each call to a neighbour: token, request id, deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog
from grpc import aio

from cairn_common import trace
from cairn_common._ended import replies_of


class ClientCalls:
    """Makes the interceptors of a channel, one for each kind of call."""

    def __init__(self, *, token: str | None, timeout: float) -> None:
        self._token = token
        self._timeout = timeout

    def interceptors(self) -> Sequence[aio.ClientInterceptor]:
        """For `grpc.aio.insecure_channel`."""
        return (_UnaryUnary(self), _UnaryStream(self), _StreamUnary(self), _StreamStream(self))

    def details(self, given: aio.ClientCallDetails, *, deadline: bool) -> aio.ClientCallDetails:
        """The call's details, completed. Streams get no deadline of their own."""
        metadata = aio.Metadata(*(given.metadata or ()))
        names = {name for name, _ in metadata}
        if self._token is not None and "authorization" not in names:
            metadata.add("authorization", f"Bearer {self._token}")
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        if request_id and "x-request-id" not in names:
            metadata.add("x-request-id", str(request_id))
        parent = trace.parent()
        if parent and trace.HEADER not in names:
            metadata.add(trace.HEADER, parent)
        return aio.ClientCallDetails(
            method=given.method,
            timeout=self._timeout if deadline and given.timeout is None else given.timeout,
            metadata=metadata,
            credentials=given.credentials,
            wait_for_ready=given.wait_for_ready,
        )


# gRPC calls one method per kind, and all four have the same shape, but for their types.
class _UnaryUnary(aio.UnaryUnaryClientInterceptor):
    def __init__(self, calls: ClientCalls) -> None:
        self._calls = calls

    async def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._calls.details(client_call_details, deadline=True), request)


class _UnaryStream(aio.UnaryStreamClientInterceptor):
    def __init__(self, calls: ClientCalls) -> None:
        self._calls = calls

    async def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._calls.details(client_call_details, deadline=False), request)


class _StreamUnary(aio.StreamUnaryClientInterceptor):
    def __init__(self, calls: ClientCalls) -> None:
        self._calls = calls

    async def intercept_stream_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await continuation(self._calls.details(client_call_details, deadline=False), request_iterator)


class _StreamStream(aio.StreamStreamClientInterceptor):
    def __init__(self, calls: ClientCalls) -> None:
        self._calls = calls

    async def intercept_stream_stream(
        self,
        continuation: Callable[..., Any],
        client_call_details: aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        details = self._calls.details(client_call_details, deadline=False)
        return replies_of(await continuation(details, request_iterator))
