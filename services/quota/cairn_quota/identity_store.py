"""All SQL about users, memberships and tokens. Each public method is one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import InvalidArgument, NotFound, Reason
from cairn_quota import audit, facts
from cairn_quota.model import NewToken, Scope, Token

COLUMNS = (
    "uid, display_name, subject, scope, team, run_uid, attempt_uid, create_time, expire_time, revoke_time,"
    " session"
)
SELECT_TOKENS = f"SELECT {COLUMNS} FROM tokens"  # noqa: S608


class IdentityStore:
    """Who is who, by token."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def find(self, token_hash: str) -> tuple[Token, Mapping[str, int]] | None:
        """The token with this hash, whatever its state, and its subject's role number by team; or None.

        Every token of a disabled user is a revoked one, also what was made in the moment of disabling.
        """
        rows = await self._db.fetch(
            "SELECT t.uid, t.display_name, t.subject, t.scope, t.team, t.run_uid, t.attempt_uid,"
            " t.create_time, t.expire_time, t.revoke_time, t.session, m.team AS member_of, m.role,"
            " u.state = 2 AS disabled FROM tokens t LEFT JOIN memberships m ON m.subject = t.subject"
            " LEFT JOIN users u ON t.subject = 'users/' || u.id WHERE t.hash = $1",
            token_hash,
        )
        if not rows:
            return None
        token = token_of(rows[0])
        if rows[0]["disabled"]:
            token = replace(token, revoke_time=token.revoke_time or token.create_time)
        return token, {row["member_of"]: row["role"] for row in rows if row["role"] is not None}

    async def teams_among(self, teams: Collection[str]) -> set[str]:
        """Those of the teams that there are."""
        rows = await self._db.fetch("SELECT id FROM teams WHERE id = ANY($1::text[])", list(teams))
        return {row["id"] for row in rows}

    async def create(self, new: NewToken) -> Token:
        """Makes one token: see `create_many`."""
        return (await self.create_many([new]))[0]

    async def create_many(self, news: Sequence[NewToken]) -> list[Token]:
        """Makes the tokens, all or none. The same request of the same creator again gives the first one a new
        secret.

        Raises InvalidArgument/REQUEST_ID_REUSED where that request made another kind of token, or one that
        was revoked.
        """
        for twice in _twice([(new.creator, new.request_id) for new in news if new.request_id]):
            raise _reused(twice[1])
        async with self._db.transaction() as conn:
            rows = await conn.fetch(
                "INSERT INTO tokens AS t (uid, hash, display_name, subject, scope, team, run_uid,"  # noqa: S608
                " attempt_uid, create_time, expire_time, creator, request_id)"
                " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[],"
                " $6::text[], $7::text[], $8::text[], $9::timestamptz[], $10::timestamptz[], $11::text[],"
                " $12::text[])"
                " ON CONFLICT (creator, request_id) DO UPDATE"
                " SET hash = excluded.hash, expire_time = excluded.expire_time"
                " WHERE t.revoke_time IS NULL AND t.subject = excluded.subject AND t.scope = excluded.scope"
                " AND t.team = excluded.team AND t.attempt_uid = excluded.attempt_uid"
                f" RETURNING hash, {COLUMNS}",
                [new.token.uid for new in news],
                [new.hash for new in news],
                [new.token.display_name for new in news],
                [new.token.subject for new in news],
                [int(new.token.scope) for new in news],
                [new.token.team for new in news],
                [new.token.run_uid for new in news],
                [new.token.attempt_uid for new in news],
                [new.token.create_time for new in news],
                [new.token.expire_time for new in news],
                [new.creator for new in news],
                [new.request_id or None for new in news],
            )
            made = {row["hash"]: token_of(row) for row in rows}
            for new in news:
                if new.hash not in made:
                    raise _reused(new.request_id)
                token = made[new.hash]
                await _record(conn, "token.created", token, actor=new.creator, now=token.create_time)
        return [made[new.hash] for new in news]

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
        return token_of(row)

    async def token(self, uid: str) -> Token | None:
        """The token, whatever its state, or None."""
        row = await self._db.fetchrow(SELECT_TOKENS + " WHERE uid = $1", uid)
        return None if row is None else token_of(row)

    async def good_tokens(self, subject: str) -> set[str]:
        """The uids of a subject's tokens that are not revoked."""
        rows = await self._db.fetch(
            "SELECT uid FROM tokens WHERE subject = $1 AND revoke_time IS NULL", subject
        )
        return {row["uid"] for row in rows}

    async def revoke(self, uid: str, *, actor: str, now: datetime) -> Token:
        """Revokes a token, for ever; twice is no error. Raises NotFound/TOKEN_NOT_FOUND."""
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(SELECT_TOKENS + " WHERE uid = $1 FOR UPDATE", uid)
            if row is None:
                raise token_not_found(uid)
            token = token_of(row)
            if token.revoke_time is not None:
                return token
            await conn.execute("UPDATE tokens SET revoke_time = $2 WHERE uid = $1", uid, now)
            token = replace(token, revoke_time=now)
            await _record(conn, "token.revoked", token, actor=actor, now=now)
            await facts.tell_token_revoked(conn, token, actor=actor, now=now)
        return token

    async def revoke_many(self, uids: Sequence[str], *, actor: str, now: datetime) -> int:
        """Revokes tokens, for ever; how many were not revoked yet."""
        async with self._db.transaction() as conn:
            rows = await conn.fetch(
                "UPDATE tokens SET revoke_time = $2 WHERE uid = ANY($1::text[]) AND revoke_time IS NULL"  # noqa: S608
                f" RETURNING {COLUMNS}",
                list(uids),
                now,
            )
            await facts.tell_tokens_revoked(conn, [token_of(row) for row in rows], actor=actor, now=now)
        return len(rows)

    async def tokens(self, subject: str, *, before: str | None, size: int) -> list[Token]:
        """A subject's tokens, newest first, from behind the uid `before`."""
        rows = await self._db.fetch(
            SELECT_TOKENS
            + " WHERE subject = $1 AND ($2::text IS NULL OR uid < $2) ORDER BY uid DESC LIMIT $3",
            subject,
            before,
            size,
        )
        return [token_of(row) for row in rows]

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
            for old in [replace(token_of(row), revoke_time=now) for row in stale]:
                await conn.execute("UPDATE tokens SET revoke_time = $2 WHERE uid = $1", old.uid, now)
                await facts.tell_token_revoked(conn, old, actor=new.creator, now=now)
            await insert_token(conn, new)


