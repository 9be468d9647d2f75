"""A plain connection to NATS for what is not a stream: the auth callout and the system account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
import structlog
from nats.aio.client import Client

RECONNECT_WAIT = 0.5
"""Seconds between two tries: while the callout is away nobody without a key gets in."""
log = structlog.get_logger()


@asynccontextmanager
async def connection(url: str, *, seed: str, name: str) -> AsyncIterator[Client]:
    """A connection that comes back by itself, for ever; waits for the server at the start."""

    async def on_error(error: Exception) -> None:
        log.debug("nats.error", connection=name, error=repr(error))

    async def on_disconnect() -> None:
        log.warning("nats.disconnected", connection=name)

    async def on_reconnect() -> None:
        log.info("nats.reconnected", connection=name)

    client = await nats.connect(
        url,
        name=name,
        nkeys_seed_str=seed,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT,
        connect_timeout=2,
        ping_interval=20,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
    )
    try:
        yield client
    finally:
        await client.close()
