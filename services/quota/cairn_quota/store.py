"""What teams hold and used: every public method that changes it is one change of the authority's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from cairn_common.db import Connection, Database
from cairn_common.errors import (
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Reason,
    ResourceExhausted,
)
from cairn_quota import admission, facts, ledger, ledger_rows, metering, reservation_rows
from cairn_quota.admission import Code, State, Verdict
from cairn_quota.authority import Authority
from cairn_quota.model import JobView, Reservation, ReservationState, Usage, UsageEntry
from cairn_quota.team_store import team_not_found
from cairn_quota.tree import UNIT

J = TypeVar("J", Reservation, UsageEntry)
SELECT_ENTRIES = (
    "SELECT attempt_uid, team, job_uid, creator, start_time, end_time, gpu_millis, cpu_micros"
    " FROM usage_entries"
)
# So many holds are looked at before others get their turn.
TURN = 100
# Of a resource: as the metadata of errors has it, for people, thousandths per unit told.
TOLD = {
    "gpu": ("gpus", "GPUs", UNIT),
    "cpu": ("cpu_milli", "thousandths of a CPU core", 1),
    "jobs": ("jobs", "jobs", UNIT),
}


class Store:
    """What teams hold and used."""

    def __init__(self, db: Database, authority: Authority) -> None:
        self._db = db
        self._authority = authority

    async def reserve(self, asked: Reservation, *, actor: str) -> Reservation:
        """Holds `asked`, whole or not at all; the same id again returns what is held.

        Raises NotFound/TEAM_NOT_FOUND, ResourceExhausted/QUOTA_EXCEEDED,
        FailedPrecondition/RESERVATION_ENDED, InvalidArgument/REQUEST_ID_REUSED (other amounts under this id).
        """
        async with self._authority.changing() as (conn, state):
            again = await _ask_again(conn, asked)
            if again is None:
                verdict, made = await self._admit(conn, state, asked, actor=actor)
        if again is not None:
            return _same(again, asked)
        if verdict.code is not Code.HELD:
            # Outside of the change, which was none: what the authority remembers stays good.
            raise _refused(asked, verdict)
        return made

    async def _admit(
        self, conn: Connection, state: State, asked: Reservation, *, actor: str
    ) -> tuple[Verdict, Reservation]:
        ran = await reservation_rows.attempted(conn, [asked.job_uid]) if asked.admission > 1 else set()
        verdict, made = admission.admit(state, asked, attempted=bool(ran), now=asked.create_time, actor=actor)
        if verdict.code is Code.HELD:
            await reservation_rows.insert(conn, [made])
            await facts.tell_reservations(conn, [made], actor=actor, now=made.create_time)
        return verdict, made

    async def release(self, team: str, reservation_id: str, *, actor: str, now: datetime) -> Reservation:
        """Ends a hold; one that has ended stays as it is. Raises NotFound/RESERVATION_NOT_FOUND."""
        async with self._authority.changing() as (conn, state):
            found = (await reservation_rows.by_name(conn, [(team, reservation_id)])).values()
            ended = await end(conn, state, [one for one in found if _is_held(one)], now=now)
            await facts.tell_reservations(conn, ended, actor=actor, now=now)
        if not found:
            raise NotFound(
                f"There is no reservation {reservation_id!r} in the team {team!r}.",
                reason=Reason.RESERVATION_NOT_FOUND,
                reservation=reservation_id,
            )
        return next(iter(ended or found))

    async def abandon(self, reservation: Reservation, *, actor: str, now: datetime) -> bool:
        """Ends a hold that nobody will come back for, unless it was asked for again since it was read."""
        async with self._authority.changing() as (conn, state):
            found = await reservation_rows.by_name(conn, [(reservation.team, reservation.id)])
            same = [
                one
                for one in found.values()
                if _is_held(one) and (one.uid, one.ask_time) == (reservation.uid, reservation.ask_time)
            ]
            ended = await end(conn, state, same, now=now)
            await facts.tell_reservations(conn, ended, actor=actor, now=now)
        return bool(ended)

    async def reservations(
        self, team: str | None, *, held_only: bool, before: str | None, size: int
    ) -> list[Reservation]:
        """Newest first, of one team or (None) of all, from behind the uid `before`."""
        rows = await self._db.fetch(
            reservation_rows.SELECT + " WHERE ($1::text IS NULL OR team = $1) AND (NOT $2 OR state = 1)"
            " AND ($3::text IS NULL OR uid < $3) ORDER BY uid DESC LIMIT $4",
            team,
            held_only,
            before,
            size,
        )
        return [reservation_rows.reservation(row) for row in rows]

    # --- what the scheduler tells, and what passes with time ---

    async def settle(self, jobs: Sequence[JobView], *, actor: str, now: datetime) -> int:
        """Meters and settles by these versions of jobs, each job at most once in `jobs`.

        A version older than one acted on before changes nothing, the same one again neither. Returns how
        many reservations changed.
        """
        async with self._authority.changing() as (conn, state):
            fresh = await _pass_guard(conn, jobs)
            if not fresh:
                return 0
            await _insert_entries(conn, [entry for job in fresh for entry in ledger.metered(job)])
            uids = [job.uid for job in fresh]
            before = await _with_users(conn, await reservation_rows.of_jobs(conn, uids), fresh)
            await metering.charge(conn, state, fresh, before)
            entries = _by_job(await _entries_of(conn, uids))
            holds = _by_job(before)
            after = [
                changed
                for job in fresh
                for changed in ledger.settle(
                    job,
                    reservations=[one for one in holds.get(job.uid, []) if one.team == job.team],
                    entries=entries.get(job.uid, []),
                    now=now,
                )
            ]
            freed = ledger.freed(before, after)
            await reservation_rows.end(conn, after, freed=freed)
            for hold in freed:
                state.give_back(hold, now=now)
            await facts.tell_reservations(conn, after, actor=actor, now=now)
        return len(after)

    async def missed(self, jobs: Sequence[JobView]) -> list[JobView]:
        """Those of these versions of jobs that were not acted on yet, nor a later one."""
        rows = await self._db.fetch(
            "SELECT job_uid, revision FROM job_revisions WHERE job_uid = ANY($1::text[])",
            [job.uid for job in jobs],
        )
        seen = {row["job_uid"]: row["revision"] for row in rows}
        return [job for job in jobs if seen.get(job.uid, 0) < job.revision]

    async def tick(self, *, now: datetime) -> None:
        """Charges running attempts up to now, renews what their holds hold, begins new budget periods."""
        charged = metering.BATCH
        while charged == metering.BATCH:
            async with self._authority.changing() as (conn, state):
                charged = await metering.tick(conn, state, now=now)
                await metering.renew(conn, state, now=now)

    async def usage(self, team: str, *, start: datetime | None, end: datetime | None) -> Usage:
        """Sums of the entries that ended at or after `start` and before `end`."""
        row = await self._db.fetchrow(
            "SELECT coalesce(sum(gpu_millis), 0)::bigint AS gpu_millis,"
            " coalesce(sum(cpu_micros), 0)::bigint AS cpu_micros, count(*) AS attempts FROM usage_entries"
            " WHERE team = $1 AND ($2::timestamptz IS NULL OR end_time >= $2)"
            " AND ($3::timestamptz IS NULL OR end_time < $3)",
            team,
            start,
            end,
        )
        assert row is not None
        return Usage(gpu_millis=row["gpu_millis"], cpu_micros=row["cpu_micros"], attempts=row["attempts"])

    async def caught_up(self) -> datetime | None:
        """Up to when the scheduler's jobs were read by reconciliation; None: never."""
        row = await self._db.fetchrow("SELECT caught_up FROM reconciliation")
        return None if row is None else _time(row["caught_up"])

    async def set_caught_up(self, time: datetime) -> None:
        """Remembers it; never goes back."""
        await self._db.execute(
            "INSERT INTO reconciliation (single, caught_up) VALUES (true, $1) ON CONFLICT (single)"
            " DO UPDATE SET caught_up = greatest(reconciliation.caught_up, excluded.caught_up)",
            time,
        )


