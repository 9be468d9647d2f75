"""How somebody comes in by a password: attempts are counted, unknown people take as long as known ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network

from cairn_common.auth import hash_token, new_token
from cairn_common.clock import Clock
from cairn_common.errors import Reason, ResourceExhausted, Unauthenticated
from cairn_common.ids import new_uid
from cairn_common.rpc import origin
from cairn_quota.model import NewToken, Scope, Token
from cairn_quota.passwords import Passwords
from cairn_quota.people import User, UserState, spelled
from cairn_quota.user_store import Tries, UserStore

MOST_OF_PAIR = 5
"""Attempts at one account from one address, in `user_store.WINDOW`: the owner elsewhere is not locked out."""
MOST_OF_ACCOUNT = 50
MOST_OF_ADDRESS = 30


@dataclass(frozen=True, slots=True)
class SignIn:
    """Lets in who knows a password."""

    users: UserStore
    passwords: Passwords
    clock: Clock

    async def check(self, email: str, password: str) -> User:
        """The user with this address and password.

        Raises Unauthenticated/PASSWORD_WRONG, the same for all that is wrong, and
        ResourceExhausted/RATE_EXCEEDED after too many attempts, whether there is such a user or not.
        """
        await self.count(email)
        found = await self.users.by_email(email)
        user, stored = found if found is not None else (None, None)
        good = await self.passwords.matches(stored, spelled(password))
        if user is None or not good or user.state is not UserState.ACTIVE:
            raise Unauthenticated(
                "This e-mail address and this password do not go together.", reason=Reason.PASSWORD_WRONG
            )
        await self.users.forgive(last=_of_address(), ended=_of_account(email))
        return user

    async def count(self, account: str) -> None:
        """Counts an attempt at an account from where the call comes from. Raises ResourceExhausted."""
        # The narrow ones first: who is over one of them counts no further, and locks nobody else out.
        tries = [*_of_address(), *_of_account(account)]
        await count_tries(self.users, *tries, now=self.clock.now())


async def count_tries(users: UserStore, *tries: Tries, now: datetime) -> None:
    """Counts an attempt. Raises ResourceExhausted/RATE_EXCEEDED for one too many."""
    wait = await users.attempt(tries, now=now)
    if wait is None:
        return
    seconds = int(wait.total_seconds())
    raise ResourceExhausted(
        f"Too many attempts to sign in; the next one is in {seconds} s.",
        reason=Reason.RATE_EXCEEDED,
        retry_after=seconds,
    )


def _of_account(account: str) -> list[Tries]:
    pair = attempts_under("pair", account, neighbourhood(origin().address), most=MOST_OF_PAIR)
    return [pair, attempts_under("account", account, most=MOST_OF_ACCOUNT)]


def _of_address() -> list[Tries]:
    return [attempts_under("address", neighbourhood(origin().address), most=MOST_OF_ADDRESS)]


def neighbourhood(address: str) -> str:
    """What is counted as one address: of IPv6 the /64 that one customer has to choose from."""
    try:
        given = ip_address(address)
    except ValueError:
        return address
    if given.version == 6 and given.ipv4_mapped is not None:
        return str(given.ipv4_mapped)
    return str(ip_network((given, 64), strict=False)) if given.version == 6 else address


def attempts_under(*parts: str, most: int) -> Tries:
    """At most so many attempts at what the parts name; who reads the table learns nothing of them."""
    return Tries(hashlib.sha256("\0".join(parts).encode()).hexdigest(), most)


def new_session(subject: str, *, life: timedelta, now: datetime) -> tuple[NewToken, str]:
    """The token of a session that begins, and its secret."""
    secret = new_token("cairn_session")
    token = Token(
        uid=new_uid(),
        display_name=f"session from {origin().address or 'nowhere'}",
        subject=subject,
        scope=Scope.ADMIN,
        team="",
        run_uid="",
        attempt_uid="",
        create_time=now,
        expire_time=now + life,
        revoke_time=None,
        session=True,
    )
    return NewToken(token=token, hash=hash_token(secret), creator=subject, request_id=""), secret
