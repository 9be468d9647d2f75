"""Brings points that were answered for to where all points are.

A call that logs is answered once PostgreSQL has its points; here they go on to ClickHouse, many calls at a
time. Who asks for a metric's points has them brought there first, so that everybody reads what they wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final, NoReturn

import structlog

from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import Unavailable
from cairn_tracker import points, rollups, wire
from cairn_tracker.batch import MetricKey, RunKey
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.mlflow import columns
from cairn_tracker.model import Summary
from cairn_tracker.store import expiry, ingested, pending, runs

log = structlog.get_logger(__name__)

# What comes meanwhile goes together.
_REST_SECONDS: Final = 0.7
# Another tracker may have left some behind.
_LOOK_SECONDS: Final = 10.0


class Pending:
    """The way from the one store to the other; one at a time."""

    def __init__(self, *, db: Database, store: ClickHouse, clock: Clock, writing: asyncio.Lock) -> None:
        """`writing` is held by whoever works out what metrics come to."""
        self._db = db
        self._store = store
        self._clock = clock
        self._writing = writing
        self._waiting = asyncio.Event()

    def note(self) -> None:
        """There is something to bring."""
        self._waiting.set()

    async def keep_going(self) -> NoReturn:
        """Brings what there is, for as long as the process runs."""
        while True:
            try:
                while await self._bring(None):
                    pass
            except Unavailable as error:
                log.warning("pending.waiting", error=error.message)
                await asyncio.sleep(1.0)
                continue
            try:
                await asyncio.wait_for(self._waiting.wait(), _LOOK_SECONDS)
            except TimeoutError:
                pass
            await asyncio.sleep(_REST_SECONDS)
            self._waiting.clear()

    async def settle(self, keys: Sequence[RunKey]) -> None:
        """On return all points that these runs had are there to be read. Raises Unavailable."""
        while await self._bring(keys):
            pass

    async def _bring(self, keys: Sequence[RunKey] | None) -> bool:
        """Whether there was anything."""
        async with self._writing:
            calls = await pending.some(self._db, keys)
            if not calls:
                return False
            found = columns.points(calls)
            known = await ingested.summaries(self._db, found.metrics)
            await points.add(self._store, found)
            summaries = await rollups.keep(
                self._store, found, known, thinned=partial(expiry.thinned, self._db)
            )
            now = self._clock.now()
            by_run: dict[RunKey, dict[str, Summary]] = {}
            for metric, value in summaries.items():
                by_run.setdefault(_run(metric), {})[metric.key] = value
            async with self._db.transaction() as conn:
                await runs.see(conn, dict.fromkeys(sorted(by_run), now))
                await ingested.set_summaries(conn, summaries)
                await pending.remove(conn, calls)
                await wire.tell_progressed(conn, by_run, lines=(), media=(), now=now)
        return True


def _run(metric: MetricKey) -> RunKey:
    return RunKey(metric.team, metric.run)
