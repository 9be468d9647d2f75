"""The OpenAPI document: derived from the route list and the protos."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from cairn_common.ids import CHOSEN, NAME, UID
from cairn_gateway import wire
from cairn_gateway.feed import TYPES
from cairn_gateway.http import tags
from cairn_gateway.http.request import IDEMPOTENCY_KEY, KEY_FORM
from cairn_gateway.http.route import Route
from cairn_gateway.schema import Schemas

_PROBLEM = {
    "description": "Any error",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_TEXT = {"type": "string"}
_ETAG = {"ETag": {"description": "Of this answer, for If-None-Match and If-Match.", "schema": _TEXT}}
_TAG = {**_TEXT, "pattern": r'^"[\x21\x23-\x7e]*"$'}
# What a parameter of the path looks like; a name otherwise.
_FORMS = {
    "team": CHOSEN,
    **dict.fromkeys(("job", "run", "sweep", "token"), UID),
    "digest": "^[0-9a-f]{64}$",
}


class Documents:
    """What FastAPI is told of each route, and the document that comes of it."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._schemas = Schemas()
        self._made: bytes | None = None

    def of_route(self, route: Route) -> dict[str, Any]:
        """Keywords for ``add_api_route``."""
        extra: dict[str, Any] = {
            "parameters": [*_path(route.parameters), *self._query(route), *_headers(route)]
        }
        if route.body is not None:
            schema = self._schemas.of_message(route.body, without=route.body_without)
            extra["requestBody"] = {"content": {"application/json": {"schema": schema}}}
        if route.operation == "GetCode":
            answers: dict[int | str, dict[str, Any]] = {
                307: {"description": "Where the bytes are, for some minutes"}
            }
        else:
            schema = self._schemas.of_message(route.descriptor.output_type)
            answers = {200: {"description": "OK", "content": {"application/json": {"schema": schema}}}}
            if route.method == "GET":
                answers[200]["headers"] = _ETAG
                answers[304] = {"description": "The client has it already", "headers": _ETAG}
        if route.public and not route.bearer:
            extra["security"] = []
        return {
            "operation_id": route.operation_id,
            "summary": route.summary,
            "tags": [route.descriptor.containing_service.full_name.split(".")[1]],
            "openapi_extra": extra,
            "responses": {**answers, "default": _PROBLEM},
            "response_class": Response,
            "status_code": next(iter(answers)),
        }

    def of_events(self) -> dict[str, Any]:
        """Keywords for the route of live updates."""
        types = {"type": "array", "items": {"type": "string", "enum": sorted(TYPES)}}
        parameters = [
            *_path(["team"]),
            {"name": "run", "in": "query", "schema": {"type": "array", "items": _TEXT}},
            {"name": "job", "in": "query", "schema": {"type": "array", "items": _TEXT}},
            {"name": "types", "in": "query", "schema": types, "explode": False},
            {"name": "Last-Event-ID", "in": "header", "schema": _TEXT},
        ]
        stream = {
            "description": "Events until either side ends",
            "content": {"text/event-stream": {"schema": _TEXT}},
        }
        return {
            "operation_id": "WatchEvents",
            "summary": "What happens to jobs, runs and artifacts, as server-sent events that resume by id.",
            "tags": ["gateway"],
            "openapi_extra": {"parameters": parameters},
            "responses": {200: stream, "default": _PROBLEM},
            "response_class": Response,
        }

    def of_bus(self) -> dict[str, Any]:
        """Keywords for the way to the bus."""
        return {
            "operation_id": "OpenBus",
            "summary": "A connection to the bus, as a WebSocket: for machines that reach only this door.",
            "tags": ["gateway"],
            "openapi_extra": {},
            "responses": {
                101: {"description": "Bytes of the bus's protocol, in binary messages"},
                "default": _PROBLEM,
            },
            "response_class": Response,
            "status_code": 101,
        }

    async def answer(self, request: Request) -> Response:
        """The document; made when it is first asked for."""
        if self._made is None:
            self._made = wire.dumps(self._make())
        return tags.read(request, self._made)

    def _make(self) -> dict[str, Any]:
        made = get_openapi(
            title="Cairn",
            version=self._app.version,
            summary="Jobs, runs, metrics and artifacts over HTTP",
            routes=self._app.routes,
        )
        components = made.setdefault("components", {})
        components["schemas"] = dict(sorted(self._schemas.components.items()))
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
        return made

    def _query(self, route: Route) -> list[dict[str, Any]]:
        return [
            {"name": name, "in": "query", "schema": self._schemas.of_field(field)}
            for name, field in route.query.items()
        ]


def _headers(route: Route) -> list[dict[str, Any]]:
    known = []
    if route.method == "GET" and route.operation_id != "GetCode":
        known.append(
            ("If-None-Match", "ETag of an answer that one has: 304 where it is still the same.", _TEXT)
        )
    if route.etag:
        known.append(("If-Match", "ETag of what was read: 412 where somebody changed it since.", _TAG))
    if route.has_request_id:
        said = "As `request_id`: the same again does nothing twice and gives the same answer."
        known.append((IDEMPOTENCY_KEY, said, {**_TEXT, "pattern": f"^{KEY_FORM}$"}))
    return [{"name": name, "in": "header", "description": said, "schema": form} for name, said, form in known]


def _path(names: list[str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {**_TEXT, "pattern": _FORMS.get(name, NAME)}}
        for name in names
    ]
