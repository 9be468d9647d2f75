"""Errors as the platform tells them: a gRPC code, one documented reason, and facts about it.

Raise a `DomainError`; `cairn_common.rpc` turns it into a status with exactly one ErrorInfo, and
`from_rpc_error` turns such a status back into the same error at the caller's side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from cairn_common.reasons import Reason

__all__ = [
    "DOMAIN",
    "Aborted",
    "AlreadyExists",
    "DeadlineExceeded",
    "DomainError",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "Reason",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "from_rpc_error",
    "to_status",
]

DOMAIN = "cairn"
_DETAILS_KEY = "grpc-status-details-bin"
# Statuses travel in HTTP/2 headers, of which peers accept 8 KiB by default.
_LONGEST_MESSAGE = 2000
_LONGEST_VALUE = 400


class DomainError(Exception):
    """An error that a caller may see. The message says what was asked, what the limit is, and what to do.

    `reason` may be given as a keyword, or a subclass may fix it. The other keywords are metadata: facts
    that a program can use, such as ``path="resources.cpus"``.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: Reason = Reason.INTERNAL

    def __init__(self, message: str, /, *, reason: Reason | None = None, **metadata: str | int) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = {key: str(value) for key, value in metadata.items()}
        if reason is not None:
            self.reason = reason


class InvalidArgument(DomainError):
    """What was sent cannot be used, whatever the state of the platform."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = Reason.FIELD_INVALID


class NotFound(DomainError):
    """It does not exist, or is not the caller's to see: both look the same."""

    code = grpc.StatusCode.NOT_FOUND
    reason = Reason.RESOURCE_NOT_FOUND


class AlreadyExists(DomainError):
    """The id is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = Reason.RESOURCE_EXISTS


class FailedPrecondition(DomainError):
    """Not in the state that this needs; asking again without a change will not help."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = Reason.STATE_INVALID


class Aborted(DomainError):
    """Somebody else changed it in between: read again and decide again."""

    code = grpc.StatusCode.ABORTED
    reason = Reason.ETAG_MISMATCH


class ResourceExhausted(DomainError):
    """A limit is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = Reason.QUOTA_EXCEEDED


class PermissionDenied(DomainError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = Reason.ROLE_TOO_LOW


class Unauthenticated(DomainError):
    """No token, or one that is not good."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = Reason.TOKEN_INVALID


class Unavailable(DomainError):
    """Something that is needed is away for now; the same call later can succeed."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = Reason.NEIGHBOUR_UNAVAILABLE


class DeadlineExceeded(Unavailable):
    """No answer in time. Whether it was done is not known."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = Reason.DEADLINE_EXCEEDED


class Unimplemented(DomainError):
    """There is no such method here."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = Reason.METHOD_UNKNOWN


class Internal(DomainError):
    """A mistake of ours. The message holds nothing but an id to find it in the log."""


_CLASSES: Mapping[grpc.StatusCode, type[DomainError]] = {
    **{
        kind.code: kind
        for kind in (
            InvalidArgument,
            NotFound,
            AlreadyExists,
            FailedPrecondition,
            Aborted,
            ResourceExhausted,
            PermissionDenied,
            Unauthenticated,
            Unavailable,
            DeadlineExceeded,
            Unimplemented,
            Internal,
        )
    },
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    # The connection went away under the call.
    grpc.StatusCode.CANCELLED: Unavailable,
}


def to_status(error: DomainError) -> status_pb2.Status:
    """The error as a google.rpc.Status with exactly one ErrorInfo (domain ``cairn``)."""
    info = error_details_pb2.ErrorInfo(
        reason=str(error.reason),
        domain=DOMAIN,
        metadata={key: _cut(value, _LONGEST_VALUE) for key, value in error.metadata.items()},
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    number: int = error.code.value[0]
    return status_pb2.Status(code=number, message=_cut(error.message, _LONGEST_MESSAGE), details=[detail])


def from_rpc_error(error: aio.AioRpcError) -> DomainError:
    """The error that a call ended with, as the callee raised it.

    A status without our ErrorInfo (made by gRPC itself, or by a foreign server) gives the class of its
    code with that class's own reason.
    """
    kind = _CLASSES.get(error.code(), Internal)
    message = error.details() or error.code().name
    info = _error_info(error)
    if info is None:
        made = kind(message)
        # gRPC's own limits (message size, calls at a time) are not a team's quota.
        return ResourceExhausted(message, reason=Reason.OVERLOADED) if kind is ResourceExhausted else made
    made = kind(message, reason=_known(info.reason, kind))
    made.metadata.update(info.metadata)
    return made


def _error_info(error: aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY:
            continue
        try:
            status = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
        except DecodeError:
            return None
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
                return info
    return None


def _known(reason: str, kind: type[DomainError]) -> Reason:
    try:
        return Reason(reason)
    except ValueError:
        # A newer neighbour's reason: the code still says what matters.
        return kind.reason


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
