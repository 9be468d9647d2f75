"""How much may come in: the quota tree's limits on jobs that wait and on submits in an hour, held where jobs
are made, whatever road they come by.

The tree is the quota service's. Where that is away what is known of it holds, and as long as nothing is known
jobs are taken: they wait, and nothing runs without quota.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from cairn_common.db import Connection
from cairn_common.errors import ResourceExhausted, Unavailable
from cairn_scheduler.model import Job
from cairn_scheduler.quota import Quota
from cairn_scheduler.tree import Tree

HOUR = timedelta(hours=1)
_KNOWN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Count:
    """Jobs of one seat: that wait, and that came within the hour."""

    team: str
    project: str
    creator: str
    waiting: int
    came: int


class Gate:
    """Looks before a transaction (`limits`), and holds inside of it (`lock`, then the jobs, then `hold`)."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._tree: Tree | None = None
        self._looked = 0.0

    async def limits(self) -> Tree | None:
        """The tree as it was at most two seconds ago; None: nothing is known of it."""
        if self._tree is None or time.monotonic() - self._looked > _KNOWN_SECONDS:
            try:
                self._tree = await self._quota.tree()
                self._looked = time.monotonic()
            except Unavailable:
                pass
        return self._tree


async def lock(conn: Connection, tree: Tree | None, jobs: Iterable[Job]) -> None:
    """Whoever makes jobs below the same limit waits for this transaction."""
    for node in sorted(limited(tree, jobs)):
        await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended('inflow/' || $1, 0))", node)


async def hold(conn: Connection, tree: Tree | None, made: Sequence[Job]) -> None:
    """Counts again, with the jobs that were just made. Raises ResourceExhausted QUOTA_EXCEEDED."""
    nodes = limited(tree, made)
    if tree is None or not nodes:
        return
    rows = await conn.fetch(
        """
        SELECT team, project, creator, count(*) FILTER (WHERE state IN ('PENDING', 'HELD')) AS waiting,
            count(*) FILTER (WHERE create_time > $2) AS came
        FROM jobs WHERE team = ANY($1) AND (end_time IS NULL OR create_time > $2)
        GROUP BY team, project, creator
        """,
        sorted(_teams(tree, nodes)),
        max(job.create_time for job in made) - HOUR,
    )
    check(tree, nodes, [Count(**row) for row in rows])


def check(tree: Tree, nodes: Iterable[str], counts: Sequence[Count]) -> None:
    """Raises ResourceExhausted for the first of these nodes below which there are too many."""
    waiting: dict[str, int] = {}
    came: dict[str, int] = {}
    for one in counts:
        for node in tree.path(_seat(tree, one)):
            waiting[node] = waiting.get(node, 0) + one.waiting
            came[node] = came.get(node, 0) + one.came
    for node in sorted(nodes):
        limit = tree.inflows[node]
        _within(node, "pending_jobs", limit.pending_jobs, waiting.get(node, 0), "jobs may wait at a time")
        _within(node, "submits_per_hour", limit.submits_per_hour, came.get(node, 0), "jobs may come an hour")


def _within(node: str, resource: str, limit: int | None, count: int, words: str) -> None:
    if limit is not None and count > limit:
        raise ResourceExhausted(
            f"{node}: {limit:,} {words}, and with this there would be {count:,}; submit it later, "
            f"or ask an admin for more (limits.{resource} in the quota tree)",
            node=node,
            resource=resource,
            limit=limit,
            requested=count,
        )


def limited(tree: Tree | None, jobs: Iterable[Job]) -> set[str]:
    """The nodes above these jobs that limit what comes in."""
    if tree is None or not tree.inflows:
        return set()
    seats = {(job.team, job.project, job.creator) for job in jobs}
    above = {node for seat in seats for node in tree.path(_seat(tree, Count(*seat, 0, 0)))}
    return above & tree.inflows.keys()


def _teams(tree: Tree, nodes: set[str]) -> set[str]:
    """The teams with a seat below one of these nodes."""
    seats: Mapping[tuple[str, str, str], str] = tree.seats
    return {team for (team, _, _), seat in seats.items() if not nodes.isdisjoint(tree.path(seat))}


def _seat(tree: Tree, one: Count) -> str:
    return tree.seat(team=one.team, project=one.project, user=one.creator.removeprefix("users/"))
