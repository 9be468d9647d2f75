"""All SQL about teams and their limits. Each public method is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import Aborted, AlreadyExists, NotFound, Reason
from cairn_common.ids import new_uid
from cairn_quota import audit, facts
from cairn_quota.model import Amounts, Limits, Team

SELECT_TEAMS = (
    "SELECT teams.id, teams.uid, teams.display_name, teams.create_time, teams.update_time, teams.revision,"
    " limits.gpus, limits.cpu_milli, limits.jobs, limits.held_gpus, limits.held_cpu_milli, limits.held_jobs"
    " FROM teams JOIN limits ON limits.team = teams.id"
)


class TeamStore:
    """Teams, each with its limits and what it holds."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def team(self, team: str) -> Team | None:
        """The team, or None."""
        row = await self._db.fetchrow(SELECT_TEAMS + " WHERE teams.id = $1", team)
        return None if row is None else _team(row)

    async def ids(self) -> list[str]:
        """Of all teams, in order."""
        return [str(row["id"]) for row in await self._db.fetch("SELECT id FROM teams ORDER BY id")]

    async def teams(self, ids: Sequence[str] | None, *, after: str, size: int) -> list[Team]:
        """Teams in order of their ids, of `ids` or (None) of all, from behind `after`."""
        rows = await self._db.fetch(
            SELECT_TEAMS + " WHERE ($1::text[] IS NULL OR teams.id = ANY($1)) AND teams.id > $2"
            " ORDER BY teams.id LIMIT $3",
            None if ids is None else list(ids),
            after,
            size,
        )
        return [_team(row) for row in rows]

    async def create_team(self, team: Team, *, creator: str, request_id: str, owner_role: int) -> Team:
        """Makes the team with `creator` (a user) as its owner; the same request again returns it as it is.

        Raises AlreadyExists/TEAM_EXISTS.
        """
        async with self._db.transaction() as conn:
            await _change_tree(conn)
            if not await insert_team(
                conn, team, creator=creator, request_id=request_id, owner_role=owner_role
            ):
                return await self._same_team(conn, team, creator=creator, request_id=request_id)
        return team

    async def _same_team(self, conn: Connection, team: Team, *, creator: str, request_id: str) -> Team:
        row = await conn.fetchrow(
            SELECT_TEAMS + " WHERE teams.id = $1 AND teams.creator = $2 AND teams.request_id = $3",
            team.id,
            creator,
            request_id,
        )
        if row is None or not request_id:
            raise AlreadyExists(
                f"The team id {team.id!r} is taken. Choose another one.",
                reason=Reason.TEAM_EXISTS,
                team=team.id,
            )
        return _team(row)

    async def update_team(
        self,
        team: str,
        *,
        etag: str,
        display_name: str | None,
        limits: dict[str, int | None],
        actor: str,
        now: datetime,
    ) -> Team:
        """Sets the name (None: leave it) and the limits that `limits` names (a value of None: no limit).

        Raises NotFound/TEAM_NOT_FOUND, and Aborted/ETAG_MISMATCH where `etag` is given and is not the
        team's.
        """
        async with self._db.transaction() as conn:
            await _change_tree(conn)
            await conn.execute("SELECT team FROM limits WHERE team = $1 FOR UPDATE", team)
            row = await conn.fetchrow(SELECT_TEAMS + " WHERE teams.id = $1", team)
            if row is None:
                raise team_not_found(team)
            old = _team(row)
            if etag and etag != old.etag:
                raise Aborted(
                    f"The team {team!r} has changed since it was read: its etag is {old.etag}, not {etag}."
                    " Read it again and repeat the change.",
                    reason=Reason.ETAG_MISMATCH,
                    etag=old.etag,
                )
            await conn.execute(
                "UPDATE teams SET display_name = $2, update_time = $3, revision = revision + 1 WHERE id = $1",
                team,
                old.display_name if display_name is None else display_name,
                now,
            )
            await conn.execute(
                "UPDATE limits SET gpus = $2, cpu_milli = $3, jobs = $4 WHERE team = $1",
                team,
                limits.get("gpus", old.limits.gpus),
                limits.get("cpu_milli", old.limits.cpu_milli),
                limits.get("jobs", old.limits.jobs),
            )
            row = await conn.fetchrow(SELECT_TEAMS + " WHERE teams.id = $1", team)
            assert row is not None
            new = _team(row)
            await facts.tell_team(conn, new, actor=actor, now=now)
            await audit.record(
                conn, "team.updated", actor=actor, now=now, team=team, resource=f"teams/{team}",
                display_name=display_name, **{name: limits[name] for name in sorted(limits)},
            )  # fmt: skip
        return new


async def insert_team(
    conn: Connection, team: Team, *, creator: str, request_id: str, owner_role: int
) -> bool:
    """Writes a new team with its owner and its fact; False where the id is taken."""
    made = await conn.fetchval(
        "INSERT INTO teams (id, uid, display_name, create_time, update_time, creator, request_id)"
        " VALUES ($1, $2, $3, $4, $4, $5, $6) ON CONFLICT (id) DO NOTHING RETURNING id",
        team.id,
        team.uid,
        team.display_name,
        team.create_time,
        creator,
        request_id,
    )
    if made is None:
        return False
    await conn.execute(
        "INSERT INTO limits (team, gpus, cpu_milli, jobs) VALUES ($1, $2, $3, $4)",
        team.id,
        team.limits.gpus,
        team.limits.cpu_milli,
        team.limits.jobs,
    )
    await conn.execute(
        "INSERT INTO memberships (team, subject, role) VALUES ($1, $2, $3)", team.id, creator, owner_role
    )
    await facts.tell_team(conn, team, actor=creator, now=team.create_time)
    await audit.record(
        conn, "team.created", actor=creator, now=team.create_time, team=team.id, resource=f"teams/{team.id}"
    )
    return True


async def _change_tree(conn: Connection) -> None:
    """Takes the lock that every change of what is held takes; what was remembered of limits is old now."""
    await conn.execute("UPDATE tree_state SET seq = seq + 1")


def team_not_found(team: str) -> NotFound:
    """The same answer for a team that is not there and for one that the caller is no member of."""
    return NotFound(
        f"There is no team {team!r}, or you are no member of it.", reason=Reason.TEAM_NOT_FOUND, team=team
    )


def new_team(*, id: str, display_name: str, limits: Limits, now: datetime) -> Team:
    """A team that holds nothing yet."""
    return Team(
        id=id,
        uid=new_uid(),
        display_name=display_name,
        create_time=now,
        update_time=now,
        revision=1,
        limits=limits,
        held=Amounts(),
    )


def limits_of(row: Row) -> Limits:
    """The limits in a row of `limits`."""
    return Limits(gpus=row["gpus"], cpu_milli=row["cpu_milli"], jobs=row["jobs"])


def held_of(row: Row) -> Amounts:
    """What is held, in a row of `limits`."""
    return Amounts(gpus=row["held_gpus"], cpu_milli=row["held_cpu_milli"], jobs=row["held_jobs"])


def _team(row: Row) -> Team:
    return Team(
        id=row["id"],
        uid=row["uid"],
        display_name=row["display_name"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        revision=row["revision"],
        limits=limits_of(row),
        held=held_of(row),
    )
