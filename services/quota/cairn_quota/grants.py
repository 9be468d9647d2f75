"""What a token may do on the bus, pure: the permissions of its connection, or none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cairn_quota.model import Role, Scope, Token

LONGEST = timedelta(minutes=15)
"""How long a connection lasts at most before it has to show its token again."""
_PART = re.compile(r"[a-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True)
class Grant:
    """Subjects that may be published and subscribed to, until a moment."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    expires: datetime
    # Whose streams are published to.
    teams: tuple[str, ...]


def grant(token: Token, *, roles: Mapping[str, int], secret: str, now: datetime) -> Grant | None:
    """What a good token allows: to tell of its run and that run's attempts, or of its teams' runs; None:
    nothing at all.

    Replies come to `_INBOX_<first 16 of the SHA-256 of the secret>.>`, so no connection can read another's.
    """
    places = _places(token, roles)
    if not places:
        return None
    # A runner's words about its attempt are what the scheduler goes by.
    told = ("run", "attempt") if token.scope is Scope.RUN else ("run",)
    publish = tuple(f"cairn.v1.job.{of}.*.{team}.{run}" for team, run in places for of in told)
    expires = min(now + LONGEST, token.expire_time or now + LONGEST)
    inbox = f"_INBOX_{hashlib.sha256(secret.encode()).hexdigest()[:16]}.>"
    teams = tuple(dict.fromkeys(team for team, _ in places))
    return Grant(publish=publish, subscribe=(inbox, *_subscribe(token)), expires=expires, teams=teams)


def _places(token: Token, roles: Mapping[str, int]) -> list[tuple[str, str]]:
    """Teams, and the run of each that may be told of (``*``: all)."""
    if token.scope is Scope.RUN:
        places = [(token.team, token.run_uid)]
    elif token.scope in (Scope.WRITE, Scope.ADMIN) and token.subject.startswith("users/"):
        places = [(team, "*") for team, role in sorted(roles.items()) if role >= Role.MEMBER]
    else:
        # Reading needs no bus, and services have keys of their own.
        places = []
    return [(team, run) for team, run in places if _are_parts(team, run)]


def _subscribe(token: Token) -> tuple[str, ...]:
    """A job's runner hears that its attempt is to stop, and that somebody wants to reach into it."""
    if token.scope is not Scope.RUN or not _are_parts(token.team, token.run_uid):
        return ()
    told = ("attempt.stopping", "session.opened")
    return tuple(f"cairn.v1.scheduler.{each}.{token.team}.{token.run_uid}" for each in told)


def _are_parts(team: str, run: str) -> bool:
    return _PART.fullmatch(team) is not None and (run == "*" or _PART.fullmatch(run) is not None)
