"""A plain connection to NATS for what is not a stream: the auth callout and the system account."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
from nats.aio.client import Client

from cairn_common.bus import BusClient, address

RECONNECT_WAIT = 0.5
"""Seconds between two tries: while the callout is away nobody without a key gets in."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Connection:
    """An open connection, until `closed` is set: some errors end the client for good."""

    client: Client
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def connection(url: str, *, seed: str, name: str) -> AsyncIterator[Connection]:
    """A connection that mostly comes back by itself; waits for the server at the start, for ever."""
    made = Connection(BusClient())

    async def on_error(error: Exception) -> None:
        log.info("nats.error", connection=name, error=repr(error))

    async def on_closed() -> None:
        made.closed.set()

    async def on_disconnect() -> None:
        log.warning("nats.disconnected", connection=name)

    async def on_reconnect() -> None:
        log.info("nats.reconnected", connection=name)

    await made.client.connect(
        **address(url),
        name=name,
        nkeys_seed_str=seed,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]
        connect_timeout=2,
        ping_interval=20,
        error_cb=on_error,
        disconnected_cb=on_disconnect,
        reconnected_cb=on_reconnect,
        closed_cb=on_closed,
    )
    try:
        # nats-py waits with `asyncio.wait_for`, which in Python 3.11 may keep a cancellation to itself.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        yield made
    finally:
        await made.client.close()
