"""All SQL about secrets of teams and users. Each public method is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import NotFound, Reason, ResourceExhausted
from cairn_common.ids import new_uid
from cairn_quota import audit

MOST_OF_OWNER = 100
_COLUMNS = "owner, variable, setter, create_time, update_time, use_time"
_SELECT = f"SELECT {_COLUMNS} FROM secrets"  # noqa: S608


@dataclass(frozen=True, slots=True)
class Secret:
    """What is known of one, besides its value."""

    # teams/{team} or users/{user}
    owner: str
    variable: str
    setter: str
    create_time: datetime
    update_time: datetime
    use_time: datetime | None

    @property
    def name(self) -> str:
        """The resource's, which its value is bound to."""
        return name_of(self.owner, self.variable)


@dataclass(frozen=True, slots=True)
class Use:
    """Whose attempt gets secrets: a job of a user in a team."""

    team: str
    # users/{user}
    user: str
    # teams/{team}/jobs/{job}; empty: nobody gets them, they are looked at.
    job: str
    attempt_uid: str


class SecretStore:
    """Secrets, as they are kept."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def set(self, owner: str, variable: str, *, sealed: bytes, actor: str, now: datetime) -> Secret:
        """Makes it, or replaces its value. Raises ResourceExhausted where the owner has many."""
        async with self._db.transaction() as conn:
            await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"secrets/{owner}")
            there = await conn.fetchval(
                "SELECT count(*) FROM secrets WHERE owner = $1 AND variable <> $2", owner, variable
            )
            if there >= MOST_OF_OWNER:
                raise ResourceExhausted(
                    f"{_whose(owner)} has {MOST_OF_OWNER} secrets, which is the most; remove one first."
                )
            row = await conn.fetchrow(
                "INSERT INTO secrets (uid, owner, variable, sealed, setter, create_time, update_time)"  # noqa: S608
                " VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (owner, variable) DO UPDATE"
                " SET sealed = EXCLUDED.sealed, setter = EXCLUDED.setter, update_time = EXCLUDED.update_time"
                f" RETURNING {_COLUMNS}",
                new_uid(), owner, variable, sealed, actor, now,
            )  # fmt: skip
            assert row is not None
            made = _secret(row)
            await _record(conn, "secret.set", made, actor=actor, now=now)
        return made

    async def secrets(self, owner: str) -> list[Secret]:
        """A team's or user's, by name."""
        rows = await self._db.fetch(_SELECT + ' WHERE owner = $1 ORDER BY variable COLLATE "C"', owner)
        return [_secret(row) for row in rows]

    async def delete(self, owner: str, variable: str, *, actor: str, now: datetime) -> None:
        """Ends one. Raises NotFound/SECRET_NOT_FOUND."""
        async with self._db.transaction() as conn:
            row = await conn.fetchrow(
                f"DELETE FROM secrets WHERE owner = $1 AND variable = $2 RETURNING {_COLUMNS}",  # noqa: S608
                owner,
                variable,
            )
            if row is None:
                raise NotFound(
                    f"There is no secret {variable} of {_whose(owner)}.", reason=Reason.SECRET_NOT_FOUND
                )
            await _record(conn, "secret.removed", _secret(row), actor=actor, now=now)

    async def use(self, variables: Sequence[str], use: Use, *, now: datetime) -> list[tuple[str, str, bytes]]:
        """Owner, variable and sealed value of those that there are, the user's own before the team's. What an
        attempt gets is noted."""
        async with self._db.transaction() as conn:
            rows = await conn.fetch(
                f"SELECT DISTINCT ON (variable) {_COLUMNS}, sealed FROM secrets"  # noqa: S608
                " WHERE owner IN ($1, $2) AND variable = ANY($3::text[])"
                # For as long as the user is let in, and may run something there.
                " AND EXISTS (SELECT FROM memberships WHERE team = $4 AND subject = $1 AND role >= 2)"
                " AND NOT EXISTS (SELECT FROM users WHERE 'users/' || id = $1 AND state = 2)"
                " ORDER BY variable, owner = $1 DESC",
                use.user, f"teams/{use.team}", list(variables), use.team,
            )  # fmt: skip
            for row in rows if use.job else ():
                one = _secret(row)
                await conn.execute(
                    "UPDATE secrets SET use_time = $3 WHERE owner = $1 AND variable = $2",
                    one.owner,
                    one.variable,
                    now,
                )
                await audit.record(
                    conn, "secret.used", actor=use.user, now=now, team=use.team, resource=one.name,
                    job=use.job, attempt=use.attempt_uid,
                )  # fmt: skip
        return [(row["owner"], row["variable"], bytes(row["sealed"])) for row in rows]


def name_of(owner: str, variable: str) -> str:
    """The resource's name."""
    return f"{owner}/secrets/{variable}"


async def _record(conn: Connection, action: str, secret: Secret, *, actor: str, now: datetime) -> None:
    kind, _, name = secret.owner.partition("/")
    team = name if kind == "teams" else audit.NO_TEAM
    await audit.record(conn, action, actor=actor, now=now, team=team, resource=secret.name)


def _whose(owner: str) -> str:
    kind, _, name = owner.partition("/")
    return f"team {name}" if kind == "teams" else f"user {name}"


def _secret(row: Row) -> Secret:
    return Secret(**{key: value for key, value in dict(row).items() if key != "sealed"})
