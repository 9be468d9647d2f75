"""Whose token is this? Answered from quota's own tables, for its callers, its neighbours and the bus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cairn_common.auth import Principal, Role, hash_token
from cairn_common.auth import Scope as CommonScope
from cairn_common.clock import Clock
from cairn_common.errors import Reason, Unauthenticated
from cairn_quota import model
from cairn_quota.identity_store import IdentityStore
from cairn_quota.model import Token

LONGEST_SECRET = 512


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Tells the bearer of a secret, or refuses it."""

    store: IdentityStore
    clock: Clock

    async def __call__(self, secret: str) -> Principal:
        """The caller, as cairn_common.rpc wants it. Raises Unauthenticated as `check` does."""
        try:
            token, roles = await self.check(secret)
        except Unauthenticated as error:
            # Not to be taken for an answer about the token that a service asks about.
            error.metadata["checked"] = "caller"
            raise
        return principal(token, roles)

    async def check(self, secret: str) -> tuple[Token, Mapping[str, int]]:
        """The good token with this secret, and its bearer's role number by team.

        Raises Unauthenticated with TOKEN_INVALID, TOKEN_REVOKED or TOKEN_EXPIRED.
        """
        found = await self.store.find(hash_token(secret)) if 0 < len(secret) <= LONGEST_SECRET else None
        if found is None:
            raise Unauthenticated("This token is not known here.", reason=Reason.TOKEN_INVALID)
        token, roles = found
        if token.revoke_time is not None:
            raise Unauthenticated("This token was revoked; make a new one.", reason=Reason.TOKEN_REVOKED)
        if token.expire_time is not None and token.expire_time <= self.clock.now():
            raise Unauthenticated(
                f"This token expired at {token.expire_time:%Y-%m-%dT%H:%M:%SZ}; make a new one.",
                reason=Reason.TOKEN_EXPIRED,
            )
        if token.scope is model.Scope.RUN:
            # What it may touch of its team is held down by its scope, method by method.
            return token, {token.team: model.Role.MEMBER}
        return token, roles


def principal(token: Token, roles: Mapping[str, int]) -> Principal:
    """The bearer as every service knows it."""
    return Principal(
        subject=token.subject,
        scope=CommonScope(token.scope),
        roles={team: Role(role) for team, role in roles.items()},
        token_uid=token.uid,
        run_uid=token.run_uid,
        attempt_uid=token.attempt_uid,
        expire_time=token.expire_time,
        session=token.session,
    )
