"""Work that the tracker does in rounds."""

from __future__ import annotations

import asyncio

from cairn_tracker.rounds import every


async def test_the_first_round_need_not_wait_for_an_interval_and_a_failed_one_ends_nothing() -> None:
    tried = asyncio.Queue[int]()

    async def work() -> None:
        await tried.put(1)
        raise RuntimeError("the disk is gone")

    for interval, first in ((3600.0, 0.0), (0.01, None), (0.01, 0.0)):
        rounds = asyncio.create_task(every(interval, work, name="test", first=first))
        async with asyncio.timeout(10):
            for _ in range(1 if interval > 1 else 3):
                await tried.get()
        assert not rounds.done()
        rounds.cancel()
