"""The check at the door of the API: no path below /api is answered without a good token, but those few by
which people come in."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_common.auth import Principal
from cairn_common.auth import Scope as TokenScope
from cairn_common.errors import Reason, Unauthenticated
from cairn_gateway.http import cookie
from cairn_gateway.http.address import Networks, client_address
from cairn_gateway.http.cookie import Cookie
from cairn_gateway.http.limits import Load
from cairn_gateway.http.strangers import Authenticate
from cairn_gateway.upstream import Caller

_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,512})", re.IGNORECASE)
_TEAM = re.compile(r"/api/v\d+/teams/([^/:]+)")
NOBODY = Principal(subject="", scope=TokenScope.NONE)
"""Who has not come in yet."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """How people come in."""

    authenticate: Authenticate
    cookie: Cookie
    # The gateway's own token, for those who have none.
    token: str
    # Method and path of what needs no token.
    public: frozenset[tuple[str, str]]
    hosts: frozenset[str]
    teams: Load
    proxies: Networks


class Door:
    """An ASGI application around the routes. The services check the token again, each for itself."""

    def __init__(self, app: ASGIApp, entrance: Entrance) -> None:
        self.app = app
        self._entrance = entrance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/api" or scope["path"].startswith("/api/"):
            caller = await self._caller(scope)
            scope["state"]["caller"] = caller
            self._count(scope, caller.principal)
            if caller.by_cookie and scope["method"] == "GET":
                send = _with_proof(send, caller.token)
        await self.app(scope, receive, send)

    def _count(self, scope: Scope, who: Principal) -> None:
        """Takes of the room of the team that the path names; who is not in it takes none."""
        named = _TEAM.match(scope["path"])
        if named is not None and named[1] in who.roles:
            scope["state"]["lifetime"].held.enter_context(self._entrance.teams.slot(named[1]))

    async def _caller(self, scope: Scope) -> Caller:
        entrance, headers = self._entrance, Headers(scope=scope)
        known = Caller(
            token=entrance.token,
            principal=NOBODY,
            request_id=scope["state"]["request_id"],
            address=client_address(scope, entrance.proxies),
        )
        if (scope["method"], scope["path"]) in entrance.public:
            return known
        given = headers.getlist("authorization")
        secret = "" if given else entrance.cookie.secret(headers)
        if secret:
            cookie.check_own(scope["method"], headers, secret, entrance.hosts)
        token = secret or bearer(given)
        principal = await entrance.authenticate(token, scope)
        return replace(known, token=token, principal=principal, by_cookie=bool(secret))


def _with_proof(send: Send, secret: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[cookie.CSRF] = cookie.proof(secret)
        await send(message)

    return sending


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
