"""What attempts on SkyPilot cost: asked for as soon as their clusters are up, one question for all."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import structlog

from cairn_scheduler.sky import records
from cairn_scheduler.sky.api import Api
from cairn_scheduler.sky.cluster import SkyCluster
from cairn_scheduler.sky.errors import Away, SkyError

log = structlog.get_logger(__name__)

# Between two questions: the server reads its whole day for an answer.
_PAUSE_SECONDS = 5.0
# Of one that has no catalog, or never lists a cluster, it is asked so often and then rarely.
_MOST_OFTEN = 12
_LATER_SECONDS = 60.0


async def ask_prices(cluster: SkyCluster, api: Api) -> NoReturn:
    """Asks for ever what those cost of which it is not known. That it cannot be said harms nothing else."""
    unanswered = 0
    while True:
        await cluster.came_up.wait()
        cluster.came_up.clear()
        try:
            prices = await api.prices()
        except (Away, SkyError) as error:
            log.warning("sky.no_prices", error=str(error))
            prices, unanswered = {}, _MOST_OFTEN
        for one in list(cluster.watched.values()):
            if one.ended or one.record.phase != records.UP or one.record.price is not None:
                continue
            if one.record.cluster in prices:
                cluster.price(one, prices[one.record.cluster])
            else:
                cluster.came_up.set()
        unanswered = unanswered + 1 if cluster.came_up.is_set() else 0
        await asyncio.sleep(_PAUSE_SECONDS if unanswered < _MOST_OFTEN else _LATER_SECONDS)
