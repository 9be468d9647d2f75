"""IdentityService: who is who, and the tokens that say so. What each RPC asks for stands in api.ACCESS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cairn.quota.v1 import quota_pb2, quota_pb2_grpc, token_pb2
from cairn_common.auth import Principal, hash_token, new_token
from cairn_common.clock import Clock
from cairn_common.errors import InvalidArgument, PermissionDenied, Reason
from cairn_common.ids import check_uid, new_uid, parse_name
from cairn_common.once import Once, check_request_id
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_quota import checks, wire
from cairn_quota.authentication import Authenticator, principal
from cairn_quota.identity_store import IdentityStore, token_not_found
from cairn_quota.model import NewToken, Scope, Token
from cairn_quota.team_store import team_not_found

MOST_TOKENS = 500


@dataclass(frozen=True)
class IdentityApi(quota_pb2_grpc.IdentityServiceServicer):
    """IdentityService over its store."""

    store: IdentityStore
    authenticator: Authenticator
    once: Once
    clock: Clock

    async def CheckToken(self, request: quota_pb2.CheckTokenRequest, context: object) -> token_pb2.Principal:
        """Whose token this is, for a neighbour."""
        token, roles = await self.authenticator.check(request.token)
        return _principal_message(principal(token, roles))

    async def GetCaller(self, request: quota_pb2.GetCallerRequest, context: object) -> token_pb2.Principal:
        """Who am I."""
        return _principal_message(caller())

    async def CreateToken(
        self, request: quota_pb2.CreateTokenRequest, context: object
    ) -> quota_pb2.CreateTokenResponse:
        """A token for the caller itself, or, asked for by a service, for one run."""
        who = caller()
        if who.is_service:
            made = await self._made([request])
            return made[0]
        token = _own_token(request, who=who, now=self.clock.now())

        async def make() -> quota_pb2.CreateTokenResponse:
            secret = new_token("cairn")
            new = NewToken(token=token, hash=hash_token(secret), creator=who.subject, request_id="")
            stored = await self.store.create(new)
            return quota_pb2.CreateTokenResponse(token=wire.token_message(stored), secret=secret)

        return await self.once(request, quota_pb2.CreateTokenResponse, make)

    async def BatchCreateTokens(
        self, request: quota_pb2.BatchCreateTokensRequest, context: object
    ) -> quota_pb2.BatchCreateTokensResponse:
        """Tokens for runs, all or none."""
        _in_batch(len(request.requests), "requests")
        return quota_pb2.BatchCreateTokensResponse(tokens=await self._made(request.requests))

    async def BatchRevokeTokens(
        self, request: quota_pb2.BatchRevokeTokensRequest, context: object
    ) -> quota_pb2.BatchRevokeTokensResponse:
        """The end of tokens, for ever."""
        _in_batch(len(request.names), "names")
        uids = [parse_name("tokens/{token}", name)["token"] for name in request.names]
        revoked = await self.store.revoke_many(uids, actor=caller().subject, now=self.clock.now())
        return quota_pb2.BatchRevokeTokensResponse(revoked=revoked)

    async def RenewToken(self, request: quota_pb2.RenewTokenRequest, context: object) -> token_pb2.Token:
        """A later end for a run's token."""
        uid = parse_name("tokens/{token}", request.name)["token"]
        expire_time = self.clock.now() + checks.ttl(request.ttl)
        return wire.token_message(await self.store.renew(uid, expire_time=expire_time))

    async def RevokeToken(self, request: quota_pb2.RevokeTokenRequest, context: object) -> token_pb2.Token:
        """The end of a token, for ever."""
        who = caller()
        uid = parse_name("tokens/{token}", request.name)["token"]
        found = await self.store.token(uid)
        if found is None or not (who.is_service or found.subject == who.subject):
            raise token_not_found(uid)
        if not who.is_service and uid != who.token_uid and found.scope > who.scope:
            raise _scope_too_low(found.scope, who)
        now = self.clock.now()
        return wire.token_message(await self.store.revoke(uid, actor=who.subject, now=now))

    async def ListTokens(
        self, request: quota_pb2.ListTokensRequest, context: object
    ) -> quota_pb2.ListTokensResponse:
        """The caller's own tokens, newest first."""
        who = caller()
        scope = f"tokens/{who.subject}"
        size = page_size(request.page_size)
        token = request.page_token
        before = decode_token(token, scope=scope, read=lambda at: str(at["after"])) if token else None
        found = await self.store.tokens(who.subject, before=before, size=size + 1)
        page = found[:size]
        more = len(found) > size
        return quota_pb2.ListTokensResponse(
            tokens=[wire.token_message(token) for token in page],
            next_page_token=encode_token({"after": page[-1].uid}, scope=scope) if more else "",
        )

    async def _made(
        self, requests: Sequence[quota_pb2.CreateTokenRequest]
    ) -> list[quota_pb2.CreateTokenResponse]:
        """Run tokens of a service's, in one transaction."""
        who, now = caller(), self.clock.now()
        tokens = [_run_token(request, now) for request in requests]
        known = await self.store.teams_among({token.team for token in tokens})
        for token in tokens:
            if token.team not in known:
                raise team_not_found(token.team)
        secrets = [new_token("cairn_run") for _ in tokens]
        news = [
            _new(token, request, secret=secret, creator=who.subject)
            for token, request, secret in zip(tokens, requests, secrets, strict=True)
        ]
        stored = await self.store.create_many(news)
        return [
            quota_pb2.CreateTokenResponse(token=wire.token_message(token), secret=secret)
            for token, secret in zip(stored, secrets, strict=True)
        ]


