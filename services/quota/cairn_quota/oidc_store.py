"""All SQL about single sign-on. Each public method is one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from cairn_common.auth import hash_token
from cairn_common.db import Connection, Database
from cairn_common.errors import (
    FailedPrecondition,
    Reason,
    Unauthenticated,
)
from cairn_quota import audit, oidc
from cairn_quota.invitation_store import accepted_by, insert_under_a_free_id, open_invitations
from cairn_quota.member_store import find_member, locked_members, take_out, write_member, write_role
from cairn_quota.model import NewToken, Role
from cairn_quota.oidc import Party, Proven
from cairn_quota.people import User, UserKind, UserState, id_of
from cairn_quota.user_store import SELECT as SELECT_USERS
from cairn_quota.user_store import insert_session, new_user, user_of

LIFE = timedelta(minutes=10)
"""For so long a browser may be away at the provider, or think of a password."""
_BY_IDENTITY = " WHERE id = (SELECT user_id FROM identities WHERE issuer = $1 AND subject = $2) FOR UPDATE"
BY = "services/quota"
"""Who makes somebody a member because of a group, or of how the operator has set it up."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """Somebody comes in whom the provider has proven. `confirmed`: the user whose password they gave."""

    proven: Proven
    session: NewToken
    now: datetime
    confirmed: str = ""


class OidcStore:
    """Logins on their way, and who is whom."""

    def __init__(self, db: Database, party: Party) -> None:
        self._db = db
        self._party = party

    async def begin(self, *, state: str, binding: str, return_path: str, now: datetime) -> datetime:
        """A browser goes to the provider; until when it may come back. Those that are over go."""
        async with self._db.transaction() as conn:
            await conn.execute("DELETE FROM oidc_logins WHERE expire_time <= $1", now)
            await conn.execute("DELETE FROM oidc_proofs WHERE expire_time <= $1", now)
            await conn.execute(
                "INSERT INTO oidc_logins (state_hash, binding_hash, return_path, expire_time)"
                " VALUES ($1, $2, $3, $4)",
                hash_token(state),
                hash_token(binding),
                return_path,
                now + LIFE,
            )
        return now + LIFE

    async def take(self, *, state: str, binding: str, now: datetime) -> str:
        """A browser is back: its login is used up, whatever comes of it. Gives the return path.

        Raises Unauthenticated/LOGIN_REFUSED where it was not begun in this browser, is over, or was used.
        """
        path: str | None = await self._db.fetchval(
            "DELETE FROM oidc_logins WHERE state_hash = $1 AND binding_hash = $2 AND expire_time > $3"
            " RETURNING return_path",
            hash_token(state),
            hash_token(binding),
            now,
        )
        if path is None:
            raise oidc.refused()
        return path

    async def keep_proof(self, proven: Proven, *, binding: str, return_path: str, now: datetime) -> None:
        """Who this browser's person is, until they have given a password."""
        await self._db.execute(
            "INSERT INTO oidc_proofs (binding_hash, issuer, subject, email, display_name, groups,"
            " return_path, expire_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
            " ON CONFLICT (binding_hash) DO UPDATE SET issuer = $2, subject = $3, email = $4,"
            " display_name = $5, groups = $6, return_path = $7, expire_time = $8",
            hash_token(binding),
            proven.issuer,
            proven.subject,
            proven.email,
            proven.display_name,
            None if proven.groups is None else list(proven.groups),
            return_path,
            now + LIFE,
        )

    async def proof(self, *, binding: str, now: datetime) -> tuple[Proven, str]:
        """Who this browser's person is, and their return path. Raises Unauthenticated/LOGIN_REFUSED."""
        row = await self._db.fetchrow(
            "SELECT issuer, subject, email, display_name, groups, return_path FROM oidc_proofs"
            " WHERE binding_hash = $1 AND expire_time > $2 AND issuer = $3",
            hash_token(binding),
            now,
            self._party.issuer,
        )
        if row is None:
            raise oidc.refused()
        groups = None if row["groups"] is None else tuple(row["groups"])
        proven = Proven(row["issuer"], row["subject"], row["email"], row["display_name"], groups)
        return proven, row["return_path"]

    async def let_in(self, entry: Entry) -> tuple[User, NewToken]:
        """Finds or makes the user, gives what invitations and groups give, and begins the session.

        Raises Unauthenticated/LOGIN_REFUSED for a disabled user, PermissionDenied/INVITATION_NEEDED,
        FailedPrecondition/PASSWORD_NEEDED.
        """
        proven, now = entry.proven, entry.now
        async with self._db.transaction() as conn:
            # One at a time: a first login in two windows makes one user.
            await conn.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
                f"identities.{proven.issuer}.{proven.subject}",
            )
            await self._lock_teams(conn, proven, now)
            invitations = await open_invitations(conn, proven.email, now=now)
            user = (
                await _known(conn, proven)
                or await self._linked(conn, entry)
                or await self._made(conn, entry, invited=bool(invitations))
            )
            if user.state is not UserState.ACTIVE or user.kind is not UserKind.PERSON:
                raise Unauthenticated(
                    "Your account here is disabled. Ask an admin.", reason=Reason.LOGIN_REFUSED
                )
            for invitation in invitations:
                await accepted_by(conn, invitation, user, now=now)
            await self._follow_groups(conn, user, proven, now)
            token = replace(entry.session.token, subject=user.subject)
            session = replace(entry.session, token=token, creator=user.subject)
            await insert_session(conn, session, how="oidc")
            if entry.confirmed:
                await conn.execute(
                    "DELETE FROM oidc_proofs WHERE issuer = $1 AND subject = $2",
                    proven.issuer,
                    proven.subject,
                )
        return user, session

    async def _lock_teams(self, conn: Connection, proven: Proven, now: datetime) -> None:
        """Those that may get a member by this, in the order in which everybody locks them: before users."""
        named = self._party.teams | ({self._party.sign_up.team} if self._party.sign_up else set())
        await conn.fetch(
            "SELECT id FROM teams WHERE id = ANY($1::text[]) OR id IN (SELECT team FROM invitations"
            " WHERE email = $2 AND role IS NOT NULL AND accept_time IS NULL AND revoke_time IS NULL"
            " AND expire_time > $3) OR id IN (SELECT team FROM group_roles WHERE subject ="
            " (SELECT 'users/' || user_id FROM identities WHERE issuer = $4 AND subject = $5))"
            " ORDER BY id FOR UPDATE",
            sorted(named),
            proven.email,
            now,
            proven.issuer,
            proven.subject,
        )

    async def _linked(self, conn: Connection, entry: Entry) -> User | None:
        """The user with this verified address, who is this person from now on; None where nobody has it."""
        proven = entry.proven
        row = proven.email and await conn.fetchrow(
            SELECT_USERS + " WHERE email = $1 FOR UPDATE", proven.email
        )
        if not row:
            return None
        user = user_of(row)
        if user.state is not UserState.ACTIVE:
            return user
        if user.has_password and entry.confirmed != user.id:
            # Whoever chose that password is not yet known to be the same person.
            raise FailedPrecondition(
                f"There is a user with the address {proven.email}. Give the password once; from then on"
                " single sign-on is enough.",
                reason=Reason.PASSWORD_NEEDED,
            )
        taken = await conn.fetchval(
            "SELECT true FROM identities WHERE issuer = $1 AND user_id = $2", proven.issuer, user.id
        )
        if taken and not entry.confirmed:
            # An address that the provider has given to another person since.
            raise Unauthenticated(
                f"The address {proven.email} is that of another person of this provider. Ask an admin.",
                reason=Reason.LOGIN_REFUSED,
            )
        await _link(conn, proven, user, entry.now)
        return user

    async def _made(self, conn: Connection, entry: Entry, *, invited: bool) -> User:
        """A new user, where an invitation, a group or the operator lets them in."""
        proven, now, party = entry.proven, entry.now, self._party
        roles = await _there(conn, party.roles(proven.groups or ()))
        sign_up = party.sign_up if proven.email else None
        if not (invited or roles or sign_up):
            raise oidc.not_invited(proven)
        made = new_user(
            id_of((proven.email or proven.display_name).lower() or "somebody"),
            now=now,
            email=proven.email,
            display_name=proven.display_name,
        )
        user = await insert_under_a_free_id(conn, made, creator=f"oidc:{proven.issuer}", now=now)
        await _link(conn, proven, user, now)
        if sign_up and not (invited or roles) and await _there(conn, {sign_up.team: sign_up.role}):
            await locked_members(conn, sign_up.team)
            await write_member(conn, sign_up.team, user, sign_up.role, actor=BY, now=now)
        return user

    async def _follow_groups(self, conn: Connection, user: User, proven: Proven, now: datetime) -> None:
        """What their groups give now; what a group gave that they left is taken. What people gave stays."""
        if not self._party.groups or proven.groups is None:
            return
        wanted = await _there(conn, self._party.roles(proven.groups))
        rows = await conn.fetch("SELECT team, role FROM group_roles WHERE subject = $1", user.subject)
        given = {row["team"]: Role(row["role"]) for row in rows}
        for team in sorted(set(wanted) | set(given)):
            await _follow(conn, user, team, given.get(team), wanted.get(team), now)


