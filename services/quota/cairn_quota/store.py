"""All SQL about reservations and usage. Each public method is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cairn_common.db import Connection, Database, Row
from cairn_common.errors import FailedPrecondition, InvalidArgument, NotFound, Reason, ResourceExhausted
from cairn_quota import facts, ledger
from cairn_quota.model import Amounts, JobView, Limits, Reservation, ReservationState, Usage, UsageEntry
from cairn_quota.team_store import held_of, limits_of, team_not_found

SELECT_RESERVATIONS = (
    "SELECT team, id, uid, job_uid, admission, gpus, cpu_milli, jobs, state, create_time, ask_time, end_time"
    " FROM reservations"
)
SELECT_ENTRIES = (
    "SELECT attempt_uid, team, job_uid, creator, start_time, end_time, gpu_millis, cpu_micros"
    " FROM usage_entries"
)


UNITS = {"gpus": "GPUs", "cpu_milli": "thousandths of a CPU core", "jobs": "jobs"}


class Store:
    """What teams hold and used."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def reserve(self, asked: Reservation, *, actor: str) -> Reservation:
        """Holds `asked`, whole or not at all; the same id again returns what is held.

        Raises NotFound/TEAM_NOT_FOUND, ResourceExhausted/QUOTA_EXCEEDED,
        FailedPrecondition/RESERVATION_ENDED, InvalidArgument/REQUEST_ID_REUSED (other amounts under this id).
        """
        async with self._db.transaction() as conn:
            # The lock first: whoever holds it sees every hold that was committed before.
            row = await conn.fetchrow(
                "SELECT gpus, cpu_milli, jobs, held_gpus, held_cpu_milli, held_jobs"
                " FROM limits WHERE team = $1 FOR UPDATE",
                asked.team,
            )
            if row is None:
                raise team_not_found(asked.team)
            again = await _ask_again(conn, asked)
            if again is not None:
                return again
            _check_fits(asked, limits=limits_of(row), held=held_of(row))
            await _insert_reservation(conn, asked)
            await _add_held(conn, asked.team, asked.amounts)
            await facts.tell_reservation(conn, asked, actor=actor, now=asked.create_time)
        return asked

    async def release(self, team: str, reservation_id: str, *, actor: str, now: datetime) -> Reservation:
        """Ends a hold; one that has ended stays as it is. Raises NotFound/RESERVATION_NOT_FOUND."""
        async with self._db.transaction() as conn:
            await conn.execute("SELECT team FROM limits WHERE team = $1 FOR UPDATE", team)
            row = await conn.fetchrow(
                SELECT_RESERVATIONS + " WHERE team = $1 AND id = $2",
                team,
                reservation_id,
            )
            if row is None:
                raise NotFound(
                    f"There is no reservation {reservation_id!r} in the team {team!r}.",
                    reason=Reason.RESERVATION_NOT_FOUND,
                    reservation=reservation_id,
                )
            reservation = _reservation(row)
            if reservation.state is not ReservationState.HELD:
                return reservation
            siblings = await _reservations_of(conn, [reservation.job_uid])
            entries = await _entries_of(conn, [reservation.job_uid])
            used = ledger.is_used(reservation, siblings=siblings, entries=entries)
            ended = ledger.ended(reservation, used=used, now=now)
            await _apply(conn, before=[reservation], after=[ended], actor=actor, now=now)
        return ended

    async def abandon(self, reservation: Reservation, *, actor: str, now: datetime) -> bool:
        """Ends a hold that nobody will come back for, unless it was asked for again since it was read."""
        async with self._db.transaction() as conn:
            await conn.execute("SELECT team FROM limits WHERE team = $1 FOR UPDATE", reservation.team)
            row = await conn.fetchrow(
                SELECT_RESERVATIONS + " WHERE uid = $1 AND state = 1 AND ask_time = $2",
                reservation.uid,
                reservation.ask_time,
            )
            if row is None:
                return False
            siblings = await _reservations_of(conn, [reservation.job_uid])
            entries = await _entries_of(conn, [reservation.job_uid])
            used = ledger.is_used(reservation, siblings=siblings, entries=entries)
            ended = ledger.ended(reservation, used=used, now=now)
            await _apply(conn, before=[reservation], after=[ended], actor=actor, now=now)
        return True

    async def reservations(
        self, team: str | None, *, held_only: bool, before: str | None, size: int
    ) -> list[Reservation]:
        """Newest first, of one team or (None) of all, from behind the uid `before`."""
        rows = await self._db.fetch(
            SELECT_RESERVATIONS + " WHERE ($1::text IS NULL OR team = $1) AND (NOT $2 OR state = 1)"
            " AND ($3::text IS NULL OR uid < $3) ORDER BY uid DESC LIMIT $4",
            team,
            held_only,
            before,
            size,
        )
        return [_reservation(row) for row in rows]

    # --- what the scheduler tells ---

    async def settle(self, jobs: Sequence[JobView], *, actor: str, now: datetime) -> int:
        """Meters and settles by these versions of jobs, each job at most once in `jobs`.

        A version older than one acted on before changes nothing, the same one again neither. Returns how
        many reservations changed.
        """
        async with self._db.transaction() as conn:
            fresh = await _pass_guard(conn, jobs)
            if not fresh:
                return 0
            await _insert_entries(conn, [entry for job in fresh for entry in ledger.metered(job)])
            uids = [job.uid for job in fresh]
            teams = await conn.fetch("SELECT DISTINCT team FROM reservations WHERE job_uid = ANY($1)", uids)
            # In the order of their names, so that two who settle never wait for each other in a ring.
            await conn.execute(
                "SELECT team FROM limits WHERE team = ANY($1) ORDER BY team FOR UPDATE",
                [row["team"] for row in teams],
            )
            before = await _reservations_of(conn, uids)
            entries = await _entries_of(conn, uids)
            after = [
                changed
                for job in fresh
                for changed in ledger.settle(
                    job,
                    reservations=[one for one in before if (one.job_uid, one.team) == (job.uid, job.team)],
                    entries=[one for one in entries if one.job_uid == job.uid],
                    now=now,
                )
            ]
            await _apply(conn, before=before, after=after, actor=actor, now=now)
        return len(after)

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