def _new(token: Token, request: quota_pb2.CreateTokenRequest, *, secret: str, creator: str) -> NewToken:
    return NewToken(
        token=token,
        hash=hash_token(secret),
        creator=creator,
        request_id=check_request_id(request.request_id),
    )


def _in_batch(count: int, field: str) -> None:
    if not 1 <= count <= MOST_TOKENS:
        raise checks.invalid(field, f"1 to {MOST_TOKENS} of them, not {count}")


def _run_token(request: quota_pb2.CreateTokenRequest, now: datetime) -> Token:
    if request.scope != token_pb2.SCOPE_RUN:
        raise PermissionDenied(
            "A service makes tokens of SCOPE_RUN alone.", reason=Reason.SCOPE_TOO_LOW, needed="run"
        )
    if not request.HasField("ttl"):
        raise checks.invalid("ttl", "a run's token must expire")
    run_uid = check_uid(request.run_uid, "run_uid")
    if request.attempt_uid:
        check_uid(request.attempt_uid, "attempt_uid")
    parse_name("{team}", request.team)
    return Token(
        uid=new_uid(),
        display_name=checks.text(request.display_name, "display_name"),
        subject=f"runs/{run_uid}",
        scope=Scope.RUN,
        team=request.team,
        run_uid=run_uid,
        attempt_uid=request.attempt_uid,
        create_time=now,
        expire_time=now + checks.ttl(request.ttl),
        revoke_time=None,
    )


def _own_token(request: quota_pb2.CreateTokenRequest, *, who: Principal, now: datetime) -> Token:
    """A token for the caller that can do no more, and no longer, than the one it calls with."""
    if request.team or request.run_uid or request.attempt_uid:
        raise checks.invalid(
            "team", "team, run_uid and attempt_uid are for SCOPE_RUN, which only services make"
        )
    if request.scope == token_pb2.SCOPE_RUN:
        raise PermissionDenied("Only services make tokens for runs.", reason=Reason.SCOPE_TOO_LOW)
    if request.scope not in (token_pb2.SCOPE_READ, token_pb2.SCOPE_WRITE, token_pb2.SCOPE_ADMIN):
        raise checks.invalid("scope", "must be SCOPE_READ, SCOPE_WRITE or SCOPE_ADMIN")
    if request.scope > who.scope:
        raise _scope_too_low(Scope(request.scope), who)
    expire_time = now + checks.ttl(request.ttl) if request.HasField("ttl") else None
    if (
        not who.session
        and who.expire_time is not None
        and (expire_time is None or expire_time > who.expire_time)
    ):
        raise InvalidArgument(
            f"ttl: the token that you call with expires at {who.expire_time:%Y-%m-%dT%H:%M:%SZ}, and one made"
            " with it may not live longer. Give a shorter ttl, or call with another token.",
            reason=Reason.FIELD_INVALID,
            field="ttl",
        )
    return Token(
        uid=new_uid(),
        display_name=checks.text(request.display_name, "display_name"),
        subject=who.subject,
        scope=Scope(request.scope),
        team="",
        run_uid="",
        attempt_uid="",
        create_time=now,
        expire_time=expire_time,
        revoke_time=None,
    )


def _scope_too_low(needed: Scope, who: Principal) -> PermissionDenied:
    has = who.scope.name.lower()
    return PermissionDenied(
        f"A token of scope {needed.name.lower()} is beyond the scope of the one that you call with ({has}).",
        reason=Reason.SCOPE_TOO_LOW,
        scope=has,
        needed=needed.name.lower(),
    )


def _principal_message(who: Principal) -> token_pb2.Principal:
    return token_pb2.Principal(
        subject=who.subject,
        scope=token_pb2.Scope.ValueType(who.scope),
        memberships=[
            token_pb2.Principal.Membership(team=team, role=token_pb2.Role.ValueType(role))
            for team, role in sorted(who.roles.items())
        ],
        token_uid=who.token_uid,
        run_uid=who.run_uid,
        attempt_uid=who.attempt_uid,
        expire_time=wire.timestamp(who.expire_time),
        session=who.session,
    )