async def _record(conn: Connection, action: str, token: Token, *, actor: str, now: datetime) -> None:
    if token.scope is not Scope.RUN:  # those come and go with their attempts
        await audit.record(
            conn, action, actor=actor, now=now, resource=f"tokens/{token.uid}", subject=token.subject,
            scope=token.scope.name.lower(),
        )  # fmt: skip


async def insert_token(conn: Connection, new: NewToken) -> None:
    """Writes a token that is no run's; one of the same secret stays as it is."""
    token = new.token
    await conn.execute(
        "INSERT INTO tokens (uid, hash, display_name, subject, scope, create_time, expire_time, creator,"
        " session) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (hash) DO NOTHING",
        token.uid,
        new.hash,
        token.display_name,
        token.subject,
        int(token.scope),
        token.create_time,
        token.expire_time,
        new.creator,
        token.session,
    )


def _twice(keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [key for key, count in Counter(keys).items() if count > 1]


def _reused(request_id: str) -> InvalidArgument:
    return InvalidArgument(
        f"The request id {request_id!r} has made another token, or one that was revoked since."
        " Use a new request id.",
        reason=Reason.REQUEST_ID_REUSED,
        request_id=request_id,
    )


def token_not_found(uid: str) -> NotFound:
    """The same answer for a token that is not there and for somebody else's."""
    return NotFound(
        f"There is no token {uid!r} that you may change.", reason=Reason.TOKEN_NOT_FOUND, token=uid
    )


def token_of(row: Row) -> Token:
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
        session=row["session"],
    )
