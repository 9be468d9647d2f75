"""The check at the door of the API: no path below /api is answered without a good token."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from cairn_common.auth import Principal
from cairn_common.errors import Reason, Unauthenticated
from cairn_gateway.upstream import Caller

_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,512})", re.IGNORECASE)


class Door:
    """An ASGI application around the routes. The services check the token again, each for itself."""

    def __init__(self, app: ASGIApp, *, authenticate: Callable[[str], Awaitable[Principal]]) -> None:
        self.app = app
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/api" or scope["path"].startswith("/api/"):
            token = bearer(Headers(scope=scope).getlist("authorization"))
            principal = await self._authenticate(token)
            scope["state"]["caller"] = Caller(
                token=token, principal=principal, request_id=scope["state"]["request_id"]
            )
        await self.app(scope, receive, send)


def bearer(given: list[str]) -> str:
    """The token of the Authorization header. Raises Unauthenticated."""
    match = _BEARER.fullmatch(given[0].strip()) if len(given) == 1 else None
    if match is None:
        raise Unauthenticated("send a token: `Authorization: Bearer <token>`", reason=Reason.TOKEN_MISSING)
    return match[1]


def caller_of(request: Request) -> Caller:
    """Who sent a request below /api."""
    caller: Caller = request.state.caller
    return caller
