"""PostgreSQL: a small pool that waits for the server, and errors that say when it is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy
from pydantic import SecretStr

from cairn_common.errors import InvalidArgument, Reason, Unavailable

log = structlog.get_logger(__name__)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"
Row: TypeAlias = asyncpg.Record
T = TypeVar("T")

#: The database is away, or gave this statement up; the same work can succeed later. `InterfaceError` is
#: also what asyncpg raises for mistakes in our calls, so it counts only when it speaks of a closed
#: connection: see `is_transient`.
TRANSIENT: tuple[type[BaseException], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    OSError,
)

# The database, and the transaction of `Database.whole` that the task is in.
_joined: ContextVar[tuple[Database, Connection] | None] = ContextVar("cairn_joined", default=None)

_WAIT_AT_START = 60.0
_ACQUIRE_TIMEOUT = 10.0
_COMMAND_TIMEOUT = 30.0


def is_transient(error: BaseException) -> bool:
    """Whether the error means that the database is away for now."""
    if isinstance(error, asyncpg.InterfaceError):
        text = str(error)
        return not isinstance(error, ValueError) and ("closed" in text or "closing" in text)
    if isinstance(error, OSError) and error.filename is not None:
        # About a file, by somebody's work inside a transaction.
        return False
    return isinstance(error, TRANSIENT)


class Database:
    """A pool of connections whose search_path is one service's schema.

    Values of type jsonb go in and come out as JSON text. Every method raises `Unavailable`
    (DATABASE_UNAVAILABLE) while the server is away (the pool finds back by itself), and `InvalidArgument` for
    a text that PostgreSQL cannot hold (with NUL in it).
    """

    def __init__(self, made: asyncpg.Pool[asyncpg.Record], *, dsn: str, schema: str, name: str = "") -> None:
        self._pool = made
        self._dsn = dsn
        self._name = name
        self.schema = schema

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One transaction: commits at the end of the block, rolls back on an error.

        Where the connection is lost in the commit, whether it took place is not known: work in here is
        repeated safely or is told apart by a key. Inside of `whole` it is a part of that one.
        """
        with _surfacing():
            if (outer := self._outer()) is not None:
                async with outer.transaction():
                    yield outer
                return
            async with self._pool.acquire(timeout=_ACQUIRE_TIMEOUT) as connection, connection.transaction():
                yield connection

    @asynccontextmanager
    async def whole(self) -> AsyncIterator[Connection]:
        """One transaction for all that the block does with this database, by any of its methods; it must not
        use it from several tasks at once."""
        async with self.transaction() as connection:
            mark = _joined.set((self, connection))
            try:
                yield connection
            finally:
                _joined.reset(mark)

    def _outer(self) -> Connection | None:
        joined = _joined.get()
        return joined[1] if joined is not None and joined[0] is self else None

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        """All rows."""
        with _surfacing():
            return await (self._outer() or self._pool).fetch(query, *args)

    async def fetchrow(self, query: str, *args: Any) -> Row | None:
        """The first row, if any."""
        with _surfacing():
            return await (self._outer() or self._pool).fetchrow(query, *args)

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first value of the first row; None without one."""
        with _surfacing():
            return await (self._outer() or self._pool).fetchval(query, *args)

    async def execute(self, query: str, *args: Any) -> str:
        """Runs one statement; returns its tag, such as ``UPDATE 1``."""
        with _surfacing():
            return await (self._outer() or self._pool).execute(query, *args)

    @asynccontextmanager
    async def dedicated(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A connection of its own, outside the pool and without time limits: to listen, or to hold a lock."""
        with _surfacing():
            connection = await _connect(self._dsn, schema=self.schema, name=self._name)
            try:
                yield connection
            finally:
                # Closing politely could wait for a server that has gone.
                connection.terminate()


@asynccontextmanager
async def pool(
    url: SecretStr | str, *, schema: str, size: int = 8, name: str = ""
) -> AsyncIterator[Database]:
    """A database for the block, of 1 to `size` connections; `name` is what the server knows them by.

    Waits up to 60 s for the server. Raises `Unavailable` after that, and at once for what waiting does not
    cure (a wrong password).
    """
    dsn = _text(url)
    made = await retry(lambda: _open(dsn, schema=schema, size=size, name=name), deadline=_WAIT_AT_START)
    try:
        yield Database(made, dsn=dsn, schema=schema, name=name)
    finally:
        await _close(made)


async def retry(fn: Callable[[], Awaitable[T]], *, deadline: float = 30.0, attempts: int | None = None) -> T:
    """Calls an idempotent function again while it raises `Unavailable`, with growing pauses (0.05 to 2 s).

    Gives up after `deadline` seconds or `attempts` calls, with the last error.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    tried = 0
    while True:
        try:
            return await fn()
        except Unavailable as error:
            tried += 1
            pause = min(0.05 * 2**tried, 2.0) * random.uniform(0.5, 1.0)  # noqa: S311
            if loop.time() + pause > end or (attempts is not None and tried >= attempts):
                raise
            log.info("retry.waiting", reason=str(error.reason), error=error.message, tried=tried)
            await asyncio.sleep(pause)


@contextmanager
def _surfacing() -> Iterator[None]:
    try:
        yield
    except (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError) as error:
        raise InvalidArgument("a text holds a character that cannot be kept, such as NUL") from error
    except TRANSIENT as error:
        if not is_transient(error):
            raise
        raise Unavailable(
            "the database does not answer", reason=Reason.DATABASE_UNAVAILABLE, cause=type(error).__name__
        ) from error


async def _open(dsn: str, *, schema: str, size: int, name: str) -> asyncpg.Pool[asyncpg.Record]:
    with _surfacing():
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            timeout=10.0,
            command_timeout=_COMMAND_TIMEOUT,
            reset=_as_it_is,
            server_settings=_session(schema, statement_timeout="30s", name=name),
        )


async def connect_waiting(url: SecretStr | str, *, schema: str) -> asyncpg.Connection[asyncpg.Record]:
    """A connection of its own, waiting up to 60 s for the server. The caller closes it."""
    dsn = _text(url)

    async def connect() -> asyncpg.Connection[asyncpg.Record]:
        with _surfacing():
            return await _connect(dsn, schema=schema)

    return await retry(connect, deadline=_WAIT_AT_START)


async def _connect(dsn: str, *, schema: str, name: str = "") -> asyncpg.Connection[asyncpg.Record]:
    settings = _session(schema, statement_timeout="0", name=name)
    return await asyncpg.connect(dsn, timeout=10.0, server_settings=settings)


async def _as_it_is(connection: Connection) -> None:
    """A connection goes back to the pool without a word to the server, each of which costs as much as a short
    query: asyncpg has rolled back what was open, and nothing here outlives a transaction (SET LOCAL, locks of
    the transaction; who listens or keeps a lock has a `dedicated` one)."""


def _session(schema: str, *, statement_timeout: str, name: str) -> dict[str, str]:
    return {
        "application_name": name or f"cairn-{schema}",
        "search_path": schema,
        "statement_timeout": statement_timeout,
        "idle_in_transaction_session_timeout": "60s",
        "timezone": "UTC",
    }


async def _close(made: asyncpg.Pool[asyncpg.Record]) -> None:
    try:
        async with asyncio.timeout(5.0):
            await made.close()
    except TRANSIENT:
        made.terminate()


def _text(url: SecretStr | str) -> str:
    return url.get_secret_value() if isinstance(url, SecretStr) else url
