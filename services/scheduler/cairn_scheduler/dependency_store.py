"""The SQL of waiting for other jobs: what a name means, how far others have come, who is free by now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import Aborted, NotFound, Reason
from cairn_common.ids import is_uid
from cairn_scheduler import dependencies, facts, steps, store
from cairn_scheduler.dependencies import Fate, Progress, Wish
from cairn_scheduler.facts import Event
from cairn_scheduler.lease import Lead
from cairn_scheduler.model import Dependency, Job
from cairn_scheduler.task import invalid

PATH = "cairn.after"
_SHORTEST = 4


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that is held for others."""

    uid: str
    reason: str
    after: tuple[Dependency, ...]


async def resolve(db: Database, *, team: str, wishes: Iterable[Wish]) -> tuple[Dependency, ...]:
    """What is named, of this team. Raises NotFound (JOB_NOT_FOUND), InvalidArgument (TASK_INVALID)."""
    found: dict[str, Dependency] = {}
    for wish in wishes:
        one = await _meant(db, team, wish)
        found[one.uid] = one
    return tuple(found.values())


async def fate(db: Database, after: Sequence[Dependency]) -> Fate:
    """What is to become of a job that comes now."""
    return dependencies.fate(after, await _progress(db, after))


async def settle(db: Database, lead: Lead, *, now: datetime) -> bool:
    """Lets go what is free by now, ends what never can be, and says what the others wait for.

    Whether any step was taken: others may wait for it. Looked at anew each time, so nothing is missed.
    """
    waiting = await _waiting(db)
    if not waiting:
        return False
    progress = await _progress(db, {one.uid: one for job in waiting for one in job.after}.values())
    fates = {job.uid: dependencies.fate(job.after, progress) for job in waiting}
    told = {
        job.uid: fates[job.uid].reason for job in waiting if fates[job.uid].reason not in ("", job.reason)
    }
    if told:
        async with lead.transaction() as conn:
            await _explain(conn, told)
    ready = {uid: one for uid, one in fates.items() if one.free or one.hopeless}
    if not ready:
        return False
    jobs = [job for job in (await store.jobs_by_uid(db, list(ready))).values() if dependencies.waits(job)]
    free = [(job, dependencies.free(job, now), Event.REQUEUED) for job in jobs if ready[job.uid].free]
    async with lead.transaction() as conn:
        await steps.save_many(conn, free)
    for job in jobs:
        if ready[job.uid].hopeless:
            await _end(lead, job, dependencies.give_up(job, now, why=ready[job.uid].hopeless))
    return bool(jobs)


async def _end(lead: Lead, job: Job, new: Job) -> None:
    try:
        async with lead.transaction() as conn:
            await store.save(conn, job, new, Event.FINISHED, actor=facts.SELF)
    except Aborted:
        # Somebody steered it in this moment; the next look sees what it is now.
        return


async def _waiting(db: Database) -> list[Waiting]:
    rows = await db.fetch(
        "SELECT uid, reason, after FROM jobs WHERE state = 'HELD' AND hold = 'DEPENDENCY' ORDER BY uid"
    )
    return [
        Waiting(row["uid"], row["reason"], tuple(Dependency(**one) for one in json.loads(row["after"])))
        for row in rows
    ]


async def _progress(db: Database, after: Iterable[Dependency]) -> Mapping[str, Progress]:
    named = list(after)
    rows = await db.fetch(
        """
        SELECT name, count(*) AS total, count(*) FILTER (WHERE end_time IS NULL) AS open,
            min(uid || ' ' || state) FILTER (WHERE end_time IS NOT NULL AND state <> 'SUCCEEDED') AS failed
        FROM (
            SELECT uid AS name, uid, state, end_time FROM jobs WHERE uid = ANY($1::text[])
            UNION ALL
            SELECT sweep_uid, uid, state, end_time FROM jobs
            WHERE sweep_uid = ANY($2::text[]) AND sweep_uid <> ''
        ) AS named GROUP BY name
        """,
        [one.uid for one in named if not one.sweep],
        [one.uid for one in named if one.sweep],
    )
    found = {}
    for row in rows:
        failed, _, state = (row["failed"] or "").partition(" ")
        found[row["name"]] = Progress(row["total"], row["open"], failed, state)
    return found


async def _explain(conn: Connection, told: Mapping[str, str]) -> None:
    """A remark, as `store.explain` for those in the queue."""
    await conn.execute(
        """
        UPDATE jobs SET reason = told.reason
        FROM unnest($1::text[], $2::text[]) AS told (uid, reason)
        WHERE jobs.uid = told.uid AND jobs.state = 'HELD' AND jobs.hold = 'DEPENDENCY'
        """,
        list(told.keys()),
        list(told.values()),
    )


async def _meant(db: Database, team: str, wish: Wish) -> Dependency:
    """An id, else the only one that begins so, else the newest of that name: of a sweep's jobs the sweep."""
    given = wish.given
    if given.startswith("teams/"):
        given = given.rpartition("/")[2] if given.startswith(f"teams/{team}/") else ""
    uid = given.lower()
    rows = await db.fetch(
        """
        SELECT uid, display_name, false AS sweep FROM jobs WHERE team = $1 AND starts_with(uid, $2)
        UNION ALL
        SELECT uid, display_name, true FROM sweeps WHERE team = $1 AND starts_with(uid, $2)
        LIMIT 2
        """,
        team,
        uid,
    ) if len(uid) >= _SHORTEST else []  # fmt: skip
    if len(rows) > 1:
        raise invalid(PATH, f"{wish.given!r} could be any of several jobs; write more of the id")
    row = rows[0] if rows else None if is_uid(uid) else await _of_name(db, team, given)
    if row is None:
        raise NotFound(
            f"{PATH}: there is no job or sweep {wish.given[:80]!r} in team {team}",
            reason=Reason.JOB_NOT_FOUND,
            path=PATH,
        )
    return Dependency(uid=row["uid"], title=row["display_name"], sweep=row["sweep"], any=wish.any)


async def _of_name(db: Database, team: str, name: str) -> Row | None:
    if not name:
        return None
    return await db.fetchrow(
        """
        SELECT CASE WHEN sweep_uid = '' THEN uid ELSE sweep_uid END AS uid, display_name,
            sweep_uid <> '' AS sweep
        FROM jobs WHERE team = $1 AND display_name = $2 ORDER BY create_time DESC, uid DESC LIMIT 1
        """,
        team,
        name,
    )
