"""SQL of the reservations, set by set, in somebody else's transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from cairn_common.db import Connection, Row
from cairn_quota.model import Amounts, Reservation, ReservationState
from cairn_quota.tree import UNIT

COLUMNS = (
    "team, id, uid, job_uid, admission, gpus, cpu_milli, jobs, state, create_time, ask_time, end_time, node,"
    " flavor, resources::text AS resources, usr, project, price, max_runtime, priority_class"
)
SELECT = f"SELECT {COLUMNS} FROM reservations"  # noqa: S608


def reservation(row: Row) -> Reservation:
    """A reservation by its row."""
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
        node=row["node"],
        flavor=row["flavor"],
        resources=json.loads(row["resources"]),
        user=row["usr"],
        project=row["project"],
        price=row["price"],
        max_runtime=row["max_runtime"],
        priority_class=row["priority_class"],
    )


def amounts_of(resources: Mapping[str, int]) -> Amounts:
    """What of a hold a team's limits speak of; parts of a GPU or of a job count as a whole one."""
    return Amounts(
        gpus=-(-resources.get("gpu", 0) // UNIT),
        cpu_milli=resources.get("cpu", 0),
        jobs=-(-resources.get("jobs", 0) // UNIT),
    )


def resources_of(amounts: Amounts) -> dict[str, int]:
    """The same amounts by resource, in thousandths."""
    found = {"gpu": amounts.gpus * UNIT, "cpu": amounts.cpu_milli, "jobs": amounts.jobs * UNIT}
    return {name: amount for name, amount in found.items() if amount}


async def of_jobs(conn: Connection, job_uids: Sequence[str]) -> list[Reservation]:
    """All reservations of jobs, ended ones too."""
    rows = await conn.fetch(SELECT + " WHERE job_uid = ANY($1::text[])", list(job_uids))
    return [reservation(row) for row in rows]


async def by_name(conn: Connection, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Reservation]:
    """Reservations by team and id."""
    rows = await conn.fetch(
        SELECT + " WHERE (team, id) IN (SELECT * FROM unnest($1::text[], $2::text[]))",  # noqa: S608
        [team for team, _ in names],
        [id for _, id in names],
    )
    return {(row["team"], row["id"]): reservation(row) for row in rows}


async def attempted(conn: Connection, job_uids: Sequence[str]) -> set[str]:
    """Those of the jobs that an attempt of was charged."""
    rows = await conn.fetch(
        "SELECT DISTINCT job_uid FROM reservations JOIN meters ON meters.reservation_uid = reservations.uid"
        " WHERE job_uid = ANY($1::text[])",
        list(job_uids),
    )
    return {row["job_uid"] for row in rows}


async def insert(conn: Connection, made: Sequence[Reservation]) -> None:
    """Writes new reservations, and counts them as held by their teams."""
    if not made:
        return
    await conn.execute(
        "INSERT INTO reservations (team, id, uid, job_uid, admission, gpus, cpu_milli, jobs, state,"
        " create_time, ask_time, node, flavor, resources, usr, project, price, max_runtime, priority_class)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::bigint[],"
        " $7::bigint[], $8::bigint[], $9::smallint[], $10::timestamptz[], $11::timestamptz[], $12::text[],"
        " $13::text[], $14::jsonb[], $15::text[], $16::text[], $17::bigint[], $18::bigint[], $19::text[])",
        [one.team for one in made],
        [one.id for one in made],
        [one.uid for one in made],
        [one.job_uid for one in made],
        [one.admission for one in made],
        [one.amounts.gpus for one in made],
        [one.amounts.cpu_milli for one in made],
        [one.amounts.jobs for one in made],
        [int(one.state) for one in made],
        [one.create_time for one in made],
        [one.ask_time for one in made],
        [one.node for one in made],
        [one.flavor for one in made],
        [json.dumps(dict(one.resources)) for one in made],
        [one.user for one in made],
        [one.project for one in made],
        [one.price for one in made],
        [one.max_runtime for one in made],
        [one.priority_class for one in made],
    )
    await _add_held(conn, made, sign=1)


async def end(conn: Connection, ended: Sequence[Reservation], *, freed: Iterable[Reservation]) -> None:
    """Writes states and end times; `freed`: those of them that were held until now."""
    if not ended:
        return
    await conn.execute(
        "UPDATE reservations SET state = after.state, end_time = after.end_time FROM unnest($1::text[],"
        " $2::smallint[], $3::timestamptz[]) AS after (uid, state, end_time)"
        " WHERE reservations.uid = after.uid",
        [one.uid for one in ended],
        [int(one.state) for one in ended],
        [one.end_time for one in ended],
    )
    await _add_held(conn, list(freed), sign=-1)


async def move(conn: Connection, moved: Sequence[Reservation]) -> None:
    """Writes nodes and users."""
    if moved:
        await conn.execute(
            "UPDATE reservations SET node = after.node, usr = after.usr FROM unnest($1::text[], $2::text[],"
            " $3::text[]) AS after (uid, node, usr) WHERE reservations.uid = after.uid",
            [one.uid for one in moved],
            [one.node for one in moved],
            [one.user for one in moved],
        )


async def _add_held(conn: Connection, changed: Sequence[Reservation], *, sign: int) -> None:
    sums: dict[str, Amounts] = {}
    for one in changed:
        sums[one.team] = sums.get(one.team, Amounts()) + one.amounts
    if sums:
        await conn.execute(
            "UPDATE limits SET held_gpus = held_gpus + $2 * more.gpus, held_cpu_milli = held_cpu_milli"
            " + $2 * more.cpu_milli, held_jobs = held_jobs + $2 * more.jobs FROM unnest($1::text[],"
            " $3::bigint[], $4::bigint[], $5::bigint[]) AS more (team, gpus, cpu_milli, jobs)"
            " WHERE limits.team = more.team",
            list(sums),
            sign,
            [one.gpus for one in sums.values()],
            [one.cpu_milli for one in sums.values()],
            [one.jobs for one in sums.values()],
        )
