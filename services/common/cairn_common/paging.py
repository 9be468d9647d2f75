"""Page tokens: opaque to the caller, bound to the listing that they continue."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeAlias, TypeVar

from cairn_common.errors import InvalidArgument, Reason

_VERSION = 1
_CHECK_BYTES = 9
_LONGEST = 4096
_LARGEST_NUMBER = 2**63

Position: TypeAlias = "Mapping[str, str | int]"
T = TypeVar("T")


def encode_token(position: Position, *, scope: str) -> str:
    """An opaque token for the place after which the next page begins.

    `scope` names the listing with all its filters, e.g. ``f"jobs/{team}/{experiment}"``; the token is good
    for that scope alone. The check in it finds mistakes and tampering with a foreign listing's token; it
    grants nothing, so it needs no key: every page is authorized by its own call.
    """
    body = json.dumps([_VERSION, dict(position)], separators=(",", ":"), sort_keys=True).encode()
    return base64.urlsafe_b64encode(_check(body, scope) + body).rstrip(b"=").decode()


def decode_token(token: str, *, scope: str, read: Callable[[Position], T]) -> T:
    """What `read` makes of the position inside a token, which anybody can have written.

    Raises `InvalidArgument` (PAGE_TOKEN_INVALID), also where `read` raises KeyError, ValueError or TypeError.
    """
    try:
        if len(token) > _LONGEST:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        body = raw[_CHECK_BYTES:]
        if raw[:_CHECK_BYTES] != _check(body, scope):
            raise ValueError("of another listing")
        version, position = json.loads(body)
        if version != _VERSION or not _plain(position):
            raise ValueError("of another version")
        return read(position)
    except (ValueError, TypeError, KeyError, binascii.Error, RecursionError):
        raise InvalidArgument(
            "page_token is not one that this listing gave; begin again without it, and keep every other "
            "field of the request the same from page to page",
            reason=Reason.PAGE_TOKEN_INVALID,
        ) from None


def time_and_uid(position: Position) -> tuple[datetime, str]:
    """The place in a listing by time and uid; for `decode_token`."""
    time = datetime.fromisoformat(str(position["time"]))
    if time.tzinfo is None:
        raise ValueError("a time without a zone")
    return time, str(position["uid"])


def page_size(asked: int, default: int = 100, most: int = 1000) -> int:
    """How many to return: 0 means the default, more than `most` means `most`.

    Raises `InvalidArgument` (FIELD_INVALID) for a negative one.
    """
    if asked < 0:
        raise InvalidArgument(
            f"page_size: {asked} is negative; 0 means {default}, the most is {most}",
            reason=Reason.FIELD_INVALID,
            field="page_size",
        )
    return min(asked or default, most)


def _check(body: bytes, scope: str) -> bytes:
    return hashlib.blake2s(
        body, digest_size=_CHECK_BYTES, key=hashlib.sha256(scope.encode()).digest()
    ).digest()


def _plain(position: object) -> bool:
    return isinstance(position, dict) and all(
        isinstance(key, str) and _keepable(value) for key, value in position.items()
    )


def _keepable(value: object) -> bool:
    """Whether a database can compare with it."""
    if isinstance(value, int):
        return -_LARGEST_NUMBER <= value < _LARGEST_NUMBER
    return isinstance(value, str) and "\0" not in value
