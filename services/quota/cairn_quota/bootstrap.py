"""The first inhabitants: the team `main`, its owner `admin`, and the tokens of admin and services."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog

from cairn_common.clock import Clock
from cairn_common.ids import new_uid
from cairn_common.settings import SettingsError
from cairn_quota.identity_store import IdentityStore
from cairn_quota.model import Limits, NewToken, Role, Scope, Token
from cairn_quota.team_store import TeamStore, new_team
from cairn_quota.user_store import UserStore, new_user

ACTOR = "services/quota"
ADMIN = "users/admin"
TEAM = "main"
_HASH = re.compile(r"[0-9a-f]{64}")
_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """SHA-256 (hexadecimal) of the first tokens."""

    admin: str
    services: Mapping[str, str]


def read_bootstrap(path: Path) -> Bootstrap:
    """The bootstrap file. Raises SettingsError where it cannot be read, or by others too, or is not right."""
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SettingsError(f"CAIRN_BOOTSTRAP: {path} can be read by others; chmod 0600 it")
        content = json.loads(path.read_text())
        made = Bootstrap(admin=content["admin"], services=dict(content["services"]))
        hashes = [made.admin, *made.services.values()]
        well_formed = all(_HASH.fullmatch(one) for one in hashes) and all(
            _SERVICE.fullmatch(name) for name in made.services
        )
    except OSError as error:
        raise SettingsError(f"CAIRN_BOOTSTRAP: cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        hashes, well_formed = [], False
    if not well_formed or len(set(hashes)) != len(hashes):
        raise SettingsError(
            f"CAIRN_BOOTSTRAP: {path} must hold"
            ' {"admin": "<sha256 hex>", "services": {"scheduler": "<sha256 hex>", ...}}, no hash twice'
        )
    return made


async def bootstrap(
    first: Bootstrap, *, teams: TeamStore, users: UserStore, identities: IdentityStore, clock: Clock
) -> None:
    """Makes what is missing; safe at every start, also of several processes at once."""
    now = clock.now()
    if await teams.team(TEAM) is None:
        await teams.create_team(
            new_team(id=TEAM, display_name="Main", limits=Limits(), now=now),
            creator=ADMIN,
            request_id="bootstrap",
            owner_role=Role.OWNER,
        )
    await users.ensure(new_user(ADMIN.removeprefix("users/"), now=now, display_name="Admin"), creator=ACTOR)
    for token in _tokens(first, now):
        await identities.set_token(token)
    log.info("quota.bootstrapped", services=sorted(first.services))


def _tokens(first: Bootstrap, now: datetime) -> Iterator[NewToken]:
    subjects = {ADMIN: first.admin} | {f"services/{name}": one for name, one in first.services.items()}
    for subject, token_hash in subjects.items():
        token = Token(
            uid=new_uid(),
            display_name="bootstrap",
            subject=subject,
            scope=Scope.ADMIN,
            team="",
            run_uid="",
            attempt_uid="",
            create_time=now,
            expire_time=None,
            revoke_time=None,
        )
        yield NewToken(token=token, hash=token_hash, creator="bootstrap", request_id="")
