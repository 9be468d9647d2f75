"""Tasks that end together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def until_one_ends(*works: Coroutine[Any, Any, object]) -> None:
    """Runs these together until one of them ends, and ends the others; raises what one of them raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if errors:
        raise errors[0]


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks, and returns once all of them are over."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        # Again where it had no effect: `asyncio.wait_for` of Python 3.11 loses a cancellation that comes in
        # the moment in which what it waits for is done.
        _, pending = await asyncio.wait(pending, timeout=0.2)