async def end(
    conn: Connection, state: State, holds: Sequence[Reservation], *, now: datetime
) -> list[Reservation]:
    """Ends holds: SETTLED where an attempt of theirs was metered, RELEASED otherwise."""
    if not holds:
        return []
    jobs = sorted({one.job_uid for one in holds})
    siblings = await reservation_rows.of_jobs(conn, jobs)
    entries = await _entries_of(conn, jobs)
    await ledger_rows.read_holdings(conn, state.books, [one.uid for one in holds])
    siblings_of, entries_of = _by_job(siblings), _by_job(entries)
    ended = []
    for number, hold in enumerate(holds, start=1):
        if number % TURN == 0:
            await asyncio.sleep(0)
        mine, theirs = siblings_of.get(hold.job_uid, []), entries_of.get(hold.job_uid, [])
        ended.append(ledger.ended(hold, used=ledger.is_used(hold, siblings=mine, entries=theirs), now=now))
        state.give_back(hold, now=now)
    await reservation_rows.end(conn, ended, freed=holds)
    return ended


def _by_job(things: Sequence[J]) -> dict[str, list[J]]:
    found: dict[str, list[J]] = {}
    for one in things:
        found.setdefault(one.job_uid, []).append(one)
    return found


async def _ask_again(conn: Connection, asked: Reservation) -> Reservation | None:
    row = await conn.fetchrow(
        "UPDATE reservations SET ask_time = greatest(ask_time, $3) WHERE team = $1 AND id = $2"  # noqa: S608
        f" RETURNING {reservation_rows.COLUMNS}",
        asked.team,
        asked.id,
        asked.ask_time,
    )
    return None if row is None else reservation_rows.reservation(row)


