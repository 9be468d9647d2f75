"""All SQL about users, memberships and tokens. Each public method is one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cairn_common.db import Database, Row
from cairn_common.errors import InvalidArgument, NotFound, Reason
from cairn_quota import facts
from cairn_quota.model import Scope, Token

SELECT_TOKENS = (
    "SELECT uid, display_name, subject, scope, team, run_uid, attempt_uid, create_time, expire_time,"
    " revoke_time FROM tokens"
)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to make: what is stored of it."""

    token: Token
    hash: str
    creator: str
    request_id: str


class IdentityStore:
    """Who is who, by token."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, token_hash: str) -> tuple[Token, Mapping[str, int]] | None:
        """The token with this hash, whatever its state, and its subject's role number by team; or None."""
        rows = await self._db.fetch(
            "SELECT t.uid, t.display_name, t.subject, t.scope, t.team, t.run_uid, t.attempt_uid,"
            " t.create_time, t.expire_time, t.revoke_time, m.team AS member_of, m.role"
            " FROM tokens t LEFT JOIN memberships m ON m.subject = t.subject WHERE t.hash = $1",
            token_hash,
        )
        if not rows:
            return None
        return _token(rows[0]), {row["member_of"]: row["role"] for row in rows if row["role"] is not None}

    async def has_team(self, team: str) -> bool:
        """Whether there is such a team."""
        row = await self._db.fetchrow("SELECT 1 AS one FROM teams WHERE id = $1", team)
        return row is not None

    async def create(self, new: NewToken) -> Token:
        """Makes the token. The same request of the same creator again gives the first one a new secret.

        Raises InvalidArgument/REQUEST_ID_REUSED where that request made another kind of token, or one that
        was revoked.
        """
        token = new.token
        async with self._db.transaction() as conn:
            uid = await conn.fetchval(
                "INSERT INTO tokens AS t (uid, hash, display_name, subject, scope, team, run_uid,"
                " attempt_uid, create_time, expire_time, creator, request_id)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
                " ON CONFLICT (creator, request_id) DO UPDATE"
                " SET hash = excluded.hash, expire_time = excluded.expire_time"
                " WHERE t.revoke_time IS NULL AND t.subject = excluded.subject AND t.scope = excluded.scope"
                " AND t.team = excluded.team AND t.attempt_uid = excluded.attempt_uid"
                " RETURNING uid",
                token.uid,
                new.hash,
                token.display_name,
                token.subject,
                int(token.scope),
                token.team,
                token.run_uid,
                token.attempt_uid,
                token.create_time,
                token.expire_time,
                new.creator,
                new.request_id or None,
            )
            row = await conn.fetchrow(SELECT_TOKENS + " WHERE uid = $1", uid)
        if row is None:
            raise InvalidArgument(
                f"The request id {new.request_id!r} has made another token, or one that was revoked since."
                " Use a new request id.",
                reason=Reason.REQUEST_ID_REUSED,
                request_id=new.request_id,
            )
        return _token(row)

    async def renew(self, uid: str, *, expire_time: datetime) -> Token:
        """Moves the expiry of a run token that is not revoked. Raises NotFound/TOKEN_NOT_FOUND."""
        async with self._db.transaction() as conn:
            await conn.execute(
                "UPDATE tokens SET expire_time = $2 WHERE uid = $1 AND scope = $3 AND revoke_time IS NULL",
                uid,
                expire_time,
                int(Scope.RUN),
            )
            row = await conn.fetchrow(
                SELECT_TOKENS + " WHERE uid = $1 AND scope = $2 AND revoke_time IS NULL", uid, int(Scope.RUN)
            )
        if row is None:
            raise token_not_found(uid)
        return _token(row)

    async def token(self, uid: str) -> Token | None:
        """The token, whatever its state, or None."""
        row = await self._db.fetchrow(SELECT_TOKENS + " WHERE uid = $1", uid)
        return None if row is None else _token(row)

    async def revoke(self, uid: str, *, actor: str, now: datetime) -> Token:
        """Revokes a token, for ever; twice is no error. Raises NotFound/TOKEN_NOT_FOUND."""
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(SELECT_TOKENS + " WHERE uid = $1 FOR UPDATE", uid)
            if row is None:
                raise token_not_found(uid)
            token = _token(row)
            if token.revoke_time is not None:
                return token
            await conn.execute("UPDATE tokens SET revoke_time = $2 WHERE uid = $1", uid, now)
            token = replace(token, revoke_time=now)
            await facts.tell_token_revoked(conn, token, actor=actor, now=now)
        return token

    async def tokens(self, subject: str, *, before: str | None, size: int) -> list[Token]:
        """A subject's tokens, newest first, from behind the uid `before`."""
        rows = await self._db.fetch(
            SELECT_TOKENS
            + " WHERE subject = $1 AND ($2::text IS NULL OR uid < $2) ORDER BY uid DESC LIMIT $3",
            subject,
            before,
            size,
        )
        return [_token(row) for row in rows]

    async def set_token(self, new: NewToken) -> None:
        """Makes sure that the subject has this token from the bootstrap, and revokes earlier ones from there.

        One that was revoked stays so.
        """
        now = new.token.create_time
        async with self._db.transaction() as conn:
            stale = await conn.fetch(
                SELECT_TOKENS + " WHERE subject = $1 AND creator = $2 AND hash <> $3 AND revoke_time IS NULL"
                " ORDER BY uid FOR UPDATE",
                new.token.subject,
                new.creator,
                new.hash,
            )
            for old in [replace(_token(row), revoke_time=now) for row in stale]:
                await conn.execute("UPDATE tokens SET revoke_time = $2 WHERE uid = $1", old.uid, now)
                await facts.tell_token_revoked(conn, old, actor=new.creator, now=now)
            await conn.execute(
                "INSERT INTO tokens (uid, hash, display_name, subject, scope, create_time, creator)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (hash) DO NOTHING",
                new.token.uid,
                new.hash,
                new.token.display_name,
                new.token.subject,
                int(new.token.scope),
                new.token.create_time,
                new.creator,
            )


def token_not_found(uid: str) -> NotFound:
    """The same answer for a token that is not there and for somebody else's."""
    return NotFound(
        f"There is no token {uid!r} that you may change.", reason=Reason.TOKEN_NOT_FOUND, token=uid
    )


def _token(row: Row) -> Token:
    return Token(
        uid=row["uid"],
        display_name=row["display_name"],
        subject=row["subject"],
        scope=Scope(row["scope"]),
        team=row["team"],
        run_uid=row["run_uid"],
        attempt_uid=row["attempt_uid"],
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        revoke_time=row["revoke_time"],
    )
