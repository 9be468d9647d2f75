"""Charges running attempts while they run, so that budgets run down with them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Never

import structlog

from cairn_common.clock import Clock
from cairn_common.errors import Unavailable
from cairn_quota.store import Store

EVERY = 15.0
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Meter:
    """A round each 15 s; what a round missed, the next one makes up for."""

    store: Store
    clock: Clock

    async def run(self) -> Never:
        """Rounds for ever; a database that is away is waited for."""
        while True:
            try:
                await self.store.tick(now=self.clock.now())
            except Unavailable as error:
                log.info("meter.skipped", reason=str(error.reason))
            await asyncio.sleep(EVERY)
