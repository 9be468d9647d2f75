"""From an HTTP request to the RPC's request: path, query and body, each checked, nothing dropped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from starlette.requests import Request

from cairn_common.errors import InvalidArgument, Reason
from cairn_common.ids import format_name
from cairn_gateway import wire
from cairn_gateway.http import coding, tags
from cairn_gateway.http.door import bearer
from cairn_gateway.http.route import Route
from cairn_gateway.problems import HttpError

MOST_BODY_BYTES = 8 * 1024 * 1024
MOST_PUBLIC_BYTES = 64 * 1024
"""Of a body that anybody may send."""

IDEMPOTENCY_KEY = "Idempotency-Key"
KEY_FORM = "[\\x21-\\x7e]{1,64}"
_KEY = re.compile(KEY_FORM)


async def read(route: Route, request: Request) -> Message:
    """The RPC's request. Raises InvalidArgument with a path, or HttpError (412, 413, 415)."""
    message = message_factory.GetMessageClass(route.descriptor.input_type)()
    if route.method == "GET":
        _fill_query(route, request, message)
    else:
        _refuse_query(request)
        most = MOST_PUBLIC_BYTES if route.public else MOST_BODY_BYTES
        _fill_body(route, await body(request, most=most), message)
    parts = request.path_params
    for field, pattern in route.bind.items():
        _set(message, field, format_name(pattern, **_used(pattern, parts)))
    if route.bearer:
        setattr(message, route.bearer, bearer(request.headers.getlist("authorization")))
    for field, value in route.fixed.items():
        setattr(message, field, value)
    for field, pattern in route.refs.items():
        _resolve(message, field, pattern.replace("{team}", parts.get("team", "")))
    if route.method != "GET":
        _fill_etag(route, request, message)
        _fill_request_id(route, request, message)
    return message


async def body(request: Request, *, most: int = MOST_BODY_BYTES) -> wire.Json:
    """The body's JSON value; an empty object for none. Raises InvalidArgument, or HttpError (413, 415)."""
    text = await coding.read_body(request, most=most)
    if not text:
        return {}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HttpError(415, "MEDIA_TYPE_REFUSED", "send the body with content-type: application/json")
    return wire.loads(text)


def query(request: Request, known: Mapping[str, FieldDescriptor] | frozenset[str]) -> dict[str, list[str]]:
    """The query's parameters; an empty one stands for none where it is a text. Raises InvalidArgument for one
    that is not known."""
    given: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            names = ", ".join(known) or "none"
            raise InvalidArgument(
                f"unknown query parameter {name[:80]!r}; known here: {names}",
                reason=Reason.FIELD_INVALID,
                path=name[:80],
            )
        field = known[name] if isinstance(known, Mapping) else None
        if value or _is_single(field):
            given.setdefault(name, []).append(value)
    return given


def _fill_query(route: Route, request: Request, message: Message) -> None:
    for name, texts in query(request, route.query).items():
        field = route.query[name]
        if field.is_repeated and field.enum_type is not None:
            texts = [part for text in texts for part in text.split(",")]
        wire.from_texts(message, field, texts, path=name)


def _is_single(field: FieldDescriptor | None) -> bool:
    """Of one value, so that nothing is none of them: a number, a time, a choice."""
    texts = FieldDescriptor.CPPTYPE_STRING
    return field is not None and not field.is_repeated and field.cpp_type != texts


def _refuse_query(request: Request) -> None:
    query(request, {})


def _fill_body(route: Route, value: wire.Json, message: Message) -> None:
    if not route.resource:
        wire.from_json(message, value, without=route.body_without)
        return
    resource = getattr(message, route.resource)
    resource.SetInParent()
    wire.from_json(resource, value, without=route.body_without)
    changed = [name for name in value if name != "etag"]
    if not changed:
        raise InvalidArgument("the body names nothing to change", reason=Reason.FIELD_MISSING)
    mask: Any = message
    mask.update_mask.paths.extend(changed)


def _fill_etag(route: Route, request: Request, message: Message) -> None:
    """If-Match, where the RPC can hold it; elsewhere it is refused rather than passed over."""
    if not route.etag:
        tags.refuse_wanted(request)
    elif etag := tags.wanted_etag(request):
        _set_same(message, route.etag, etag, header="If-Match")


def _fill_request_id(route: Route, request: Request, message: Message) -> None:
    """Idempotency-Key, as well."""
    given = request.headers.getlist(IDEMPOTENCY_KEY)
    if not given:
        return
    key = given[0].strip().removeprefix('"').removesuffix('"')
    if len(given) > 1 or not _KEY.fullmatch(key):
        raise InvalidArgument(
            f"{IDEMPOTENCY_KEY}: give one of 1 to 64 visible ASCII characters",
            reason=Reason.FIELD_INVALID,
            path=IDEMPOTENCY_KEY,
        )
    if not route.has_request_id:
        raise InvalidArgument(
            f"{IDEMPOTENCY_KEY}: this route takes none; /api/v1/openapi.json says which do",
            reason=Reason.FIELD_INVALID,
            path=IDEMPOTENCY_KEY,
        )
    _set_same(message, "request_id", key, header=IDEMPOTENCY_KEY)


def _set_same(message: Message, path: str, value: str, *, header: str) -> None:
    """Sets a field from a header. Raises InvalidArgument where the body says something else."""
    *parents, name = path.split(".")
    target: Any = message
    for parent in parents:
        target = getattr(target, parent)
    if getattr(target, name) not in ("", value):
        raise InvalidArgument(
            f"{header} and {path} in the body differ; give one of them",
            reason=Reason.FIELD_INVALID,
            path=path,
        )
    setattr(target, name, value)


def _used(pattern: str, parts: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parts.items() if f"{{{name}}}" in pattern}


def _set(message: Message, path: str, value: str) -> None:
    *parents, name = path.split(".")
    target: Any = message
    for parent in parents:
        target = getattr(target, parent)
    setattr(target, name, value)


def _resolve(message: Message, field: str, pattern: str) -> None:
    value = getattr(message, field)
    if isinstance(value, str):
        if value and "/" not in value:
            setattr(message, field, pattern.format(value))
        return
    value[:] = [item if "/" in item else pattern.format(item) for item in value]
