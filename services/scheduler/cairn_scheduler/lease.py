"""Which of several schedulers decides: a lease in PostgreSQL, with an epoch that every write of it carries.

Whoever decides gives a sign of life twice a second. After two seconds without one, or at once where its
process is seen to be gone, another takes over: it cuts the old one's connections and writes the next epoch.
A scheduler that was only paused wakes up to find that its writes are refused (`Fenced`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import structlog

from cairn_common.cancellation import heed_cancellation
from cairn_common.db import Connection, Database, Row
from cairn_common.errors import Unavailable
from cairn_common.ids import new_uid
from cairn_scheduler import processes

log = structlog.get_logger(__name__)

_BEAT_SECONDS = 0.5
_LEASE_SECONDS = 2.0

LEAD = "SELECT FROM lease WHERE epoch = $1 FOR SHARE"
"""One row for who decides, and until its transaction has ended for nobody else."""


class Fenced(Exception):
    """Another scheduler decides now; nothing was written."""


class Lead:
    """The right to decide, under one epoch, for as long as nobody else has taken it."""

    def __init__(self, db: Database, epoch: int) -> None:
        self.epoch = epoch
        self._db = db
        self._sure_until = time.monotonic() + _LEASE_SECONDS

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction that commits only while nobody else decides. Raises Fenced, Unavailable."""
        async with self._db.transaction() as conn:
            if await conn.fetchrow(LEAD, self.epoch) is None:
                raise Fenced
            yield conn

    async def fetchrow(self, query: str, *args: Any) -> Row:
        """One statement that is such a transaction by itself: it takes `LEAD`, whose epoch is its first
        argument, writes nothing without, and tells as `led` whether it had it. Raises as `transaction`."""
        row = await self._db.fetchrow(query, self.epoch, *args)
        if row is None or not row["led"]:
            raise Fenced
        return row

    async def execute(self, query: str, *args: Any) -> str:
        """One statement in such a transaction."""
        async with self.transaction() as conn:
            return await conn.execute(query, *args)

    async def check(self) -> None:
        """Before something is done outside of the database. Raises Fenced where another may decide."""
        if time.monotonic() >= self._sure_until:
            await self.beat()

    async def beat(self) -> None:
        """A sign of life. Raises Fenced, Unavailable."""
        asked = time.monotonic()
        tag = await self._db.execute(
            "UPDATE lease_beat SET beat_time = clock_timestamp() WHERE epoch = $1", self.epoch
        )
        if tag != "UPDATE 1":
            raise Fenced
        self._sure_until = asked + _LEASE_SECONDS

    async def keep(self) -> NoReturn:
        """Signs of life for ever. Raises Fenced."""
        while True:
            heed_cancellation()
            try:
                await self.beat()
            except Unavailable as error:
                log.warning("lease.waiting", error=error.message)
            await asyncio.sleep(_BEAT_SECONDS)

    async def give_up(self) -> None:
        """Lets the next one take over at once."""
        await self._db.execute("UPDATE lease_beat SET beat_time = '-infinity' WHERE epoch = $1", self.epoch)


def new_holder() -> str:
    """A name for this process: its connections bear it, so that who takes over can end them."""
    return f"cairn-scheduler-{new_uid()}"


@asynccontextmanager
async def held(
    db: Database, holder: str, *, waiting: Callable[[], None] = lambda: None
) -> AsyncIterator[Lead]:
    """Waits until this process decides; for the block it does, unless `Fenced` is raised in it.

    Calls `waiting` where another decides.
    """
    lead = await _wait(db, holder, waiting)
    log.info("lease.taken", epoch=lead.epoch, holder=holder)
    try:
        yield lead
    finally:
        try:
            async with asyncio.timeout(_LEASE_SECONDS):
                await lead.give_up()
        except (Unavailable, TimeoutError):
            log.warning("lease.not_given_up", epoch=lead.epoch)


async def platform(db: Database) -> str:
    """The id of the platform that this database is of."""
    return str(await db.fetchval("SELECT platform FROM lease"))


async def _wait(db: Database, holder: str, waiting: Callable[[], None]) -> Lead:
    while True:
        heed_cancellation()
        try:
            epoch = await _take(db, holder)
        except Unavailable as error:
            log.warning("lease.waiting", error=error.message)
            epoch = None
        if epoch is not None:
            return Lead(db, epoch)
        waiting()
        await asyncio.sleep(_BEAT_SECONDS)


async def _take(db: Database, holder: str) -> int | None:
    """The new epoch; None: another decides, and lives."""
    row = await db.fetchrow(
        """
        SELECT l.epoch, l.holder, l.place,
            b.beat_time < clock_timestamp() - make_interval(secs => $1) AS over
        FROM lease l, lease_beat b
        """,
        _LEASE_SECONDS,
    )
    assert row is not None
    if not row["over"] and not _gone(row["place"]):
        return None
    # What it had under way ends here, instead of holding the lease's row for as long as it is paused.
    await db.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE $1 <> '' AND application_name = $1 AND application_name <> $2 AND usename = current_user",
        row["holder"],
        holder,
    )
    async with db.transaction() as conn:
        epoch = await conn.fetchval(
            "UPDATE lease SET epoch = epoch + 1, holder = $2, place = $3 WHERE epoch = $1 RETURNING epoch",
            row["epoch"],
            holder,
            _place(),
        )
        if epoch is not None:
            await conn.execute("UPDATE lease_beat SET epoch = $1, beat_time = clock_timestamp()", epoch)
    return None if epoch is None else int(epoch)


def _place() -> str:
    me = processes.look(os.getpid())
    return f"{_here()}:{os.getpid()}:{me.start if me else 0}"


def _gone(place: str) -> bool:
    """Whether that process is seen to be gone; what cannot be seen from here may live."""
    where, _, rest = place.rpartition(":")[0].rpartition(":")
    if not where or where != _here():
        return False
    found = processes.look(int(rest))
    return found is None or str(found.start) != place.rpartition(":")[2]


def _here() -> str:
    return f"{processes.boot()}:{os.stat('/proc/self/ns/pid').st_ino}"
