"""Reads the ledger: sums of usage, and the entries themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cairn_common.db import Database
from cairn_quota import ledger_rows
from cairn_quota.account import Entry
from cairn_quota.tree import Calendar

MOST_ROWS = 10_000
DIMENSIONS = {"team": "team", "user": "usr", "project": "project", "flavor": "flavor"}


@dataclass(frozen=True, slots=True)
class Query:
    """Of which usage the sums are. `teams` None: of all; `times` None: from the beginning, until now."""

    teams: Sequence[str] | None
    group_by: frozenset[str]
    period: Calendar | None
    timezone: str
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Sums of usage that falls together: GPU-ms, core-ms, micro-money."""

    team: str
    user: str
    project: str
    flavor: str
    period_start: datetime | None
    gpu_millis: int
    cpu_millis: int
    money_micros: int
    jobs: int


class UsageStore:
    """See the module."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def sums(self, query: Query) -> list[UsageSum]:
        """At most MOST_ROWS + 1 rows, in order of period, team, project, user and flavor.

        A refund counts below zero, so that the sums are those of the ledger's account SETTLED.
        """
        unit = None if query.period is None else query.period.name.lower()
        rows = await self._db.fetch(
            "SELECT team, usr, project, flavor, period_start,"
            " coalesce(sum(amount) FILTER (WHERE unit = 1), 0)::bigint AS gpu_millis,"
            " coalesce(sum(amount) FILTER (WHERE unit = 2), 0)::bigint AS money_micros,"
            " coalesce(sum(amount) FILTER (WHERE unit = 3), 0)::bigint AS cpu_millis,"
            " count(DISTINCT job_uid) AS jobs FROM ("
            " SELECT CASE WHEN $1 THEN team ELSE '' END AS team, CASE WHEN $2 THEN usr ELSE '' END AS usr,"
            " CASE WHEN $3 THEN project ELSE '' END AS project,"
            " CASE WHEN $4 THEN flavor ELSE '' END AS flavor,"
            " date_trunc($5::text, time, $6::text) AS period_start,"
            " CASE kind WHEN 3 THEN amount ELSE -amount END AS amount, unit, job_uid FROM ledger_entries"
            " WHERE budget = '' AND ($7::text[] IS NULL OR team = ANY($7))"
            " AND ($8::timestamptz IS NULL OR time >= $8) AND ($9::timestamptz IS NULL OR time < $9)"
            ") AS used GROUP BY team, usr, project, flavor, period_start"
            " ORDER BY period_start, team, project, usr, flavor LIMIT $10",
            *("team" in query.group_by, "user" in query.group_by),
            *("project" in query.group_by, "flavor" in query.group_by),
            unit,
            query.timezone,
            None if query.teams is None else list(query.teams),
            query.start,
            query.end,
            MOST_ROWS + 1,
        )
        return [
            UsageSum(
                team=row["team"],
                user=row["usr"],
                project=row["project"],
                flavor=row["flavor"],
                period_start=row["period_start"],
                gpu_millis=row["gpu_millis"],
                cpu_millis=row["cpu_millis"],
                money_micros=row["money_micros"],
                jobs=row["jobs"],
            )
            for row in rows
        ]

    async def entries(
        self, *, team: str | None, budget: str, after: int, size: int
    ) -> list[tuple[int, Entry]]:
        """Entries with their numbers, oldest first, from behind `after`; of one budget, of all (`-`), or all.

        Of a team (None: of every one) are its usage, and what its jobs held and spent of budgets.
        """
        rows = await self._db.fetch(
            f"SELECT seq, {ledger_rows.ENTRY_COLUMNS} FROM ledger_entries WHERE seq > $1"  # noqa: S608
            " AND ($2::text IS NULL OR team = $2)"
            " AND ($3 = '' OR ($3 = '-' AND budget <> '') OR budget = $3) ORDER BY seq LIMIT $4",
            after,
            team,
            budget,
            size,
        )
        return [(row["seq"], ledger_rows.entry(row)) for row in rows]
