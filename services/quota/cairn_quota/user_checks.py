"""What requests about people must look like. Each check returns the value or raises InvalidArgument."""

from __future__ import annotations

import re
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from cairn.quota.v1 import token_pb2
from cairn_common.errors import InvalidArgument, Reason
from cairn_common.ids import parse_name
from cairn_quota import checks
from cairn_quota.model import Role

LONGEST_SESSION, SESSION = timedelta(days=30), timedelta(hours=12)
LONGEST_INVITATION, INVITATION = timedelta(days=30), timedelta(days=7)
_USER = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z]([a-z0-9-]{0,61}[a-z0-9])?)?")


def role(value: int, field: str = "role") -> Role:
    """A role that somebody can have in a team."""
    if value not in (
        token_pb2.ROLE_VIEWER,
        token_pb2.ROLE_MEMBER,
        token_pb2.ROLE_ADMIN,
        token_pb2.ROLE_OWNER,
    ):
        raise checks.invalid(field, "must be ROLE_VIEWER, ROLE_MEMBER, ROLE_ADMIN or ROLE_OWNER")
    return Role(value)


def user(name: str) -> str:
    """The id in users/{user}."""
    return _id(parse_name("users/{user}", name)["user"])


def member(name: str) -> tuple[str, str]:
    """The team and the user's id in teams/{team}/members/{user}."""
    parts = parse_name("teams/{team}/members/{user}", name)
    return parts["team"], _id(parts["user"])


def life(request: Message, *, usual: timedelta, longest: timedelta) -> timedelta:
    """The `ttl` of a request, where it has one."""
    if not request.HasField("ttl"):
        return usual
    given: Duration = request.ttl  # type: ignore[attr-defined]
    asked = checks.ttl(given)
    if asked > longest:
        raise checks.invalid("ttl", f"must be at most {longest.days} days")
    return asked


def _id(text: str) -> str:
    if _USER.fullmatch(text) is None:
        raise InvalidArgument(
            f"{text[:80]!r} is not a user's id", reason=Reason.NAME_INVALID, pattern="users/{user}"
        )
    return text
