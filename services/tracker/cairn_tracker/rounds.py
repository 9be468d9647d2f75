"""Work that is done again and again beside everything else, and never ends the service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

from cairn_common.errors import Unavailable

log = structlog.get_logger(__name__)


async def every(
    interval: float, work: Callable[[], Awaitable[object]], *, name: str, first: float | None = None
) -> NoReturn:
    """Calls `work` after `first` seconds (by default an interval) and then after each `interval`, for as long
    as the process runs. What it raises is logged: the next round tries again."""
    pause = interval if first is None else first
    while True:
        await asyncio.sleep(pause)
        pause = interval
        try:
            await work()
        except Unavailable as error:
            log.info("round.waiting", work=name, error=error.message)
        except Exception as error:
            log.error("round.failed", work=name, exc_info=error)
