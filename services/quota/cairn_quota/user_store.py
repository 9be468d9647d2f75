"""All SQL about users, their passwords and their sessions. Each public method is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import AlreadyExists, NotFound, Reason
from cairn_common.ids import new_uid
from cairn_quota import audit, facts
from cairn_quota.identity_store import COLUMNS as TOKEN_COLUMNS
from cairn_quota.identity_store import insert_token, token_of
from cairn_quota.model import NewToken, Role
from cairn_quota.people import User, UserKind, UserState, last_owner

COLUMNS = (
    "users.id, users.uid, users.kind, users.state, users.email, users.display_name, users.team,"
    " users.password_hash IS NOT NULL AS has_password, users.create_time, users.update_time"
)
SELECT = f"SELECT {COLUMNS} FROM users"  # noqa: S608
WINDOW = timedelta(minutes=15)
"""For so long an attempt to sign in counts."""


@dataclass(frozen=True, slots=True)
class Tries:
    """How many attempts there may be under a key."""

    key: str
    most: int


class UserStore:
    """Who there is."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def user(self, user: str) -> User | None:
        """The user with this id, or None."""
        row = await self._db.fetchrow(SELECT + " WHERE id = $1", user)
        return None if row is None else user_of(row)

    async def by_email(self, email: str) -> tuple[User, str | None] | None:
        """The user with this address, and the password's hash; or None."""
        row = await self._db.fetchrow(
            f"SELECT {COLUMNS}, users.password_hash FROM users WHERE email = $1",  # noqa: S608
            email,
        )
        return None if row is None else (user_of(row), row["password_hash"])

    async def password_hash(self, user: str) -> str | None:
        """The hash of a user's password, or None."""
        found: str | None = await self._db.fetchval("SELECT password_hash FROM users WHERE id = $1", user)
        return found

    async def users(self, *, after: str, size: int) -> list[User]:
        """In order of their ids, from behind `after`."""
        rows = await self._db.fetch(SELECT + " WHERE id > $1 ORDER BY id LIMIT $2", after, size)
        return [user_of(row) for row in rows]

    async def share_a_team(self, one: str, other: str) -> bool:
        """Whether two subjects are members of one team."""
        found: bool = await self._db.fetchval(
            "SELECT EXISTS (SELECT 1 FROM memberships a JOIN memberships b ON a.team = b.team"
            " WHERE a.subject = $1 AND b.subject = $2)",
            one,
            other,
        )
        return found

    async def ensure(self, user: User, *, creator: str) -> None:
        """Makes the user where there is none of this id."""
        async with self._db.transaction() as conn:
            await insert_user(conn, user, password_hash=None, creator=creator)

    async def set_state(self, user: str, state: UserState, *, actor: str, now: datetime) -> User:
        """Disables a user, with every token, or enables one again.

        Raises NotFound/USER_NOT_FOUND, FailedPrecondition/OWNER_LAST.
        """
        async with self._db.transaction() as conn:
            await _not_the_last_owner(conn, user, disables=state is UserState.DISABLED)
            row = await conn.fetchrow(
                f"UPDATE users SET state = $2, update_time = $3 WHERE id = $1 RETURNING {COLUMNS}",  # noqa: S608
                user,
                int(state),
                now,
            )
            if row is None:
                raise user_not_found(user)
            found = user_of(row)
            if state is UserState.DISABLED:
                await revoke_tokens(conn, found.subject, actor=actor, now=now)
                await _void_links(conn, found.subject, now)
            action = "user.disabled" if state is UserState.DISABLED else "user.enabled"
            await audit.record(conn, action, actor=actor, now=now, resource=found.subject)
        return found

    async def set_password(self, user: str, hashed: str, *, keep: str, actor: str, now: datetime) -> User:
        """Another password; every session but the token `keep` ends. Raises NotFound/USER_NOT_FOUND."""
        async with self._db.transaction() as conn:
            found = await write_password(conn, user, hashed, keep=keep, actor=actor, now=now)
        return found

    async def role(self, subject: str, team: str) -> Role | None:
        """What somebody is in a team."""
        found = await self._db.fetchval(
            "SELECT role FROM memberships WHERE subject = $1 AND team = $2", subject, team
        )
        return None if found is None else Role(found)

    async def begin_session(self, new: NewToken) -> None:
        """Writes a session's token."""
        async with self._db.transaction() as conn:
            await insert_session(conn, new, how="password")

    async def forgive(self, *, last: Sequence[Tries], ended: Sequence[Tries]) -> None:
        """After a success: of `last` the last attempt does not count, those of `ended` count no more."""
        async with self._db.transaction() as conn:
            # In the order of `attempt`, one after another: nobody waits for each other.
            for one in last:
                await conn.execute(
                    "UPDATE sign_in_attempts SET attempts = attempts - 1 WHERE key = $1 AND attempts > 0",
                    one.key,
                )
            for one in ended:
                await conn.execute("DELETE FROM sign_in_attempts WHERE key = $1", one.key)

    async def attempt(self, tries: Sequence[Tries], *, now: datetime) -> timedelta | None:
        """Counts an attempt under one key after another; how long to wait where one is over its most, behind
        which none is counted.

        Counted before the password is looked at, so that many at once get no further than one after another.
        """
        async with self._db.transaction() as conn:
            await conn.execute("DELETE FROM sign_in_attempts WHERE since <= $1", now - WINDOW)
            for one in tries:
                row = await conn.fetchrow(
                    "INSERT INTO sign_in_attempts AS a (key, attempts, since) VALUES ($1, 1, $2)"
                    " ON CONFLICT (key) DO UPDATE SET attempts = a.attempts + 1 RETURNING attempts, since",
                    one.key,
                    now,
                )
                assert row is not None
                if row["attempts"] > one.most:
                    since: datetime = row["since"]
                    return max(since + WINDOW - now, timedelta(seconds=1))
        return None


