"""Work that is done again and again beside everything else, and never ends the service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from cairn_common.errors import Unavailable

log = structlog.get_logger(__name__)


async def every(
    interval: float, work: Callable[[], Awaitable[object]], *, name: str, first: float = 0.0
) -> NoReturn:
    """Calls `work` after each `interval` seconds, and not in the `first` ones, for as long as the process
    runs. What it raises is logged: the next round tries again."""
    await asyncio.sleep(first)
    while True:
        await asyncio.sleep(interval)
        try:
            await work()
        except Unavailable as error:
            log.info("round.waiting", work=name, error=error.message)
        except Exception as error:
            log.error("round.failed", work=name, exc_info=error)
