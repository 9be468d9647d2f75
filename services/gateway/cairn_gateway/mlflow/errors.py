"""Errors as MLflow's clients read them: a JSON object with an error_code and a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc
from starlette.responses import Response

from cairn_common.errors import DomainError
from cairn_gateway import wire
from cairn_gateway.problems import NOT_FOR_CALLERS, RETRY_AFTER, HttpError

STATUS: Final[Mapping[str, int]] = {
    "INVALID_PARAMETER_VALUE": 400,
    "RESOURCE_ALREADY_EXISTS": 400,
    "BAD_REQUEST": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "RESOURCE_DOES_NOT_EXIST": 404,
    "ENDPOINT_NOT_FOUND": 404,
    "RESOURCE_CONFLICT": 409,
    "ABORTED": 409,
    "REQUEST_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "INVALID_STATE": 500,
    "NOT_IMPLEMENTED": 501,
    "TEMPORARILY_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""MLflow's error codes that are told here, and the statuses that go with them."""

_CODES: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_PARAMETER_VALUE",
    grpc.StatusCode.OUT_OF_RANGE: "INVALID_PARAMETER_VALUE",
    # To its clients a wrong state is a wrong request: a 500 they would send again for minutes.
    grpc.StatusCode.FAILED_PRECONDITION: "INVALID_PARAMETER_VALUE",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHENTICATED",
    grpc.StatusCode.PERMISSION_DENIED: "PERMISSION_DENIED",
    grpc.StatusCode.NOT_FOUND: "RESOURCE_DOES_NOT_EXIST",
    grpc.StatusCode.ALREADY_EXISTS: "RESOURCE_ALREADY_EXISTS",
    grpc.StatusCode.ABORTED: "ABORTED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "REQUEST_LIMIT_EXCEEDED",
    grpc.StatusCode.UNIMPLEMENTED: "NOT_IMPLEMENTED",
    grpc.StatusCode.UNAVAILABLE: "TEMPORARILY_UNAVAILABLE",
    grpc.StatusCode.CANCELLED: "TEMPORARILY_UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
}
_OF_STATUS: Final[Mapping[int, str]] = {
    400: "BAD_REQUEST",
    404: "ENDPOINT_NOT_FOUND",
    405: "ENDPOINT_NOT_FOUND",
    413: "INVALID_PARAMETER_VALUE",
    415: "BAD_REQUEST",
    421: "PERMISSION_DENIED",
}


class MlflowError(Exception):
    """An error that only this API knows, with one of the codes in `STATUS`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def invalid(message: str) -> MlflowError:
    """What was sent cannot be used."""
    return MlflowError("INVALID_PARAMETER_VALUE", message)


def missing(message: str) -> MlflowError:
    """It does not exist, or is not the caller's to see."""
    return MlflowError("RESOURCE_DOES_NOT_EXIST", message)


def of_exception(error: Exception, *, request_id: str) -> Response:
    """The answer for whatever was raised. Of a mistake of ours it tells nothing but where to find it."""
    if isinstance(error, MlflowError):
        return _answer(STATUS[error.code], error.code, str(error))
    if isinstance(error, HttpError):
        return _answer(error.status, _OF_STATUS.get(error.status, "BAD_REQUEST"), str(error))
    if isinstance(error, DomainError) and error.code not in NOT_FOR_CALLERS:
        code = _CODES.get(error.code, "INTERNAL_ERROR")
        return _answer(STATUS[code], code, error.message)
    return _answer(
        500, "INTERNAL_ERROR", f"internal error; the logs have it under the request id {request_id}"
    )


def _answer(status: int, code: str, message: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER[status])} if status in RETRY_AFTER else {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="mlflow"'
    body = wire.dumps({"error_code": code, "message": message})
    return Response(body, status_code=status, headers=headers, media_type="application/json")
