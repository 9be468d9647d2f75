"""Errors as problem documents (RFC 9457), from one table of codes."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import grpc
from starlette.responses import Response

from cairn_common.errors import DomainError
from cairn_gateway import wire

STATUS: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.DATA_LOSS: 500,
}
"""The one table from gRPC's codes to HTTP's."""

STATUS_OF_REASON: Mapping[str, int] = {"ETAG_MISMATCH": 412}
"""Where a reason says more than its code."""

RETRY_AFTER: Mapping[int, int] = {429: 1, 503: 1, 504: 2}
"""Seconds that a client should wait before it tries again."""

# What these say was written for a log: it may name files, addresses, or values of somebody else.
NOT_FOR_CALLERS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)


class HttpError(Exception):
    """An error that only HTTP knows: a route, a method, a media type, a size, a host."""

    def __init__(
        self, status: int, reason: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


def of_exception(error: Exception, *, request_id: str) -> Response:
    """The answer for whatever was raised. Of a mistake of ours it tells nothing but where to find it."""
    if isinstance(error, HttpError):
        return of_status(
            error.status,
            detail=str(error),
            reason=error.reason,
            headers=error.headers,
            request_id=request_id,
        )
    if isinstance(error, DomainError) and error.code not in NOT_FOR_CALLERS:
        return of_status(
            status_of(error),
            detail=error.message,
            reason=str(error.reason),
            metadata=error.metadata,
            headers={"Retry-After": error.metadata["retry_after"]}
            if "retry_after" in error.metadata
            else None,
            request_id=request_id,
        )
    return of_status(
        500,
        detail=f"internal error; the logs have it under the request id {request_id}",
        reason="INTERNAL",
        request_id=request_id,
    )


def status_of(error: DomainError) -> int:
    """The HTTP status for an error of the domain."""
    return STATUS_OF_REASON.get(str(error.reason)) or STATUS.get(error.code, 500)


def of_status(
    status: int,
    *,
    detail: str,
    reason: str,
    request_id: str,
    metadata: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem document with what every one of them has."""
    document = {
        "type": f"urn:cairn:problem:{reason.lower().replace('_', '-')}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "reason": reason,
        "metadata": dict(metadata or {}),
        "request_id": request_id,
    }
    extra = dict(headers or {})
    if status in RETRY_AFTER:
        extra.setdefault("Retry-After", str(RETRY_AFTER[status]))
    if status == HTTPStatus.UNAUTHORIZED:
        extra.setdefault("WWW-Authenticate", 'Bearer realm="cairn"')
    return Response(
        wire.dumps(document), status_code=status, headers=extra, media_type="application/problem+json"
    )
