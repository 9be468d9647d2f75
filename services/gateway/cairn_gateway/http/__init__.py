"""The HTTP API: thin routes over the services' RPCs. `ROUTES` is the whole list of those."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

from fastapi import FastAPI, Request
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from cairn.tracker.v1 import tracker_pb2
from cairn_common.errors import DomainError
from cairn_common.ids import format_name
from cairn_common.rate import Rates
from cairn_gateway import mlflow, problems, wire
from cairn_gateway.http import (
    artifacts,
    entry,
    identity,
    jobs,
    keeping,
    people,
    quota,
    results,
    runs,
    secrets,
    sharing,
    sign_on,
    tags,
    webhooks,
)
from cairn_gateway.http.address import Networks
from cairn_gateway.http.coding import Packing
from cairn_gateway.http.cookie import Cookie
from cairn_gateway.http.door import Door, Entrance, caller_of
from cairn_gateway.http.edge import Edge
from cairn_gateway.http.events import Events
from cairn_gateway.http.limits import Limits, shares_of_teams
from cairn_gateway.http.openapi import Documents
from cairn_gateway.http.page import Page
from cairn_gateway.http.request import read
from cairn_gateway.http.route import Route
from cairn_gateway.http.strangers import Authenticate
from cairn_gateway.http.streams import BUS, Streams
from cairn_gateway.live import Live
from cairn_gateway.mlflow.transfer import Transfer
from cairn_gateway.platform import Platform
from cairn_gateway.tunnel import Tunnel, check_may
from cairn_gateway.upstream import Upstream

PREFIX = "/api/v1"
PLATFORM = Route(
    method="GET",
    path="/platform",
    rpc="GatewayService/GetPlatform",
    summary="Where everything is: what a client needs to talk to the parts directly.",
)
CODE = Route(
    method="GET",
    path="/teams/{team}/code/{digest}",
    rpc="ArtifactService/CreateDownloads",
    summary="Leads (307) to a code archive's bytes.",
    bind={"parent": "teams/{team}", "digests": "{digest}"},
    operation="GetCode",
)
ROUTES = (
    *identity.ROUTES,
    *people.ROUTES,
    *people.DEVICE,
    *people.AUDIT,
    *quota.ROUTES,
    *jobs.ROUTES,
    *runs.ROUTES,
    *artifacts.ROUTES,
    *keeping.ROUTES,
    *results.ROUTES,
    *sharing.ROUTES,
    *webhooks.ROUTES,
    *secrets.ROUTES,
)

ENTRIES = (
    *(people.SIGN_IN, people.ACCEPT, people.ASK_IN, people.FINISH, people.FINISH_LOOPBACK),
    *(sign_on.WAYS, sign_on.BEGIN, sign_on.CONFIRM),
    *sharing.SHARED,
)


@dataclass(frozen=True, slots=True)
class Behind:
    """What the routes need."""

    upstream: Upstream
    tunnel: Tunnel
    transfer: Transfer
    live: Live
    platform: Platform
    authenticate: Authenticate
    # Names that a Host header may have.
    hosts: frozenset[str]
    # The gateway's own token, for those who come in.
    token: str = field(repr=False)
    cookie: Cookie
    proxies: Networks
    rates: Rates
    version: str


def create_app(behind: Behind) -> ASGIApp:
    """The application as uvicorn runs it, every layer around it."""
    app = FastAPI(
        title="Cairn",
        version=behind.version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, _refused)
    for kind in (DomainError, problems.HttpError, Exception):
        app.add_exception_handler(kind, _failed)
    _add_routes(app, behind)
    inner = Packing(app)
    teams = shares_of_teams()
    entries = frozenset((route.method, _template(route.path)) for route in ENTRIES) | {
        ("GET", PREFIX + sign_on.BACK)
    }
    entrance = Entrance(
        authenticate=behind.authenticate,
        cookie=behind.cookie,
        token=behind.token,
        public=entries,
        hosts=behind.hosts,
        teams=teams,
        proxies=behind.proxies,
    )
    limits = Limits(
        Door(inner, entrance),
        hosts=behind.hosts,
        rates=behind.rates,
        entries=entries,
        proxies=behind.proxies,
    )
    edge = Edge(limits)
    streams = Streams(behind.upstream, behind.tunnel, authenticate=behind.authenticate, hosts=behind.hosts)
    compatible = mlflow.create_app(
        upstream=behind.upstream,
        transfer=behind.transfer,
        authenticate=behind.authenticate,
        hosts=behind.hosts,
        rates=behind.rates,
        teams=teams,
        proxies=behind.proxies,
    )

    async def one(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await streams(scope, receive, send)
        elif scope["type"] == "http" and mlflow.is_below(scope["path"]):
            await compatible(scope, receive, send)
        else:
            await edge(scope, receive, send)

    return one


def _add_routes(app: FastAPI, behind: Behind) -> None:
    documents = Documents(app)

    def add(route: Route, answer: Callable[[Request], Awaitable[Response]]) -> None:
        app.add_api_route(_template(route.path), answer, methods=[route.method], **documents.of_route(route))

    for route in ROUTES:
        add(route, _answer(route, behind.upstream))
    for route in (people.SIGN_IN, people.ACCEPT, people.FINISH, people.FINISH_LOOPBACK):
        add(route, entry.come_in(route, behind.upstream, behind.cookie))
    for route in (people.ASK_IN, sign_on.WAYS, *sharing.SHARED):
        add(route, _answer(route, behind.upstream))
    legs = sign_on.SignOn(behind.upstream, behind.cookie, Cookie(behind.cookie.secure, of_login=True))
    add(sign_on.BEGIN, legs.begin)
    add(sign_on.CONFIRM, legs.confirm)
    app.add_api_route(PREFIX + sign_on.BACK, legs.back, methods=["GET"], include_in_schema=False)
    add(people.SIGN_OUT, entry.leave(behind.upstream, behind.cookie))
    add(PLATFORM, _platform(behind.platform))
    add(CODE, _code(behind.upstream))
    events = Events(behind.live)
    app.add_api_route(
        _template("/teams/{team}/events"), _plain(events), methods=["GET"], **documents.of_events()
    )
    app.add_api_route(BUS, _upgrade, methods=["GET"], **documents.of_bus())
    app.add_api_route(PREFIX + "/openapi.json", documents.answer, methods=["GET"], include_in_schema=False)
    page = Page()
    app.add_api_route("/", page.index, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/web/{file}", page.file, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/healthz", _healthz, methods=["GET", "HEAD"], include_in_schema=False)


def _answer(route: Route, upstream: Upstream) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        message = await read(route, request)
        made = await upstream.call(route.descriptor, message, caller_of(request))
        content, etag = wire.dumps(wire.to_json(made)), getattr(made, "etag", "")
        if route.method == "GET":
            return tags.read(request, content, etag=etag)
        return tags.changed(content, etag=etag)

    return answer


def _platform(platform: Platform) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        await read(PLATFORM, request)
        found = await platform.describe(caller_of(request).principal.roles)
        return tags.read(request, wire.dumps(wire.to_json(found)))

    return answer


def _code(upstream: Upstream) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        parts = request.path_params
        message = tracker_pb2.CreateDownloadsRequest(
            parent=format_name("teams/{team}", team=parts["team"]), digests=[parts["digest"]]
        )
        made = await upstream.call(CODE.descriptor, message, caller_of(request))
        url = cast(tracker_pb2.CreateDownloadsResponse, made).downloads[0].url
        return Response(status_code=307, headers={"Location": url})

    return answer


def _plain(events: Events) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await events(request)

    return answer


async def _upgrade(request: Request) -> Response:
    """To who asks plainly for what is a WebSocket."""
    check_may(caller_of(request).principal)
    raise problems.HttpError(
        426, "UPGRADE_REQUIRED", "this is a WebSocket: ask with `Upgrade: websocket`",
        headers={"Upgrade": "websocket"},
    )  # fmt: skip


def json(value: wire.Json) -> Response:
    """A value as a JSON answer."""
    return Response(wire.dumps(value), media_type="application/json")


async def _healthz(request: Request) -> Response:
    return json({"status": "ok"})


async def _failed(request: Request, error: Exception) -> Response:
    """What a route raises; the edge logs what nobody expected."""
    return problems.of_exception(error, request_id=request.state.request_id)


async def _refused(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown paths and methods."""
    refused = cast(HTTPException, error)
    reason, detail = {
        404: ("ROUTE_UNKNOWN", "there is no such path; /api/v1/openapi.json lists those that there are"),
        405: ("METHOD_REFUSED", f"{request.method} is not a method of this path"),
    }.get(refused.status_code, ("REQUEST_MALFORMED", str(refused.detail)))
    headers = dict(refused.headers or {})
    if refused.status_code == 405:
        headers["Allow"] = ", ".join(sorted(_allowed(request)))
    return problems.of_status(
        refused.status_code,
        detail=detail,
        reason=reason,
        headers=headers,
        request_id=request.state.request_id,
    )


def _allowed(request: Request) -> set[str]:
    """The methods of a path; the router itself knows of the first route with it alone."""
    near = [route for route in request.app.routes if route.matches(request.scope)[0] is Match.PARTIAL]
    return {method for route in near for method in route.methods}


class _Part(StringConvertor):
    """A parameter of a path: one segment less its verb, so that `jobs/{job}` is not `jobs/x:cancel`."""

    regex = "[^/:]+"


register_url_convertor("part", _Part())


def _template(path: str) -> str:
    return PREFIX + re.sub(r"\{(\w+)\}", r"{\1:part}", path)
