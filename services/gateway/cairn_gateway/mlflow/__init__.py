"""The API that stock MLflow clients speak, below `/mlflow`: translate, call, translate back.

`ROUTES` is the whole table of what it does; each row names the role that it asks for. All state is the
tracker's, and runs are the same runs that Cairn's own API has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Place
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from cairn_common.auth import access, admit, require
from cairn_common.rate import Rates
from cairn_gateway.http.address import Networks
from cairn_gateway.http.coding import read_body
from cairn_gateway.http.edge import Edge
from cairn_gateway.http.limits import Limits, Load
from cairn_gateway.http.strangers import Authenticate
from cairn_gateway.mlflow import (
    about,
    artifacts,
    assessments,
    direct,
    door,
    errors,
    experiments,
    logged_models,
    metrics,
    registry,
    runs,
    traces,
    unimplemented,
)
from cairn_gateway.mlflow.errors import MlflowError
from cairn_gateway.mlflow.fields import LARGEST_BODY, Fields, of_body, of_query
from cairn_gateway.mlflow.route import Asked, Route
from cairn_gateway.mlflow.transfer import Transfer
from cairn_gateway.upstream import Caller, Upstream

PREFIX: Final = "/mlflow"
ROUTES: Final[Sequence[Route]] = (
    *experiments.ROUTES,
    *runs.ROUTES,
    *metrics.ROUTES,
    *artifacts.ROUTES,
    *direct.ROUTES,
    *registry.ROUTES,
    *logged_models.ROUTES,
    *traces.ROUTES,
    *assessments.ROUTES,
)
# Bytes of files come and go through here: longer than a question takes.
_SECONDS: Final = 900.0

Respond = Callable[[Request], Awaitable[Response]]


def create_app(
    *,
    upstream: Upstream,
    transfer: Transfer,
    authenticate: Authenticate,
    hosts: frozenset[str],
    rates: Rates,
    teams: Load,
    proxies: Networks,
) -> ASGIApp:
    """The application for everything below `PREFIX`, every layer around it."""
    places = [
        Place(path, _open(answer), methods=["GET"])
        for known, answer in about.OPEN.items()
        for path in _names(known)
    ]
    exact: dict[tuple[str, str], Respond] = {}
    for route in ROUTES:
        respond = _answer(route, upstream, transfer, authenticate, teams)
        for path in _names(route.path):
            if "{" in path:
                places.append(Place(path, respond, methods=[route.method]))
            else:
                exact[route.method, path] = respond
    inner = _Below(exact, Router(places, redirect_slashes=False))
    return Edge(
        Limits(
            inner,
            hosts=hosts,
            rates=rates,
            proxies=proxies,
            seconds=_SECONDS,
            refuse_path=refuse_path,
        ),
        render=errors.of_exception,
    )


def is_below(path: str) -> bool:
    """Whether a request's path is one of this application's."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def refuse_path(path: str, raw: bytes) -> None:
    """Holds that no path leads out of where it begins: names of files come in here. Raises MlflowError."""
    parts = path.split("/")
    if (
        any(part in (".", "..") for part in parts)
        or any(mark in path for mark in "\\#")
        or not path.isprintable()
    ):
        raise errors.invalid("Invalid path")


def _names(path: str) -> Sequence[str]:
    """Its own, and what MLflow's page, and some of its clients, call it."""
    return (path, f"/ajax-{path[1:]}") if path.startswith("/api/") else (path,)


class _Below:
    """Takes the prefix off, and says of unknown paths what MLflow's clients understand."""

    def __init__(self, exact: Mapping[tuple[str, str], Respond], router: Router) -> None:
        """`exact` are those routes that need no pattern, which a router would try one after the other."""
        self._exact = exact
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = dict(scope, path=scope["path"].removeprefix(PREFIX) or "/", app=self)
        respond = self._exact.get((scope["method"], inner["path"]))
        if respond is not None:
            response = await respond(Request(inner, receive, send))
            await response(inner, receive, send)
            return
        try:
            await self._router(inner, receive, send)
        except HTTPException as error:
            where = f"{scope['method']} {scope['path'][:200]}"
            if unimplemented.is_known(inner["path"]):
                raise MlflowError("NOT_IMPLEMENTED", f"{where} is not implemented here") from error
            raise MlflowError("ENDPOINT_NOT_FOUND", f"there is no {where} here") from error


def _open(answer: Callable[[], Awaitable[Response]]) -> Respond:
    async def respond(request: Request) -> Response:
        return await answer()

    return respond


def _answer(
    route: Route, upstream: Upstream, transfer: Transfer, authenticate: Authenticate, teams: Load
) -> Respond:
    rule = access(route.role, run_token=route.run_token)

    async def respond(request: Request) -> Response:
        headers = Headers(scope=request.scope)
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            # A browser sends a password that it knows by itself, whichever page asks.
            raise MlflowError("PERMISSION_DENIED", "a page of another site may not ask here")
        token = door.token_of(headers.getlist("authorization"))
        principal = await authenticate(token, request.scope)
        team = door.team_of(headers.getlist(door.WORKSPACE), principal)
        admit(principal, rule)
        require(principal, team, route.role)
        request.state.lifetime.held.enter_context(teams.slot(team))
        asked = Asked(
            team=team,
            caller=Caller(token=token, principal=principal, request_id=request.state.request_id),
            fields=Fields({}) if route.streams else await _fields(request),
            request=request,
            upstream=upstream,
            transfer=transfer,
        )
        made = await route.handler(asked)
        if isinstance(made, Response):
            return made
        return Response(to_json(made), media_type="application/json")

    return respond


async def _fields(request: Request) -> Fields:
    if request.method == "GET":
        return of_query(request.query_params.multi_items())
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    text = await read_body(request, most=LARGEST_BODY)
    if text and kind != "application/json":
        raise errors.invalid("Bad Request. Content-Type must be one of ['application/json'].")
    return of_body(text)
