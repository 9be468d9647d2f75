"""Facts about a platform, awaited."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cairn.client import Client


def until(fact: Callable[[], Any], seconds: float) -> Any:
    """Waits for something to become true and returns it. Raises AssertionError where it does not."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.3)
    return found


def ended(client: Client, uid: str, seconds: float) -> dict[str, Any]:
    """A job once it has ended."""

    def final() -> dict[str, Any] | None:
        job = client.job(uid)
        return job if job.get("end_time") else None

    return dict(until(final, seconds))