async def _follow(
    conn: Connection, user: User, team: str, given: Role | None, wanted: Role | None, now: datetime
) -> None:
    members = await locked_members(conn, team)
    own = members.roles.get(user.subject)
    by_group = own is not None and own == given
    if wanted is None:
        if by_group:
            await take_out(conn, await find_member(conn, team, user.id), actor=BY, now=now)
        await conn.execute("DELETE FROM group_roles WHERE subject = $1 AND team = $2", user.subject, team)
        return
    if own is None and given is not None:
        return  # A person has taken them out since; the group does not bring them back.
    if own is None:
        await write_member(conn, team, user, wanted, actor=BY, now=now)
    elif by_group and own is not wanted:
        await write_role(conn, await find_member(conn, team, user.id), wanted, actor=BY, now=now)
    elif not by_group:
        return  # What a person has given or changed is theirs.
    await conn.execute(
        "INSERT INTO group_roles (subject, team, role) VALUES ($1, $2, $3)"
        " ON CONFLICT (subject, team) DO UPDATE SET role = $3",
        user.subject,
        team,
        int(wanted),
    )


async def _known(conn: Connection, proven: Proven) -> User | None:
    row = await conn.fetchrow(
        SELECT_USERS + _BY_IDENTITY,
        proven.issuer,
        proven.subject,
    )
    return None if row is None else user_of(row)


async def _link(conn: Connection, proven: Proven, user: User, now: datetime) -> None:
    await conn.execute(
        "INSERT INTO identities (issuer, subject, user_id, create_time) VALUES ($1, $2, $3, $4)",
        proven.issuer,
        proven.subject,
        user.id,
        now,
    )
    await audit.record(
        conn, "identity.linked", actor=user.subject, now=now, resource=user.subject, issuer=proven.issuer,
        subject=proven.subject, email=proven.email or None,
    )  # fmt: skip


async def _there(conn: Connection, roles: Mapping[str, Role]) -> dict[str, Role]:
    """Of these teams those that there are."""
    rows = await conn.fetch("SELECT id FROM teams WHERE id = ANY($1::text[])", sorted(roles))
    there = {row["id"] for row in rows}
    for team in set(roles) - there:
        log.warning("oidc.team_unknown", team=team)
    return {team: role for team, role in roles.items() if team in there}
