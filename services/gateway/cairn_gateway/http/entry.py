"""How people come in and leave: the answers that set or take away the page's cookie."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import cast

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from starlette.requests import Request
from starlette.responses import Response

from cairn.quota.v1 import quota_pb2, user_service_pb2
from cairn_gateway import wire
from cairn_gateway.http import people
from cairn_gateway.http.cookie import WANTED, Cookie
from cairn_gateway.http.door import caller_of
from cairn_gateway.http.request import read
from cairn_gateway.http.route import Route
from cairn_gateway.upstream import Upstream

Answer = Callable[[Request], Awaitable[Response]]


def come_in(route: Route, upstream: Upstream, cookie: Cookie) -> Answer:
    """Answers with a session: its secret in the body, or, where the page asks, in a cookie alone."""

    async def answer(request: Request) -> Response:
        message = await read(route, request)
        made = await upstream.call(route.descriptor, message, caller_of(request))
        session = cast(user_service_pb2.Session, made)
        if WANTED not in request.headers:
            return as_json(session)
        secret, session.secret = session.secret, ""
        response = as_json(session)
        cookie.set(response.headers, secret, seconds=seconds_until(session.token.expire_time))
        return response

    return answer


def leave(upstream: Upstream, cookie: Cookie) -> Answer:
    """Ends the session that the request comes by."""

    async def answer(request: Request) -> Response:
        await read(people.SIGN_OUT, request)
        caller = caller_of(request)
        own = quota_pb2.RevokeTokenRequest(name=f"tokens/{caller.principal.token_uid}")
        response = as_json(await upstream.call(people.SIGN_OUT.descriptor, own, caller))
        if caller.by_cookie:
            cookie.set(response.headers, "", seconds=0)
        return response

    return answer


def seconds_until(end: Timestamp) -> int:
    """For so long a browser keeps a cookie that is good until then."""
    return max(end.ToSeconds() - int(time.time()), 0)


def as_json(message: Message) -> Response:
    """A message as the answer."""
    return Response(wire.dumps(wire.to_json(message)), media_type="application/json")
