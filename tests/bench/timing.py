"""How long a question takes, asked again and again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable


async def timed(ask: Callable[[], Awaitable[object]], times: int) -> dict[str, float]:
    """Its median and 95th percentile, in milliseconds."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - begin) * 1000)
    taken.sort()
    return {"p50_ms": round(taken[times // 2], 1), "p95_ms": round(taken[times * 95 // 100], 1)}