async def insert_user(conn: Connection, user: User, *, password_hash: str | None, creator: str) -> bool:
    """Writes a new user; False where the id is taken.

    Raises AlreadyExists (RESOURCE_EXISTS) where the address is somebody's.
    """
    if user.email:
        await check_email_free(conn, user.email)
    made = await conn.fetchval(
        "INSERT INTO users (id, uid, kind, state, email, display_name, team, password_hash, create_time,"
        " update_time, creator) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)"
        " ON CONFLICT (id) DO NOTHING RETURNING id",
        user.id,
        user.uid,
        int(user.kind),
        int(user.state),
        user.email or None,
        user.display_name,
        user.team or None,
        password_hash,
        user.create_time,
        creator,
    )
    return made is not None


async def check_email_free(conn: Connection, email: str) -> None:
    """Holds that the address is nobody's, until the transaction ends. Raises AlreadyExists."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"users.email.{email}")
    if await conn.fetchval("SELECT true FROM users WHERE email = $1", email):
        raise AlreadyExists(f"There is a user with the address {email} already.")


async def write_password(
    conn: Connection, user: str, hashed: str, *, keep: str, actor: str, now: datetime
) -> User:
    """Another password; every session but the token `keep` ends. Raises NotFound/USER_NOT_FOUND."""
    row = await conn.fetchrow(
        "UPDATE users SET password_hash = $2, update_time = $3 WHERE id = $1 AND kind = 1"  # noqa: S608
        f" RETURNING {COLUMNS}",
        user,
        hashed,
        now,
    )
    if row is None:
        raise user_not_found(user)
    found = user_of(row)
    await revoke_tokens(conn, found.subject, actor=actor, now=now, sessions_only=True, keep=keep)
    await _void_links(conn, found.subject, now)
    await audit.record(conn, "user.password_set", actor=actor, now=now, resource=found.subject)
    return found


async def _void_links(conn: Connection, subject: str, now: datetime) -> None:
    """Links by which somebody could set this user's password are worth nothing any more."""
    await conn.execute(
        "UPDATE invitations SET revoke_time = $2"
        " WHERE subject = $1 AND accept_time IS NULL AND revoke_time IS NULL",
        subject,
        now,
    )


async def insert_session(conn: Connection, new: NewToken, *, how: str) -> None:
    """Writes the token of a session, made by `how`."""
    token = new.token
    await insert_token(conn, new)
    await audit.record(
        conn,
        "session.created",
        actor=token.subject,
        now=token.create_time,
        resource=f"tokens/{token.uid}",
        how=how,
    )


async def revoke_tokens(
    conn: Connection,
    subject: str,
    *,
    actor: str,
    now: datetime,
    sessions_only: bool = False,
    keep: str = "",
) -> int:
    """Revokes a subject's tokens, each with its fact; how many."""
    rows = await conn.fetch(
        "UPDATE tokens SET revoke_time = $2 WHERE subject = $1 AND revoke_time IS NULL AND uid <> $3"  # noqa: S608
        f" AND (session OR NOT $4) RETURNING {TOKEN_COLUMNS}",
        subject,
        now,
        keep,
        sessions_only,
    )
    await facts.tell_tokens_revoked(conn, [token_of(row) for row in rows], actor=actor, now=now)
    return len(rows)


async def _not_the_last_owner(conn: Connection, user: str, *, disables: bool) -> None:
    """Holds that each team that the user owns has another owner who is not disabled."""
    teams = await conn.fetch(
        "SELECT id FROM teams WHERE id IN (SELECT team FROM memberships WHERE subject = $1) ORDER BY id"
        " FOR UPDATE",
        f"users/{user}",
    )
    alone = await conn.fetchval(
        "SELECT m.team FROM memberships m WHERE m.subject = $1 AND m.role = $2 AND m.team = ANY($3::text[])"
        " AND NOT EXISTS (SELECT 1 FROM memberships o LEFT JOIN users u ON o.subject = 'users/' || u.id"
        " WHERE o.team = m.team AND o.role = $2 AND o.subject <> $1 AND coalesce(u.state, 1) = 1)"
        " ORDER BY m.team LIMIT 1",
        f"users/{user}",
        int(Role.OWNER),
        [row["id"] for row in teams],
    )
    if disables and alone is not None:
        raise last_owner(alone)


def new_user(
    id: str,
    *,
    now: datetime,
    email: str = "",
    display_name: str = "",
    kind: UserKind = UserKind.PERSON,
    team: str = "",
) -> User:
    """A user who is not written yet."""
    return User(
        id=id,
        uid=new_uid(),
        kind=kind,
        state=UserState.ACTIVE,
        email=email,
        display_name=display_name or id,
        team=team,
        has_password=False,
        create_time=now,
        update_time=now,
    )


def user_not_found(user: str) -> NotFound:
    """The same answer for a user who is not there and for one who is not the caller's to see."""
    return NotFound(
        f"There is no user {user!r} that you can see; invite people by their e-mail address.",
        reason=Reason.USER_NOT_FOUND,
        user=user,
    )


def user_of(row: Row) -> User:
    """A row of `COLUMNS`."""
    return User(
        id=row["id"],
        uid=row["uid"],
        kind=UserKind(row["kind"]),
        state=UserState(row["state"]),
        email=row["email"] or "",
        display_name=row["display_name"],
        team=row["team"] or "",
        has_password=row["has_password"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
