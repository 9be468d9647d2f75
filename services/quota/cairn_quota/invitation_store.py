"""All SQL about invitations. Each public method is one transaction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from cairn_common.auth import hash_token
from cairn_common.db import Connection, Database, Row
from cairn_common.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    Reason,
    Unauthenticated,
)
from cairn_quota import audit
from cairn_quota.member_store import locked_members, write_member
from cairn_quota.model import NewToken, Role
from cairn_quota.people import Invitation, InvitationState, User, UserState, check_grant, too_low
from cairn_quota.user_store import SELECT as SELECT_USERS
from cairn_quota.user_store import check_email_free, insert_session, insert_user, user_of, write_password

_COLUMNS = "uid, team, email, role, subject, creator, create_time, expire_time, accept_time, revoke_time"
_SELECT = f"SELECT {_COLUMNS} FROM invitations"  # noqa: S608
MOST_IDS = 50
"""How many ids are tried for a new user whose address is like others'."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Somebody comes in by a link. `user` is whom they are, or would be; `password_hash` a new user's, or the
    new one."""

    invitation: Invitation
    user: User
    is_new: bool
    password_hash: str | None
    session: NewToken
    now: datetime


class InvitationStore:
    """The links that let people in."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, invitation: Invitation, *, secret: str) -> None:
        """Writes a new one. Raises PermissionDenied where its maker may not give that role (any more)."""
        async with self._db.transaction() as conn:
            await _check_inviter(conn, invitation)
            if invitation.subject:
                await conn.execute(
                    "UPDATE invitations SET revoke_time = $2"
                    " WHERE subject = $1 AND accept_time IS NULL AND revoke_time IS NULL",
                    invitation.subject,
                    invitation.create_time,
                )
            await conn.execute(
                "INSERT INTO invitations (uid, hash, team, email, role, subject, creator, create_time,"
                " expire_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                invitation.uid,
                hash_token(secret),
                invitation.team,
                invitation.email,
                None if invitation.role is None else int(invitation.role),
                invitation.subject or None,
                invitation.creator,
                invitation.create_time,
                invitation.expire_time,
            )
            await _record(
                conn, "invitation.created", invitation, by=invitation.creator, now=invitation.create_time
            )

    async def find(self, secret: str) -> Invitation | None:
        """The one whose link has this secret, whatever its state; or None."""
        row = await self._db.fetchrow(_SELECT + " WHERE hash = $1", hash_token(secret))
        return None if row is None else _invitation(row)

    async def invitations(self, team: str, *, before: str | None, size: int) -> list[Invitation]:
        """A team's, newest first, from behind the uid `before`."""
        rows = await self._db.fetch(
            _SELECT + " WHERE team = $1 AND ($2::text IS NULL OR uid < $2) ORDER BY uid DESC LIMIT $3",
            team,
            before,
            size,
        )
        return [_invitation(row) for row in rows]

    async def revoke(self, team: str, uid: str, *, actor: str, now: datetime) -> Invitation:
        """The end of one; twice is no error.

        Raises NotFound/INVITATION_NOT_FOUND, FailedPrecondition where it was accepted.
        """
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(_SELECT + " WHERE uid = $1 AND team = $2 FOR UPDATE", uid, team)
            if row is None:
                raise NotFound(
                    f"There is no invitation {uid!r} in team {team}.", reason=Reason.INVITATION_NOT_FOUND
                )
            found = _invitation(row)
            if found.accept_time is not None:
                raise FailedPrecondition("This invitation was accepted; remove the member instead.")
            if found.revoke_time is None:
                await conn.execute("UPDATE invitations SET revoke_time = $2 WHERE uid = $1", uid, now)
                await _record(conn, "invitation.revoked", found, by=actor, now=now)
                found = replace(found, revoke_time=now)
        return found

    async def accept(self, acceptance: Acceptance) -> User:
        """Uses the link up, and lets them in.

        Raises Unauthenticated/INVITATION_INVALID where somebody else was faster, it was revoked, or its maker
        may no longer invite for that role; AlreadyExists where the user's id is taken.
        """
        invitation, now = acceptance.invitation, acceptance.now
        async with self._db.transaction() as conn:
            try:
                await _check_inviter(conn, invitation)
            except PermissionDenied:
                raise invitation_invalid() from None
            row = await conn.fetchrow(_SELECT + " WHERE uid = $1 FOR UPDATE", invitation.uid)
            if row is None or _invitation(row).state(now) is not InvitationState.PENDING:
                raise invitation_invalid()
            user = await _let_in(conn, acceptance)
            token = replace(acceptance.session.token, subject=user.subject)
            session = replace(acceptance.session, token=token, creator=user.subject)
            await insert_session(conn, session, how="invitation")
        return user


