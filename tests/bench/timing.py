"""How long a question takes, asked again and again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable


async def timed(
    ask: Callable[[], Awaitable[object]], times: int, *, bar: float | None = None
) -> dict[str, float | bool]:
    """Its median and 95th percentile, in milliseconds; with a bar also whether the latter is within it.

    Asked three times before that: a connection, a plan and a page are then there.
    """
    for _ in range(3):
        await ask()
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - begin) * 1000)
    taken.sort()
    made: dict[str, float | bool] = {
        "p50_ms": round(taken[times // 2], 1),
        "p95_ms": round(taken[times * 95 // 100], 1),
    }
    if bar is not None:
        made |= {"bar_ms": bar, "holds": taken[times * 95 // 100] <= bar}
    return made
