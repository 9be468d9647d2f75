"""Cancellations that get lost on the way."""

from __future__ import annotations

import asyncio


def heed_cancellation() -> None:
    """Raises CancelledError where this task was cancelled and what it awaited has kept that to itself.

    `asyncio.wait_for` of Python 3.11, which nats-py and asyncpg wait with, does so when its answer comes in
    the same moment as the cancellation; a loop that goes on then would never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