async def _ask_again(conn: Connection, asked: Reservation) -> Reservation | None:
    row = await conn.fetchrow(
        "UPDATE reservations SET ask_time = greatest(ask_time, $3) WHERE team = $1 AND id = $2"
        " RETURNING team, id, uid, job_uid, admission, gpus, cpu_milli, jobs, state, create_time, ask_time,"
        " end_time",
        asked.team,
        asked.id,
        asked.ask_time,
    )
    if row is None:
        return None
    found = _reservation(row)
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


def _check_fits(asked: Reservation, *, limits: Limits, held: Amounts) -> None:
    over = ledger.excess(limits, held=held, asked=asked.amounts)
    if over is None:
        return
    cure = (
        "ask for less, or have a team admin raise the limit"
        if over.requested > over.limit
        else "wait until some of it is free, or have a team admin raise the limit"
    )
    raise ResourceExhausted(
        f"Asked for {over.requested} {UNITS[over.resource]}; the team {asked.team!r} may hold {over.limit}"
        f" at a time and holds {over.used}. To go on, {cure}.",
        reason=Reason.QUOTA_EXCEEDED,
        team=asked.team,
        resource=over.resource,
        limit=str(over.limit),
        used=str(over.used),
        requested=str(over.requested),
    )


async def _insert_reservation(conn: Connection, one: Reservation) -> None:
    await conn.execute(
        "INSERT INTO reservations (team, id, uid, job_uid, admission, gpus, cpu_milli, jobs, state,"
        " create_time, ask_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        one.team,
        one.id,
        one.uid,
        one.job_uid,
        one.admission,
        one.amounts.gpus,
        one.amounts.cpu_milli,
        one.amounts.jobs,
        int(one.state),
        one.create_time,
        one.ask_time,
    )


async def _add_held(conn: Connection, team: str, amounts: Amounts) -> None:
    await conn.execute(
        "UPDATE limits SET held_gpus = held_gpus + $2, held_cpu_milli = held_cpu_milli + $3,"
        " held_jobs = held_jobs + $4 WHERE team = $1",
        team,
        amounts.gpus,
        amounts.cpu_milli,
        amounts.jobs,
    )


async def _apply(
    conn: Connection,
    *,
    before: Sequence[Reservation],
    after: Sequence[Reservation],
    actor: str,
    now: datetime,
) -> None:
    """Writes changed reservations, gives back what they held, and tells of each. The limits are locked."""
    await conn.executemany(
        "UPDATE reservations SET state = $2, end_time = $3 WHERE uid = $1",
        [(one.uid, int(one.state), one.end_time) for one in after],
    )
    for team, amounts in ledger.freed(before, after).items():
        await _add_held(conn, team, Amounts() - amounts)
    for one in after:
        await facts.tell_reservation(conn, one, actor=actor, now=now)


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
    await conn.executemany(
        "INSERT INTO usage_entries (attempt_uid, team, job_uid, creator, start_time, end_time, gpu_millis,"
        " cpu_micros) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (attempt_uid) DO NOTHING",
        [
            (
                one.attempt_uid,
                one.team,
                one.job_uid,
                one.creator,
                one.start_time,
                one.end_time,
                one.gpu_millis,
                one.cpu_micros,
            )
            for one in entries
        ],
    )


async def _reservations_of(conn: Connection, job_uids: Sequence[str]) -> list[Reservation]:
    rows = await conn.fetch(SELECT_RESERVATIONS + " WHERE job_uid = ANY($1)", list(job_uids))
    return [_reservation(row) for row in rows]


async def _entries_of(conn: Connection, job_uids: Sequence[str]) -> list[UsageEntry]:
    rows = await conn.fetch(SELECT_ENTRIES + " WHERE job_uid = ANY($1)", list(job_uids))
    return [UsageEntry(**dict(row)) for row in rows]


def _time(value: object) -> datetime:
    assert isinstance(value, datetime)
    return value


def _reservation(row: Row) -> Reservation:
    return Reservation(
        team=row["team"],
        id=row["id"],
        uid=row["uid"],
        job_uid=row["job_uid"],
        admission=row["admission"],
        amounts=Amounts(gpus=row["gpus"], cpu_milli=row["cpu_milli"], jobs=row["jobs"]),
        state=ReservationState(row["state"]),
        create_time=row["create_time"],
        ask_time=row["ask_time"],
        end_time=row["end_time"],
    )