def _same(found: Reservation, asked: Reservation) -> Reservation:
    """What is held under the id that was asked for. Raises where it is no answer."""
    if found.state is not ReservationState.HELD:
        raise FailedPrecondition(
            f"The reservation {asked.id!r} has ended ({found.state.name}); its id cannot be used again."
            " Reserve under the next admission's number.",
            reason=Reason.RESERVATION_ENDED,
            reservation=asked.id,
            state=found.state.name,
        )
    if found.amounts != asked.amounts:
        raise InvalidArgument(
            f"The reservation {asked.id!r} holds other amounts than were asked for now."
            " Release it and reserve under the next admission's number.",
            reason=Reason.REQUEST_ID_REUSED,
            reservation=asked.id,
        )
    return found


def _refused(asked: Reservation, verdict: Verdict) -> DomainError:
    """Why it is not held, for who asked."""
    if verdict.field == "parent":
        return team_not_found(asked.team)
    if verdict.field:
        return InvalidArgument(
            f"{verdict.field}: {verdict.message}", reason=Reason.FIELD_INVALID, field=verdict.field
        )
    if verdict.code is not Code.EXCEEDED:
        return ResourceExhausted(
            f"It cannot start now: {verdict.message}.",
            reason=Reason.QUOTA_EXCEEDED,
            team=asked.team,
            node=verdict.node,
            budget=verdict.budget,
        )
    name, words, scale = TOLD.get(verdict.resource, (verdict.resource, verdict.resource, 1))
    limit, used, requested = (-(-n // scale) for n in (verdict.limit, verdict.used, verdict.requested))
    who = f"the team {asked.team!r}" if verdict.node == asked.team else f"{verdict.node!r} of the quota tree"
    cure = (
        "ask for less, or have an admin raise the limit"
        if requested > limit
        else "wait until some of it is free, or have an admin raise the limit"
    )
    return ResourceExhausted(
        f"Asked for {requested} {words}; {who} may hold {limit} at a time and holds {used}."
        f" To go on, {cure}.",
        reason=Reason.QUOTA_EXCEEDED,
        team=asked.team,
        node=verdict.node,
        resource=name,
        limit=limit,
        used=used,
        requested=requested,
    )


def _is_held(one: Reservation) -> bool:
    return one.state is ReservationState.HELD


async def _with_users(
    conn: Connection, reservations: Sequence[Reservation], jobs: Sequence[JobView]
) -> list[Reservation]:
    """Those that were asked for without a user get the job's."""
    users = {job.uid: job.creator.removeprefix("users/") for job in jobs}
    told = {one.uid: replace(one, user=users.get(one.job_uid, "")) for one in reservations if not one.user}
    await reservation_rows.move(conn, [one for one in told.values() if one.user])
    return [told.get(one.uid, one) for one in reservations]


async def _pass_guard(conn: Connection, jobs: Sequence[JobView]) -> list[JobView]:
    ordered = sorted(jobs, key=lambda job: job.uid)
    rows = await conn.fetch(
        "INSERT INTO job_revisions AS seen (job_uid, revision) SELECT * FROM unnest($1::text[], $2::bigint[])"
        " ON CONFLICT (job_uid) DO UPDATE SET revision = excluded.revision"
        " WHERE seen.revision <= excluded.revision RETURNING job_uid",
        [job.uid for job in ordered],
        [job.revision for job in ordered],
    )
    passed = {row["job_uid"] for row in rows}
    return [job for job in ordered if job.uid in passed]


async def _insert_entries(conn: Connection, entries: Sequence[UsageEntry]) -> None:
    if not entries:
        return
    await conn.execute(
        "INSERT INTO usage_entries (attempt_uid, team, job_uid, creator, start_time, end_time, gpu_millis,"
        " cpu_micros) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],"
        " $5::timestamptz[], $6::timestamptz[], $7::bigint[], $8::bigint[])"
        " ON CONFLICT (attempt_uid) DO NOTHING",
        [one.attempt_uid for one in entries],
        [one.team for one in entries],
        [one.job_uid for one in entries],
        [one.creator for one in entries],
        [one.start_time for one in entries],
        [one.end_time for one in entries],
        [one.gpu_millis for one in entries],
        [one.cpu_micros for one in entries],
    )


async def _entries_of(conn: Connection, job_uids: Sequence[str]) -> list[UsageEntry]:
    rows = await conn.fetch(SELECT_ENTRIES + " WHERE job_uid = ANY($1)", list(job_uids))
    return [UsageEntry(**dict(row)) for row in rows]


def _time(value: object) -> datetime:
    assert isinstance(value, datetime)
    return value
