"""The outermost layer: request ids, headers that every answer has, and no error without an answer."""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_common import trace
from cairn_common.errors import DomainError
from cairn_common.ids import new_uid
from cairn_gateway import problems

log = structlog.get_logger(__name__)

# As nginx writes it in its log.
CLIENT_GONE = 499
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    # Images that runs logged are blobs: the page fetches them with the token.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# As they travel: made once, as every answer has them.
_ALWAYS = tuple((name.lower().encode(), value.encode()) for name, value in _HEADERS.items())
_OURS = frozenset((*(name for name, _ in _ALWAYS), b"x-request-id", b"date"))


class Render(Protocol):
    """Makes an answer of whatever was raised."""

    def __call__(self, error: Exception, *, request_id: str) -> Response: ...


class Edge:
    """An ASGI application around all others. Whatever they raise ends as a document of `render`."""

    def __init__(self, app: ASGIApp, *, render: Render = problems.of_exception) -> None:
        self.app = app
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = _Answer(send, request_id=_request_id(scope))
        scope["state"]["request_id"] = answer.request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=answer.request_id)
        trace.enter(Headers(scope=scope).get(trace.HEADER, ""))
        began = time.monotonic()
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            # It left before its body was whole: nothing of ours failed, and nobody is there for an answer.
            answer.status = CLIENT_GONE
        except Exception as error:
            response = self._render(error, request_id=answer.request_id)
            if response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(
                error, DomainError
            ):
                log.exception("http.failed", method=scope["method"], path=scope["path"])
            await answer.problem(response, scope, receive)
        _tell(scope, status=answer.status, seconds=time.monotonic() - began)


class _Answer:
    """Watches one answer go out, and adds the headers that all have."""

    def __init__(self, send: Send, *, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = [pair for pair in message["headers"] if pair[0] not in _OURS]
            if not any(name == b"cache-control" for name, _ in given):
                given.append((b"cache-control", b"no-store"))
            own = ((b"x-request-id", self.request_id.encode()), (b"date", _date(int(time.time()))))
            message["headers"] = [*given, *_ALWAYS, *own]
        await self._send(message)

    async def problem(self, response: ASGIApp, scope: Scope, receive: Receive) -> None:
        if not self.status:
            await response(scope, receive, self.send)
        # Otherwise it is too late for another answer: leaving this one unfinished cuts the connection.


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else new_uid()


def _tell(scope: Scope, *, status: int, seconds: float) -> None:
    tell = log.debug if status < 400 else log.warning if status >= 500 else log.info
    tell(
        "http.answered",
        method=scope["method"],
        path=scope["path"],
        status=status,
        milliseconds=round(seconds * 1000),
    )
