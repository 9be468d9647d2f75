"""Streams both ways: a WebSocket is an RPC of the attach service, or a connection to the bus.

Each binary message is one message of the RPC, as protobuf, or some bytes for the bus; none of them is read
here. The end comes as a close (1000), or as a problem document in a text message and then a close (4000 + its
status). So a person and a job's runner reach each other, and a run the bus, through this one door, with their
tokens, wherever HTTP can go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from http import HTTPStatus

import structlog
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.utils import ClientDisconnected

from cairn_common import trace
from cairn_common.ids import new_uid
from cairn_gateway import problems
from cairn_gateway.http.door import bearer
from cairn_gateway.http.limits import Load, check_host, check_path
from cairn_gateway.http.strangers import Authenticate
from cairn_gateway.tasks import until_one_ends
from cairn_gateway.tunnel import Tunnel, check_may
from cairn_gateway.upstream import Caller, Upstream

log = structlog.get_logger(__name__)

SERVICE = "cairn.scheduler.v1.AttachService"
PATHS = {
    "/api/v1/streams/attach": "Attach",
    "/api/v1/streams/serve": "Serve",
    "/api/v1/streams/carry": "Carry",
}
BUS = "/api/v1/streams/bus"
MOST_STREAMS = 400
MOST_STREAMS_EACH = 128
MOST_TUNNELS = 800
MOST_TUNNELS_EACH = 256
_NORMAL, _PRIVATE = 1000, 4000
# For the last words of a client that has ended well to arrive.
_LINGER_SECONDS = 5.0


class Streams:
    """The ASGI application of all WebSockets."""

    def __init__(
        self,
        upstream: Upstream,
        tunnel: Tunnel,
        *,
        authenticate: Authenticate,
        hosts: frozenset[str],
    ) -> None:
        self._upstream = upstream
        self._tunnel = tunnel
        self._authenticate = authenticate
        self._hosts = hosts
        self._load = Load(most=MOST_STREAMS, most_each=MOST_STREAMS_EACH, what="streams")
        self._tunnels = Load(most=MOST_TUNNELS, most_each=MOST_TUNNELS_EACH, what="connections to the bus")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = new_uid()
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        trace.enter(Headers(scope=scope).get(trace.HEADER, ""))
        accepted = False
        try:
            caller = await self._enter(scope, request_id)
            load = self._tunnels if scope["path"] == BUS else self._load
            with load.slot(caller.token):
                await receive()  # websocket.connect
                await send({"type": "websocket.accept"})
                accepted = True
                said = _Said(receive)
                with suppress(ClientDisconnected):
                    await _carry(said, self._answers(scope["path"], said, caller), send)
        except Exception as error:
            with suppress(ClientDisconnected):
                await _refuse(error, send, request_id=request_id, accepted=accepted)

    def _answers(self, path: str, said: _Said, caller: Caller) -> AsyncGenerator[bytes, None]:
        if path == BUS:
            return self._tunnel.talk(said.messages())
        return self._upstream.stream(SERVICE, PATHS[path], said.messages(), caller)

    async def _enter(self, scope: Scope, request_id: str) -> Caller:
        headers = Headers(scope=scope)
        check_host(headers.getlist("host"), self._hosts)
        check_path(scope["path"], scope.get("raw_path", b""))
        if scope["path"] != BUS and scope["path"] not in PATHS:
            raise problems.HttpError(404, "ROUTE_UNKNOWN", f"{scope['path']} is not a stream")
        # A browser cannot send this header with a WebSocket: no page opens one in somebody's name.
        token = bearer(headers.getlist("authorization"))
        principal = await self._authenticate(token, scope)
        if scope["path"] == BUS:
            check_may(principal)
        return Caller(token=token, principal=principal, request_id=request_id)


async def _carry(said: _Said, answers: AsyncGenerator[bytes, None], send: Send) -> None:
    """Both ways at once, until the answers end or the client leaves. Raises DomainError."""

    async def pass_on() -> None:
        async with aclosing(answers) as replies:
            async for reply in replies:
                await send({"type": "websocket.send", "bytes": reply})
        await send({"type": "websocket.close", "code": _NORMAL})

    await until_one_ends(pass_on(), said.left.wait())


class _Said:
    """What a client says: bytes, until it says that this was all, or goes; `left` once it has gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.left = asyncio.Event()

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """Asked for one by one: who is not asked for more waits."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                # Gone it is in any case; an RPC that has nothing to send would never find out.
                linger = _LINGER_SECONDS if message.get("code") == _NORMAL else 0.0
                asyncio.get_running_loop().call_later(linger, self.left.set)
                return
            data = message.get("bytes")
            if data is None:
                self.left.set()  # no client of ours sends text
                return
            yield data


async def _refuse(error: Exception, send: Send, *, request_id: str, accepted: bool) -> None:
    response = problems.of_exception(error, request_id=request_id)
    if response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("stream.failed", exc_info=error)
    if accepted:
        await send({"type": "websocket.send", "text": bytes(response.body).decode()})
        await send({"type": "websocket.close", "code": _PRIVATE + response.status_code})
        return
    headers = [*response.raw_headers, (b"x-request-id", request_id.encode())]
    await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": bytes(response.body)})
