"""All SQL about memberships. Each public method is one transaction, under the lock of the team's row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import AlreadyExists, FailedPrecondition, NotFound, Reason
from cairn_quota import audit, facts
from cairn_quota.identity_store import insert_token
from cairn_quota.model import NewToken, Role
from cairn_quota.people import Change, Members, Membership, User, UserKind, UserState, check_change
from cairn_quota.team_store import team_not_found
from cairn_quota.user_store import (
    COLUMNS,
    insert_user,
    revoke_tokens,
    user_of,
)

_SELECT = (
    f"SELECT m.team AS member_of, m.subject, m.role, {COLUMNS} FROM memberships m"  # noqa: S608
    " LEFT JOIN users ON m.subject = 'users/' || users.id"
)


@dataclass(frozen=True, slots=True)
class Removed:
    """Somebody who is no member any more."""

    membership: Membership
    tokens_revoked: int


class MemberStore:
    """Who is what in which team."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def members(self, team: str, *, after: str, size: int) -> list[Membership]:
        """In order of their names, from behind `after`."""
        rows = await self._db.fetch(
            _SELECT + " WHERE m.team = $1 AND m.subject > $2 ORDER BY m.subject LIMIT $3", team, after, size
        )
        return [_membership(row) for row in rows]

    async def add(self, team: str, user: User, role: Role, *, actor: str, now: datetime) -> Membership:
        """Makes a person a member.

        Raises as `check_change`, and AlreadyExists/MEMBER_EXISTS, FailedPrecondition for a disabled user.
        """
        async with self._db.transaction() as conn:
            members = await locked_members(conn, team)
            check_change(Change(team, actor, user.subject, role), members)
            if user.subject in members.roles:
                raise AlreadyExists(
                    f"{user.id} is {members.roles[user.subject].name.lower()} in team {team} already; change"
                    " the role instead.",
                    reason=Reason.MEMBER_EXISTS,
                )
            if user.state is not UserState.ACTIVE:
                raise FailedPrecondition(f"{user.id} is disabled.")
            return await write_member(conn, team, user, role, actor=actor, now=now)

    async def change(self, team: str, user: str, role: Role, *, actor: str, now: datetime) -> Membership:
        """Another role. Raises as `check_change`, and NotFound/MEMBER_NOT_FOUND."""
        async with self._db.transaction() as conn:
            members = await locked_members(conn, team)
            old = await find_member(conn, team, user)
            check_change(Change(team, actor, old.subject, role, is_account=_is_account(old)), members)
            return old if old.role is role else await write_role(conn, old, role, actor=actor, now=now)

    async def remove(
        self, team: str, user: str, *, actor: str, now: datetime, account: bool = False
    ) -> Removed:
        """The end of a membership; who is then in no team has no token left, nor has a service account.

        With `account` it must be a service account, which is disabled with it. Raises as `check_change`, and
        NotFound/MEMBER_NOT_FOUND.
        """
        async with self._db.transaction() as conn:
            members = await locked_members(conn, team)
            old = await find_member(conn, team, user)
            if account and not _is_account(old):
                raise member_not_found(team, user)
            check_change(Change(team, actor, old.subject, None, is_account=_is_account(old)), members)
            if _is_account(old):
                await conn.execute(
                    "UPDATE users SET state = $2, update_time = $3 WHERE id = $1",
                    user,
                    int(UserState.DISABLED),
                    now,
                )
            return await take_out(conn, old, actor=actor, now=now)

    async def add_account(self, team: str, account: User, role: Role, *, actor: str, now: datetime) -> User:
        """Makes a service account and its membership. Raises as `check_change`, and AlreadyExists."""
        async with self._db.transaction() as conn:
            members = await locked_members(conn, team)
            check_change(Change(team, actor, account.subject, role, is_account=True), members)
            if not await insert_user(conn, account, password_hash=None, creator=actor):
                raise AlreadyExists(
                    f"The service account id {account.id.partition('.')[0]!r} was used in team {team} before."
                    " Choose another one."
                )
            await write_member(conn, team, account, role, actor=actor, now=now)
        return account

    async def add_account_token(self, team: str, user: str, new: NewToken, *, actor: str) -> None:
        """Writes a token of a service account. Raises NotFound/MEMBER_NOT_FOUND for what is none."""
        token = new.token
        async with self._db.transaction() as conn:
            members = await locked_members(conn, team)
            found = await find_member(conn, team, user)
            if not _is_account(found):
                raise member_not_found(team, user)
            check_change(Change(team, actor, found.subject, found.role, is_account=True), members)
            await insert_token(conn, new)
            await audit.record(
                conn, "token.created", actor=actor, now=token.create_time, team=team,
                resource=f"tokens/{token.uid}", subject=token.subject, scope=token.scope.name.lower(),
            )  # fmt: skip


