"""Who may make whom what, pure: users, memberships, invitations, and the rules between them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from cairn_common.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Reason
from cairn_quota.model import Role

LONGEST_PASSWORD, SHORTEST_PASSWORD = 256, 10
_EMAIL = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9](?:[a-z0-9.-]{0,188}[a-z0-9])?")


class UserState(IntEnum):
    """Numbers as in cairn.quota.v1.User.State."""

    ACTIVE = 1
    DISABLED = 2


class UserKind(IntEnum):
    """Numbers as in cairn.quota.v1.User.Kind."""

    PERSON = 1
    SERVICE_ACCOUNT = 2


class InvitationState(IntEnum):
    """Numbers as in cairn.quota.v1.Invitation.State."""

    PENDING = 1
    ACCEPTED = 2
    REVOKED = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who can have roles and tokens, without the password's hash."""

    id: str
    uid: str
    kind: UserKind
    state: UserState
    email: str
    display_name: str
    # Of a service account alone.
    team: str
    has_password: bool
    create_time: datetime
    update_time: datetime

    @property
    def subject(self) -> str:
        """As tokens and memberships name it."""
        return f"users/{self.id}"


@dataclass(frozen=True, slots=True)
class Membership:
    """What a user is in a team. `user` is None for one of whom no more than the name is known."""

    team: str
    subject: str
    role: Role
    user: User | None


@dataclass(frozen=True, slots=True)
class Invitation:
    """A link that lets one person in, without its secret."""

    uid: str
    team: str
    email: str
    # None: it sets the password of `subject`.
    role: Role | None
    subject: str
    creator: str
    create_time: datetime
    expire_time: datetime
    accept_time: datetime | None = None
    revoke_time: datetime | None = None

    def state(self, now: datetime) -> InvitationState:
        """What it is at a moment."""
        if self.accept_time is not None:
            return InvitationState.ACCEPTED
        if self.revoke_time is not None:
            return InvitationState.REVOKED
        return InvitationState.PENDING if now < self.expire_time else InvitationState.EXPIRED


@dataclass(frozen=True, slots=True)
class Change:
    """What `actor` wants `subject` to be in a team; None: no member."""

    team: str
    actor: str
    subject: str
    role: Role | None
    is_account: bool = False


@dataclass(frozen=True, slots=True)
class Members:
    """Everybody's role in one team, by subject, and who of them is disabled."""

    roles: Mapping[str, Role]
    disabled: frozenset[str] = frozenset()


def check_change(change: Change, members: Members) -> None:
    """Holds that the actor may do this, by what everybody is in the team now.

    Nobody gives more than they have, touches somebody above them, or leaves a team without an owner; a
    service account is never more than a member. One may leave, and take a lower role, by oneself. Raises
    PermissionDenied (ROLE_TOO_LOW), FailedPrecondition (OWNER_LAST), InvalidArgument.
    """
    own, old = members.roles.get(change.actor), members.roles.get(change.subject)
    leaves = change.actor == change.subject and change.role is None
    if own is None or (own < Role.ADMIN and not leaves):
        raise too_low(change.team, own, Role.ADMIN)
    if old is not None and old > own:
        raise too_low(change.team, own, old)
    if change.role is not None:
        check_grant(change.team, own, change.role)
        if change.is_account and change.role > Role.MEMBER:
            raise InvalidArgument(
                "role: a service account is at most a member: whoever holds its token must not make others",
                reason=Reason.FIELD_INVALID,
                field="role",
            )
    owners = {one for one, role in members.roles.items() if role is Role.OWNER} - members.disabled
    if old is Role.OWNER and change.role is not Role.OWNER and not owners - {change.subject}:
        raise last_owner(change.team)


def check_grant(team: str, own: Role | None, role: Role) -> None:
    """Holds that somebody with a role may give another one. Raises PermissionDenied (ROLE_TOO_LOW)."""
    if own is None or own < Role.ADMIN:
        raise too_low(team, own, Role.ADMIN)
    if role > own:
        raise too_low(team, own, role)


def last_owner(team: str) -> FailedPrecondition:
    """The refusal to leave a team without an owner."""
    return FailedPrecondition(
        f"The team {team} would have no owner left; make somebody else one first.",
        reason=Reason.OWNER_LAST,
        team=team,
    )


def too_low(team: str, own: Role | None, needed: Role) -> PermissionDenied:
    """The refusal of what takes a higher role."""
    has = "no member" if own is None else own.name.lower()
    return PermissionDenied(
        f"This needs role {needed.name.lower()} in team {team}; you are {has}.",
        reason=Reason.ROLE_TOO_LOW,
        team=team,
        role=has,
        needed=needed.name.lower(),
    )


def check_email(text: str, field: str = "email") -> str:
    """The address in lower case. Raises InvalidArgument."""
    email = text.strip().lower()
    if _EMAIL.fullmatch(email) is None or ".." in email:
        raise InvalidArgument(
            f"{field}: {text[:80]!r} is not an e-mail address", reason=Reason.FIELD_INVALID, field=field
        )
    return email


def check_password(text: str, *, email: str) -> str:
    """A password that may be set, in one spelling. Raises InvalidArgument, which never holds it."""
    password = spelled(text)
    why = ""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        why = f"must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
    elif password.lower() in {email, email.partition("@")[0]} or len(set(password)) < 4:
        why = "is too easy to guess; take some words that only you would put together"
    if why:
        raise InvalidArgument(f"password: {why}", reason=Reason.FIELD_INVALID, field="password")
    return password


def spelled(password: str) -> str:
    """One spelling for what keyboards write in several."""
    return unicodedata.normalize("NFKC", password[: 4 * LONGEST_PASSWORD])


def id_of(email: str) -> str:
    """An id for a new user, made of the address; the caller sees to it that it is free."""
    made = re.sub(r"[^a-z0-9]+", "-", email.partition("@")[0]).strip("-")[:50].strip("-")
    return made if re.match(r"[a-z]", made) else f"u-{made}".strip("-")
