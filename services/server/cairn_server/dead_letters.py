"""Messages that a consumer could not apply: read them, and tell them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
from nats.errors import Error as NatsError

from cairn_common.bus import BusClient, address
from cairn_server.backends.program import SetupError

_TIMEOUT = 30.0
# The schema's name is one of ours; a parameter cannot stand there.
_LIST = (
    "SELECT consumer, stream, sequence, subject, msg_id, error, tries, create_time"
    " FROM {service}.dead_letters ORDER BY create_time"
)
_ERRORS = (asyncpg.PostgresError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message of one consumer. `id` names it for `replay`."""

    service: str
    consumer: str
    stream: str
    sequence: int
    subject: str
    msg_id: str
    error: str
    tries: int
    create_time: datetime

    @property
    def id(self) -> str:
        """consumer/stream/sequence."""
        return f"{self.consumer}/{self.stream}/{self.sequence}"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "id": self.id,
            "service": self.service,
            "subject": self.subject,
            "error": self.error,
            "tries": self.tries,
            "create_time": self.create_time.isoformat(),
        }


async def find(urls: Mapping[str, str], *, ids: tuple[str, ...] = ()) -> list[DeadLetter]:
    """The dead letters of all services (`urls` by service), oldest first; of `ids` only where given."""
    found: list[DeadLetter] = []
    for service, url in urls.items():
        connection = await _connect(url)
        try:
            if await connection.fetchval("SELECT to_regclass($1)", f"{service}.dead_letters"):
                rows = await connection.fetch(_LIST.format(service=service))
                found += [DeadLetter(service=service, **dict(row)) for row in rows]
        finally:
            await connection.close(timeout=5)
    return [letter for letter in found if not ids or letter.id in ids]


async def replay(letter: DeadLetter, *, postgres_url: str, nats_url: str, seed: str) -> bool:
    """Publishes the message again under its own id and then forgets the letter.

    False where the bus still remembers that id (for two minutes) and so did not take it: the letter stays.
    Every consumer hears it again, and those that have applied it know it by its id.
    """
    connection = await _connect(postgres_url)
    try:
        key = (letter.consumer, letter.stream, letter.sequence)
        where = f"{letter.service}.dead_letters WHERE consumer = $1 AND stream = $2 AND sequence = $3"
        payload = await connection.fetchval(f"SELECT payload FROM {where}", *key)  # noqa: S608
        if payload is None:
            raise SetupError(f"{letter.id} is not there any more")
        if not await _publish(letter, payload, url=nats_url, seed=seed):
            return False
        await connection.execute(f"DELETE FROM {where}", *key)  # noqa: S608
        return True
    finally:
        await connection.close(timeout=5)


async def _publish(letter: DeadLetter, payload: bytes, *, url: str, seed: str) -> bool:
    bus = BusClient()
    try:
        await bus.connect(
            **address(url),
            nkeys_seed_str=seed,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            connect_timeout=5,
        )
        headers = {"Nats-Msg-Id": letter.msg_id} if letter.msg_id else None
        ack = await bus.jetstream(timeout=5).publish(letter.subject, payload, headers=headers)
    except (NatsError, OSError, TimeoutError) as error:
        raise SetupError(f"the bus at {url} did not take {letter.id}: {error!r}") from error
    finally:
        await bus.close()
    return not ack.duplicate


async def _connect(url: str) -> asyncpg.Connection[asyncpg.Record]:
    try:
        return await asyncpg.connect(url, timeout=_TIMEOUT)
    except _ERRORS as error:
        raise SetupError(f"the database does not answer ({error}); is Cairn up?") from error
