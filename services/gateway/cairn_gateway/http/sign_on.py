"""The browser's legs of single sign-on: off to the provider, back from it, and into the session's cookie.

What ties a login to the browser that began it lies in a cookie of its own, which comes along when the
provider sends the browser back (SameSite=Lax; the session's, which is Strict, does not). Every way ends at
this page: where it goes on is a view behind the `#`, and no address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from cairn.quota.v1 import user_service_pb2
from cairn_common.errors import DomainError, Reason
from cairn_gateway.http.cookie import Cookie
from cairn_gateway.http.door import caller_of
from cairn_gateway.http.entry import as_json, seconds_until
from cairn_gateway.http.request import read
from cairn_gateway.http.route import SERVICES, Route
from cairn_gateway.upstream import Upstream

Answer = Callable[[Request], Awaitable[Response]]
WAYS = Route(
    method="GET",
    path="/sign-in",
    rpc="UserService/GetSignInWays",
    summary="By what people come in here, besides passwords and tokens.",
    public=True,
)
BEGIN = Route(
    method="POST",
    path="/oidc/logins",
    rpc="UserService/CreateOidcLogin",
    summary="Begin single sign-on: where the browser goes, and a cookie that ties the login to it.",
    public=True,
)
CONFIRM = Route(
    method="POST",
    path="/oidc/logins:confirm",
    rpc="UserService/ConfirmOidcLogin",
    summary="Give the password of the user with one's address, once. The secret goes into a cookie alone.",
    public=True,
    bind={"binding": "-"},
)
BACK = "/oidc/callback"
"""Where the provider sends browsers; no route of the API, as what it answers is for browsers alone."""
_FINISH = SERVICES["UserService"].methods_by_name["FinishOidcLogin"]
_TOLD = ("state", "code", "iss")
_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class SignOn:
    """The answers. `cookie` is the session's, `binding` that of a login on its way."""

    upstream: Upstream
    cookie: Cookie
    binding: Cookie

    async def begin(self, request: Request) -> Response:
        """Where the browser goes now."""
        message = await read(BEGIN, request)
        made = cast(
            user_service_pb2.CreateOidcLoginResponse,
            await self.upstream.call(BEGIN.descriptor, message, caller_of(request)),
        )
        secret, made.binding = made.binding, ""
        response = as_json(made)
        self.binding.set(response.headers, secret, seconds=seconds_until(made.expire_time))
        return response

    async def back(self, request: Request) -> Response:
        """It is back: in, or with a word about why not."""
        told = {name: request.query_params.get(name, "")[:_LONGEST] for name in _TOLD}
        if not told["code"]:
            # The person said no, or the provider did; in its own words nobody here has any trust.
            return self._out(Reason.LOGIN_REFUSED)
        asked = user_service_pb2.FinishOidcLoginRequest(
            state=told["state"],
            code=told["code"],
            issuer=told["iss"],
            binding=self.binding.secret(request.headers),
        )
        try:
            made = await self.upstream.call(_FINISH, asked, caller_of(request))
        except DomainError as error:
            return self._out(error.reason)
        opened = cast(user_service_pb2.OidcSession, made)
        response = Response(status_code=303, headers={"Location": f"/#{opened.return_path}"})
        self._keep(response, opened)
        return response

    async def confirm(self, request: Request) -> Response:
        """Into the session, by the password."""
        message = cast(user_service_pb2.ConfirmOidcLoginRequest, await read(CONFIRM, request))
        message.binding = self.binding.secret(request.headers)
        made = await self.upstream.call(CONFIRM.descriptor, message, caller_of(request))
        opened = cast(user_service_pb2.OidcSession, made)
        secret, opened.session.secret = opened.session.secret, ""
        response = as_json(opened)
        opened.session.secret = secret
        self._keep(response, opened)
        return response

    def _keep(self, response: Response, opened: user_service_pb2.OidcSession) -> None:
        session = opened.session
        self.cookie.set(response.headers, session.secret, seconds=seconds_until(session.token.expire_time))
        self.binding.set(response.headers, "", seconds=0)

    def _out(self, reason: Reason) -> Response:
        response = Response(status_code=303, headers={"Location": f"/#sign-in={reason}"})
        if reason is not Reason.PASSWORD_NEEDED:
            self.binding.set(response.headers, "", seconds=0)
        return response
