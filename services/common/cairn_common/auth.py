"""Who is calling, what they may do, and the check of the token that says so."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from types import MappingProxyType

import structlog
from google.protobuf.message import DecodeError
from grpc import aio

from cairn.quota.v1 import events_pb2, quota_pb2, quota_pb2_grpc, token_pb2
from cairn_common.bus import Bus
from cairn_common.clock import Clock, SystemClock
from cairn_common.errors import (
    DomainError,
    NotFound,
    PermissionDenied,
    Reason,
    Unauthenticated,
    Unavailable,
    from_rpc_error,
)

log = structlog.get_logger(__name__)

Authenticate = Callable[[str], Awaitable["Principal"]]

#: Facts that change who may do what: see `TokenChecker.hear`.
WHO_IS_WHO = ["cairn.v1.quota.token.revoked.>", "cairn.v1.quota.member.>"]

_SHAPE = re.compile(r"[\x21-\x7e]{16,512}")
_CACHE_SECONDS = 5.0
_CACHE_SIZE = 4096
_CHECK_TIMEOUT = 5.0


class Role(IntEnum):
    """What a caller may be in a team; each may do all that the ones before it may. Numbered as the proto."""

    # In an access table: any valid token will do.
    NONE = 0
    VIEWER = 1
    MEMBER = 2
    ADMIN = 3
    OWNER = 4
    SERVICE = 5


class Scope(IntEnum):
    """What a token may be used for, whatever its bearer's role. Numbers as in the proto."""

    NONE = 0
    READ = 1
    WRITE = 2
    ADMIN = 3
    RUN = 4


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller."""

    # users/{user}, services/{service} or runs/{run uid}
    subject: str
    scope: Scope
    # Team id to role.
    roles: Mapping[str, Role] = field(default_factory=lambda: MappingProxyType({}))
    token_uid: str = ""
    # Set for a run's token alone.
    run_uid: str = ""
    attempt_uid: str = ""
    # None: does not expire.
    expire_time: datetime | None = None
    # Opened by a password, not made with another token.
    session: bool = False

    @property
    def is_service(self) -> bool:
        """Whether this is one of Cairn's own services; they may act in every team."""
        return self.subject.startswith("services/")

    @property
    def is_run(self) -> bool:
        """Whether this is a run's token: good for that run alone, on the RPCs that accept one."""
        return self.scope is Scope.RUN

    def role(self, team: str) -> Role:
        """The role in a team; NONE for a stranger. A run's token is a member of its team: which RPCs accept
        it stands in the access table, and which run it may touch is the handler's to check."""
        if self.is_service:
            return Role.SERVICE
        if self.is_run:
            return Role.MEMBER if team in self.roles else Role.NONE
        return self.roles.get(team, Role.NONE)

    def may(self, team: str, role: Role) -> bool:
        """Whether the caller has this role, or a higher one, in the team."""
        return self.role(team) >= role > Role.NONE


@dataclass(frozen=True, slots=True)
class Access:
    """What an RPC asks of its caller before the handler runs."""

    role: Role
    scope: Scope
    run_token: bool = False
    public: bool = False


def access(
    role: Role, *, scope: Scope | None = None, run_token: bool = False, public: bool = False
) -> Access:
    """An entry of a service's access table.

    The scope follows from the role (viewer: read, member: write, admin and owner: admin) unless given.
    `run_token`: a run's token is accepted too. `public`: no token is asked for. The role is held per team
    by `require`, in the handler; Role.SERVICE and the scope are held before it.
    """
    return Access(
        role=role, scope=_SCOPES[role] if scope is None else scope, run_token=run_token, public=public
    )


_SCOPES: Mapping[Role, Scope] = MappingProxyType(
    {
        Role.NONE: Scope.READ,
        Role.VIEWER: Scope.READ,
        Role.MEMBER: Scope.WRITE,
        Role.ADMIN: Scope.ADMIN,
        Role.OWNER: Scope.ADMIN,
        Role.SERVICE: Scope.READ,
    }
)


def admit(principal: Principal, rule: Access) -> None:
    """Holds the part of a rule that needs no team. Raises `PermissionDenied`."""
    if rule.role is Role.SERVICE and not principal.is_service:
        raise PermissionDenied("only Cairn's own services may call this", reason=Reason.ROLE_TOO_LOW)
    if principal.is_service:
        return
    if principal.is_run:
        if not rule.run_token:
            raise PermissionDenied(
                "a run's token may publish for its run and move its artifacts, nothing else",
                reason=Reason.SCOPE_TOO_LOW,
                scope="run",
            )
        return
    if principal.scope < rule.scope:
        raise PermissionDenied(
            f"needs a token of scope {rule.scope.name.lower()}; this one has scope "
            f"{principal.scope.name.lower()}",
            reason=Reason.SCOPE_TOO_LOW,
            scope=principal.scope.name.lower(),
            needed=rule.scope.name.lower(),
        )