async def locked_members(conn: Connection, team: str) -> Members:
    """Everybody's role in the team, which nobody else changes meanwhile. Raises NotFound/TEAM_NOT_FOUND."""
    if await conn.fetchval("SELECT id FROM teams WHERE id = $1 FOR UPDATE", team) is None:
        raise team_not_found(team)
    rows = await conn.fetch(
        "SELECT m.subject, m.role, u.state FROM memberships m"
        " LEFT JOIN users u ON m.subject = 'users/' || u.id WHERE m.team = $1",
        team,
    )
    return Members(
        {row["subject"]: Role(row["role"]) for row in rows},
        frozenset(row["subject"] for row in rows if row["state"] == UserState.DISABLED),
    )


async def write_member(
    conn: Connection, team: str, user: User, role: Role, *, actor: str, now: datetime
) -> Membership:
    """Writes a new membership, with its fact and its entry."""
    await conn.execute(
        "INSERT INTO memberships (team, subject, role) VALUES ($1, $2, $3)", team, user.subject, int(role)
    )
    made = Membership(team, user.subject, role, user)
    await facts.tell_member(conn, "added", made, actor=actor, now=now)
    await audit.record(
        conn, "member.added", actor=actor, now=now, team=team, resource=_name(made), role=role.name.lower()
    )
    return made


async def write_role(
    conn: Connection, old: Membership, role: Role, *, actor: str, now: datetime
) -> Membership:
    """Writes another role of a member, with its fact and its entry."""
    await conn.execute(
        "UPDATE memberships SET role = $3 WHERE team = $1 AND subject = $2", old.team, old.subject, int(role)
    )
    new = replace(old, role=role)
    await facts.tell_member(conn, "updated", new, actor=actor, now=now)
    await audit.record(
        conn, "member.updated", actor=actor, now=now, team=old.team, resource=_name(new),
        role=role.name.lower(), before=old.role.name.lower(),
    )  # fmt: skip
    return new


async def take_out(conn: Connection, old: Membership, *, actor: str, now: datetime) -> Removed:
    """Writes the end of a membership, and of every token of who is then in no team."""
    await conn.execute("DELETE FROM memberships WHERE team = $1 AND subject = $2", old.team, old.subject)
    elsewhere = await conn.fetchval(
        "SELECT EXISTS (SELECT 1 FROM memberships WHERE subject = $1)", old.subject
    )
    revoked = 0 if elsewhere else await revoke_tokens(conn, old.subject, actor=actor, now=now)
    await facts.tell_member(conn, "removed", old, actor=actor, now=now)
    await audit.record(
        conn, "member.removed", actor=actor, now=now, team=old.team, resource=_name(old),
        role=old.role.name.lower(), tokens_revoked=revoked,
    )  # fmt: skip
    return Removed(old, revoked)


async def find_member(conn: Connection, team: str, user: str) -> Membership:
    """A member, by the user's id. Raises NotFound/MEMBER_NOT_FOUND."""
    row = await conn.fetchrow(_SELECT + " WHERE m.team = $1 AND m.subject = $2", team, f"users/{user}")
    if row is None:
        raise member_not_found(team, user)
    return _membership(row)


def member_not_found(team: str, user: str) -> NotFound:
    """The same answer for whoever is no member, whether there is such a user or not."""
    return NotFound(
        f"There is no member {user!r} in team {team}.", reason=Reason.MEMBER_NOT_FOUND, team=team, user=user
    )


def _is_account(member: Membership) -> bool:
    return member.user is not None and member.user.kind is UserKind.SERVICE_ACCOUNT


def _name(member: Membership) -> str:
    return f"teams/{member.team}/members/{member.subject.removeprefix('users/')}"


def _membership(row: Row) -> Membership:
    user = user_of(row) if row["id"] is not None else None
    return Membership(row["member_of"], row["subject"], Role(row["role"]), user)
