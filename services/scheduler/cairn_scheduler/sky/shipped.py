"""Waits for the last words of an attempt whose command has ended: until then its cluster stays."""

from __future__ import annotations

import asyncio
import time

from cairn_scheduler.sky.ranks import Ranks

# So long after a runner's last word nobody waits for another, and so long after the end in any case: a bus
# that has no room for what was logged is waited for while the runners live. They give up a little earlier.
_DRAIN_SECONDS = 30.0
_LONGEST_DRAIN = 660.0


async def all_shipped(ranks: Ranks, changed: asyncio.Event, *, told: bool) -> bool:
    """Whether all that the ranks logged is on the bus, once that is known or no longer waited for.

    `changed` is set with each of their words. Ranks that never told of an end have nothing more to say;
    `told`: one did, perhaps to an earlier scheduler, and this one has yet to hear it again.
    """
    began = time.monotonic()
    try:
        while (told or ranks.ends) and not ranks.silent:
            latest = min(max(began, ranks.heard) + _DRAIN_SECONDS, began + _LONGEST_DRAIN)
            async with asyncio.timeout(latest - time.monotonic()):
                changed.clear()
                await changed.wait()
    except TimeoutError:
        return False
    return True