def require(principal: Principal, team: str, role: Role) -> None:
    """Holds that the caller has a role in a team.

    Raises `NotFound` (TEAM_NOT_FOUND) for a stranger, as for a team that does not exist, and
    `PermissionDenied` (ROLE_TOO_LOW) for a member with too low a role.
    """
    has = principal.role(team)
    if has is Role.NONE:
        raise NotFound(f"there is no team {team[:80]!r}", reason=Reason.TEAM_NOT_FOUND, team=team)
    if has < role:
        raise PermissionDenied(
            f"needs role {role.name.lower()} in team {team}; you are {has.name.lower()}",
            reason=Reason.ROLE_TOO_LOW,
            team=team,
            role=has.name.lower(),
            needed=role.name.lower(),
        )


def hash_token(secret: str) -> str:
    """What is stored of a token: SHA-256 in hex. A token is random, so no salt is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_token(prefix: str = "cairn") -> str:
    """A new opaque token: the prefix (so that scanners find leaked ones) and 256 random bits."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


class TokenChecker:
    """Asks the quota service whose a token is, and remembers good answers for at most 5 s.

    One question at a time per token; at most 4,096 remembered. Quota away: `Unavailable`, never a pass.
    """

    def __init__(self, channel: aio.Channel, clock: Clock | None = None) -> None:
        self._identity = quota_pb2_grpc.IdentityServiceStub(channel)
        self._clock: Clock = clock or SystemClock()
        self._known: OrderedDict[str, tuple[Principal, datetime]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Principal]] = {}
        # Counts the forgettings: an answer that was on its way when one came in is not remembered.
        self._forgettings = 0

    async def check(self, token: str) -> Principal:
        """Whose token this is. Raises `Unauthenticated` (TOKEN_*) or `Unavailable`."""
        if _SHAPE.fullmatch(token) is None:
            raise Unauthenticated("this token is not known here", reason=Reason.TOKEN_INVALID)
        key = hash_token(token)
        known = self._known.get(key)
        if known is not None and self._clock.now() < known[1]:
            self._known.move_to_end(key)
            return known[0]
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(key, token))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        # Shielded: a caller that gives up must not take the answer away from the others.
        return await asyncio.shield(task)

    def forget(self, token_uid: str) -> None:
        """Drops what is remembered of a token: it was revoked."""
        self._forgettings += 1
        for key in [key for key, (who, _) in self._known.items() if who.token_uid == token_uid]:
            del self._known[key]

    def hear(self, event: events_pb2.QuotaEvent) -> None:
        """Drops what a fact of `WHO_IS_WHO` makes wrong: a revoked token, somebody's other role in a team."""
        arm = event.WhichOneof("event") or ""
        if arm == "token_revoked":
            self.forget(event.token_revoked.token.uid)
        elif arm.startswith("member_"):
            self._forgettings += 1
            user = getattr(event, arm).membership.user
            for key in [key for key, (who, _) in self._known.items() if who.subject == user]:
                del self._known[key]

    async def follow(
        self, bus: Bus, told: Callable[[events_pb2.QuotaEvent], None] = lambda event: None
    ) -> None:
        """Hears, and tells on, each fact that changes who may do what; for ever."""
        async with aclosing(bus.tail(stream="QUOTA", subjects=WHO_IS_WHO)) as messages:
            async for message in messages:
                try:
                    event = events_pb2.QuotaEvent.FromString(message.data)
                except DecodeError:
                    log.warning("auth.unreadable", subject=message.subject, sequence=message.sequence)
                    continue
                self.hear(event)
                told(event)

    async def _ask(self, key: str, token: str) -> Principal:
        before = self._forgettings
        now = self._clock.now()
        try:
            answer = await self._identity.CheckToken(
                quota_pb2.CheckTokenRequest(token=token), timeout=_CHECK_TIMEOUT
            )
        except aio.AioRpcError as error:
            raise _explain(from_rpc_error(error)) from None
        principal = principal_of(answer)
        until = now + timedelta(seconds=_CACHE_SECONDS)
        if principal.expire_time is not None:
            until = min(until, principal.expire_time)
        if before == self._forgettings:
            self._known[key] = (principal, until)
            self._known.move_to_end(key)
            while len(self._known) > _CACHE_SIZE:
                self._known.popitem(last=False)
        return principal

    def _asked(self, key: str, task: asyncio.Task[Principal]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            # Seen here too, so that an answer nobody waits for any more is not reported as lost.
            task.exception()


def principal_of(message: token_pb2.Principal) -> Principal:
    """The wire's principal as a value."""
    expires = message.expire_time.ToDatetime(tzinfo=UTC) if message.HasField("expire_time") else None
    return Principal(
        subject=message.subject,
        scope=Scope(message.scope),
        roles=MappingProxyType({item.team: Role(item.role) for item in message.memberships}),
        token_uid=message.token_uid,
        run_uid=message.run_uid,
        attempt_uid=message.attempt_uid,
        expire_time=expires,
        session=message.session,
    )


def _explain(error: DomainError) -> DomainError:
    """Only quota's word on the token is passed on; whatever else went wrong, there was no check."""
    if isinstance(error, Unauthenticated) and error.metadata.get("refused") != "caller":
        return error
    log.warning("auth.unchecked", reason=str(error.reason), error=error.message)
    return Unavailable(
        "the token cannot be checked now: the quota service does not answer",
        reason=Reason.NEIGHBOUR_UNAVAILABLE,
    )