async def _let_in(conn: Connection, acceptance: Acceptance) -> User:
    invitation, user, now = acceptance.invitation, acceptance.user, acceptance.now
    if acceptance.is_new:
        hashed, creator = acceptance.password_hash, invitation.creator
        user = await insert_under_a_free_id(conn, user, password_hash=hashed, creator=creator, now=now)
    else:
        row = await conn.fetchrow(SELECT_USERS + " WHERE id = $1 FOR UPDATE", user.id)
        email, user = user.email, user if row is None else user_of(row)
        if user.state is not UserState.ACTIVE:
            raise invitation_invalid()
    if invitation.role is None:
        assert acceptance.password_hash is not None
        if not user.email:
            await check_email_free(conn, email)
            await conn.execute("UPDATE users SET email = $2 WHERE id = $1", user.id, email)
        await _use_up(conn, invitation, user, now)
        return await write_password(
            conn, user.id, acceptance.password_hash, keep="", actor=user.subject, now=now
        )
    await accepted_by(conn, invitation, user, now=now)
    return user


async def accepted_by(conn: Connection, invitation: Invitation, user: User, *, now: datetime) -> None:
    """Uses up an invitation that is good, and makes the user a member where they are none yet."""
    assert invitation.role is not None, "a link for a password is accepted by setting one"
    members = await locked_members(conn, invitation.team)
    if user.subject not in members.roles:
        await write_member(conn, invitation.team, user, invitation.role, actor=invitation.creator, now=now)
    await _use_up(conn, invitation, user, now)


async def open_invitations(conn: Connection, email: str, *, now: datetime) -> list[Invitation]:
    """An address's good invitations, one of each team; nobody else uses them until the transaction ends."""
    rows = await conn.fetch(
        _SELECT + " WHERE email = $1 AND role IS NOT NULL AND accept_time IS NULL AND revoke_time IS NULL"
        " AND expire_time > $2 ORDER BY team, role DESC, uid FOR UPDATE",
        email,
        now,
    )
    found: dict[str, Invitation] = {}
    for invitation in map(_invitation, rows):
        try:
            await _check_inviter(conn, invitation)
        except PermissionDenied:
            continue
        found.setdefault(invitation.team, invitation)
    return list(found.values())


async def _use_up(conn: Connection, invitation: Invitation, user: User, now: datetime) -> None:
    await conn.execute("UPDATE invitations SET accept_time = $2 WHERE uid = $1", invitation.uid, now)
    await _record(conn, "invitation.accepted", invitation, by=user.subject, now=now)


async def insert_under_a_free_id(
    conn: Connection, user: User, *, creator: str, now: datetime, password_hash: str | None = None
) -> User:
    """Writes a new user, whose id gets a number where it is taken. Raises AlreadyExists."""
    for number in range(1, MOST_IDS + 1):
        one = user if number == 1 else replace(user, id=f"{user.id}-{number}")
        if await insert_user(conn, one, password_hash=password_hash, creator=creator):
            await audit.record(conn, "user.created", actor=one.subject, now=now, resource=one.subject)
            return replace(one, has_password=password_hash is not None)
    raise AlreadyExists(f"The user id {user.id!r} is taken. Choose another one.")


async def _check_inviter(conn: Connection, invitation: Invitation) -> None:
    """Holds that its maker may let somebody in so. Raises PermissionDenied."""
    members = await locked_members(conn, invitation.team)
    disabled = invitation.creator in members.disabled
    own = None if disabled else members.roles.get(invitation.creator)
    if invitation.role is not None:
        check_grant(invitation.team, own, invitation.role)
    elif invitation.creator != invitation.subject and own is not Role.OWNER:
        raise too_low(invitation.team, own, Role.OWNER)


async def _record(conn: Connection, action: str, invitation: Invitation, *, by: str, now: datetime) -> None:
    await audit.record(
        conn, action, actor=by, now=now, team=invitation.team,
        resource=f"teams/{invitation.team}/invitations/{invitation.uid}", email=invitation.email,
        role=None if invitation.role is None else invitation.role.name.lower(),
        user=invitation.subject or None,
    )  # fmt: skip


def invitation_invalid() -> Unauthenticated:
    """The same answer for every link that opens nothing."""
    return Unauthenticated(
        "This invitation is not good: it was used, revoked, or is too old. Ask for another one.",
        reason=Reason.INVITATION_INVALID,
    )


def _invitation(row: Row) -> Invitation:
    return Invitation(
        uid=row["uid"],
        team=row["team"],
        email=row["email"],
        role=None if row["role"] is None else Role(row["role"]),
        subject=row["subject"] or "",
        creator=row["creator"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        accept_time=row["accept_time"],
        revoke_time=row["revoke_time"],
    )
