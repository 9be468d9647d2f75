"""The transactional outbox: a fact commits with the change that it tells, and is published after."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NoReturn

import asyncpg
import structlog

from cairn_common import subjects, trace
from cairn_common.bus import Bus
from cairn_common.cancellation import heed_cancellation
from cairn_common.db import Connection, Database
from cairn_common.errors import Unavailable
from cairn_common.ids import new_uid
from cairn_common.rpc import origin

log = structlog.get_logger(__name__)

_BATCH = 256
_AT_ONCE = 32
_LARGEST = 900_000
_FALLBACK_SECONDS = 10.0
_REST_SECONDS = 0.01


async def add(conn: Connection, *, subject: str, payload: bytes, id: str | None = None) -> str:
    """Writes a fact in the transaction of `conn`; returns its id, which becomes the Nats-Msg-Id.

    Call it after the row that the fact is about was changed: that row's lock is what keeps the facts of
    one thing in order. Raises ValueError for a subject that is not ours, or more than 900,000 bytes.
    """
    subjects.parse(subject)
    if len(payload) > _LARGEST:
        raise ValueError(f"a fact of {len(payload):,} bytes: the bus takes at most {_LARGEST:,}")
    made = id or new_uid()
    await conn.execute(
        "INSERT INTO outbox (id, subject, payload, trace, address) VALUES ($1, $2, $3, $4, $5)",
        made,
        subject,
        payload,
        trace.parent(),
        origin().address,
    )
    return made


async def add_many(conn: Connection, added: Sequence[tuple[str, bytes, str]]) -> None:
    """As `add`, for many facts (subject, payload, id) in one statement, in this order."""
    await conn.execute(
        "INSERT INTO outbox (id, subject, payload, trace, address)"
        " SELECT *, $4, $5 FROM unnest($1::text[], $2::text[], $3::bytea[])",
        *columns(added),
        origin().address,
    )


def columns(added: Sequence[tuple[str, bytes, str]]) -> tuple[list[str], list[str], list[bytes], str]:
    """Ids, subjects and payloads of facts (subject, payload, id), and their trace: for statements that write
    them into `outbox` with what they tell. Raises ValueError as `add`."""
    for subject, payload, _ in added:
        subjects.parse(subject)
        if len(payload) > _LARGEST:
            raise ValueError(f"a fact of {len(payload):,} bytes: the bus takes at most {_LARGEST:,}")
    return (
        [id for _, _, id in added],
        [subject for subject, _, _ in added],
        [payload for _, payload, _ in added],
        trace.parent(),
    )


async def relay(db: Database, bus: Bus, *, wake: asyncio.Event | None = None) -> NoReturn:
    """Publishes the outbox for ever: each fact at least once, those of one uid in order.

    One relay works per schema, held by an advisory lock; others wait for it. It wakes on the insert's
    NOTIFY, on `wake`, and every 10 s in any case. It waits out a database or a bus that is away.
    """
    pause = 0.0
    while True:
        heed_cancellation()
        try:
            async with db.dedicated() as connection:
                await _hold(connection, db, bus, wake or asyncio.Event())
        except Unavailable as error:
            pause = min(max(pause * 2, 0.1), 2.0)
            log.warning("outbox.waiting", reason=str(error.reason), cause=error.metadata.get("cause", ""))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
        else:
            pause = 0.0


async def _hold(
    connection: asyncpg.Connection[asyncpg.Record], db: Database, bus: Bus, wake: asyncio.Event
) -> None:
    """Relays while this connection, and with it the lock, lasts."""
    await connection.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", f"cairn.outbox.{db.schema}")
    connection.add_termination_listener(lambda _: wake.set())
    await connection.add_listener(f"outbox_{db.schema}", lambda *_: wake.set())
    log.info("outbox.relaying", schema=db.schema)
    while not connection.is_closed():
        heed_cancellation()
        wake.clear()
        while await _publish_some(db, bus) == _BATCH:
            pass
        # What comes close after goes together: each batch costs the bus and the database about as much as
        # ten facts do.
        await asyncio.sleep(_REST_SECONDS)
        try:
            async with asyncio.timeout(_FALLBACK_SECONDS):
                await wake.wait()
        except TimeoutError:
            pass


async def _publish_some(db: Database, bus: Bus) -> int:
    rows = await db.fetch(
        "SELECT seq, id, subject, payload, trace, address FROM outbox ORDER BY seq LIMIT $1", _BATCH
    )
    done: list[int] = []
    try:
        await _publish(bus, rows, done)
    finally:
        if done:
            await db.execute("DELETE FROM outbox WHERE seq = ANY($1::bigint[])", done)
    return len(rows)


async def _publish(bus: Bus, rows: Sequence[asyncpg.Record], done: list[int]) -> None:
    """Publishes rows, those of one uid one after the other, and notes the ones that the bus has."""
    facts = [(row["subject"], row["payload"], row["id"]) for row in rows]
    traces = [row["trace"] for row in rows]
    addresses = [row["address"] for row in rows]
    if _is_batch(rows) and await bus.publish_together(facts, traces=traces, addresses=addresses):
        done += [row["seq"] for row in rows]
        return
    lanes: dict[str, list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        lanes[row["subject"].rpartition(".")[2]].append(row)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def publish_lane(lane: Iterable[asyncpg.Record]) -> None:
        async with gate:
            for row in lane:
                await bus.publish(
                    row["subject"], row["payload"], msg_id=row["id"], trace=row["trace"],
                    address=row["address"],
                )  # fmt: skip
                done.append(row["seq"])

    ends = await asyncio.gather(*(publish_lane(lane) for lane in lanes.values()), return_exceptions=True)
    for end in ends:
        if end is not None:
            raise end


def _is_batch(rows: Sequence[asyncpg.Record]) -> bool:
    """Whether to send them at once. The bus writes those of a batch twice, so they must be small."""
    return len(rows) > 1 and sum(len(row["payload"]) for row in rows) <= _LARGEST
