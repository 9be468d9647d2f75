"""The store of points and lines: a ClickHouse server, or the engine inside this process (chDB).

The client blocks, and one client answers one call at a time; so each of a few clients has a thread of its
own, and the event loop never waits in one.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import queue
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import clickhouse_connect
import structlog
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from cairn_common.errors import InvalidArgument, Reason, Unavailable
from cairn_common.settings import SettingsError
from cairn_tracker.native import Labels, Numbers, decode

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

# Seconds. Queries end themselves before a caller's wait does.
_QUERY_SECONDS: Final = 20
_WAIT_SECONDS: Final = 25.0
_INSERT_SECONDS: Final = 60.0
_SLOW_SECONDS: Final = 660.0
# A new version may have to work something out from all points that there are.
_MIGRATE_SECONDS: Final = 3_600.0
# Compiling an expression costs a short question more than it wins a long one.
_COMMON_SETTINGS: Final = {"async_insert": 0, "max_threads": 2, "compile_expressions": 0}
# What is inserted is in order and has no row twice: to look for that again costs more than all the rest.
_WRITER_SETTINGS: Final = {**_COMMON_SETTINGS, "optimize_on_insert": 0}
_READER_SETTINGS: Final = {
    **_COMMON_SETTINGS,
    "max_execution_time": _QUERY_SECONDS,
    "max_memory_usage": 1 << 30,
}
# For what the tracker itself asks while it takes events in: whoever wrote a lot must not hold up the others.
_BRIEF_SETTINGS: Final = {
    **_COMMON_SETTINGS,
    "max_execution_time": 5,
    "max_memory_usage": 1 << 28,
}
# For what nobody waits for.
_SLOW_SETTINGS: Final = {
    **_COMMON_SETTINGS,
    "max_threads": 1,
    "max_execution_time": 600,
    "max_memory_usage": 1 << 29,
    # Who changes what is there looks itself whether it is done.
    "mutations_sync": 0,
}
# What the engine may say of a query's cost: rows, time, speed, memory, bytes, result rows.
_TOO_MUCH: Final = frozenset({158, 159, 160, 241, 307, 396})

# ... and of a pattern that is none.
_BAD_PATTERN: Final = 427

_VERSIONS = """
CREATE TABLE IF NOT EXISTS schema_migrations
(version UInt32, name String, checksum String, time DateTime DEFAULT now())
ENGINE = ReplacingMergeTree ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1
"""


class StoreLocked(SettingsError):
    """Another process has this folder open."""


class ClickHouse:
    """One writer, a few readers, one for brief questions and one for slow work; none waits for another.

    Raises `Unavailable` while the store does not answer.
    """

    def __init__(self, writer: Client, readers: Sequence[Client], *, brief: Client, slow: Client) -> None:
        self._writer = writer
        self._brief = brief
        self._slow = slow
        self._clearing = ThreadPoolExecutor(1, thread_name_prefix="clickhouse-slow")
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="clickhouse-brief")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="clickhouse-write")
        self._reading = ThreadPoolExecutor(len(readers), thread_name_prefix="clickhouse-read")
        self._readers: queue.SimpleQueue[Client] = queue.SimpleQueue()
        for reader in readers:
            self._readers.put(reader)

    async def insert(self, table: str, block: bytes) -> None:
        """Adds a block in Native format; on return it is on disk. The same rows again change nothing."""

        def work() -> None:
            self._writer.raw_insert(table, insert_block=block, fmt="Native")

        await _run(self._writing, work, _INSERT_SECONDS)

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The result by columns (none where there are no rows). Values are bound, never pasted.

        Raises `InvalidArgument` for what is too much to ask in one query.
        """

        def work() -> Sequence[Sequence[Any]]:
            client = self._readers.get()
            try:
                result = client.query(sql, parameters=dict(parameters), column_oriented=True)
                columns: Sequence[Sequence[Any]] = result.result_columns
                return columns
            finally:
                self._readers.put(client)

        return await _run(self._reading, work, _WAIT_SECONDS)

    async def columns(self, sql: str, parameters: Mapping[str, Any]) -> dict[str, Numbers | Labels]:
        """As `query`, of numbers and labels alone, by their names: whole columns without a step in Python."""

        def work() -> dict[str, Numbers | Labels]:
            client = self._readers.get()
            try:
                return decode(client.raw_query(sql, parameters=dict(parameters), fmt="Native"))
            finally:
                self._readers.put(client)

        return await _run(self._reading, work, _WAIT_SECONDS)

    async def query_briefly(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """As `query`, beside all of those, and with `InvalidArgument` for what takes more than 5 s."""

        def work() -> Sequence[Sequence[Any]]:
            result = self._brief.query(sql, parameters=dict(parameters), column_oriented=True)
            columns: Sequence[Sequence[Any]] = result.result_columns
            return columns

        return await _run(self._asking, work, _WAIT_SECONDS)

    async def rearrange(self, sql: str, parameters: Mapping[str, Any]) -> None:
        """A statement that copies or deletes rows, beside everything else."""

        def work() -> None:
            self._slow.command(sql, parameters=dict(parameters))

        await _run(self._clearing, work, _SLOW_SECONDS)

    async def migrate(self, folder: Traversable) -> list[int]:
        """Runs the numbered files that were not run yet; returns their numbers.

        Raises SettingsError where a file that was run has changed since.
        """
        return await _run(self._writing, lambda: _migrate(self._writer, folder), _MIGRATE_SECONDS)

    def close(self) -> None:
        """Waits for what runs, then closes the connections."""
        self._writing.shutdown()
        self._reading.shutdown()
        self._asking.shutdown()
        self._clearing.shutdown()
        self._writer.close()
        self._slow.close()
        self._brief.close()
        while not self._readers.empty():
            self._readers.get().close()


@asynccontextmanager
async def clickhouse(url: str, *, readers: int) -> AsyncIterator[ClickHouse]:
    """The store behind a URL: `chdb:///folder`, or `http(s)://user:password@host:port/database`.

    Raises SettingsError for another kind of URL, `StoreLocked` where another process has the folder, and
    `Unavailable` where nothing answers.
    """
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        folder = await asyncio.to_thread(Path(unquote(parts.path)).resolve)
        with _locked(folder):
            connect = _embedded(folder)
            writer = await asyncio.to_thread(_open_after_crash, connect, folder)
            async with _pool(writer, connect, readers) as store:
                yield store
    elif parts.scheme in ("http", "https"):
        connect = _remote(url)
        writer = await asyncio.to_thread(connect, _WRITER_SETTINGS)
        async with _pool(writer, connect, readers) as store:
            yield store
    else:
        raise SettingsError(f"CAIRN_CLICKHOUSE_URL: {parts.scheme or 'empty'!r} is not chdb, http or https")


Connect = Callable[[Mapping[str, Any]], Client]


@asynccontextmanager
async def _pool(writer: Client, connect: Connect, readers: int) -> AsyncIterator[ClickHouse]:
    store = ClickHouse(
        writer,
        [await asyncio.to_thread(connect, _READER_SETTINGS) for _ in range(max(1, readers))],
        brief=await asyncio.to_thread(connect, _BRIEF_SETTINGS),
        slow=await asyncio.to_thread(connect, _SLOW_SETTINGS),
    )
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)


def _embedded(folder: Path) -> Connect:
    def connect(settings: Mapping[str, Any]) -> Client:
        return clickhouse_connect.get_client(interface="chdb", path=str(folder), settings=dict(settings))

    return connect


def _remote(url: str) -> Connect:
    def connect(settings: Mapping[str, Any]) -> Client:
        try:
            return clickhouse_connect.get_client(
                dsn=url, settings=dict(settings), connect_timeout=10, send_receive_timeout=30
            )
        except ClickHouseError as error:
            raise _away(error) from error

    return connect


def _open_after_crash(connect: Connect, folder: Path) -> Client:
    """Opens the engine; where it refuses parts that a crash left half written, lets it set those aside.

    Nothing acknowledged is in such a part: an insert is on disk before it returns.
    """
    try:
        return connect(_WRITER_SETTINGS)
    except ClickHouseError as error:
        flag = folder / "flags" / "force_restore_data"
        log.warning("clickhouse.restore_forced", folder=str(folder), error=str(error)[:500])
        flag.parent.mkdir(mode=0o700, exist_ok=True)
        flag.touch(mode=0o600)
        return connect(_WRITER_SETTINGS)


@contextmanager
def _locked(folder: Path) -> Any:
    """Holds the folder for this process: the engine's own message for a second one says nothing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder.with_name(folder.name + ".lock")
    with open(path, "a+", encoding="ascii") as file:
        _lock(file, folder)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(20).strip() or "unknown"
        raise StoreLocked(
            f"{folder} is open in another process (pid {holder}); only one can have it: stop that one first"
        ) from None


async def _run(pool: ThreadPoolExecutor, work: Callable[[], Result], seconds: float) -> Result:
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().run_in_executor(pool, work)
    except TimeoutError:
        raise Unavailable(
            f"the store of points did not answer within {seconds:.0f} s", reason=Reason.STORE_UNAVAILABLE
        ) from None
    except ClickHouseError as error:
        if getattr(error, "code", None) in _TOO_MUCH:
            raise InvalidArgument(
                "that is too much for one query: ask for fewer runs, keys or steps",
                reason=Reason.FIELD_INVALID,
            ) from error
        if getattr(error, "code", None) == _BAD_PATTERN:
            raise InvalidArgument(
                "the pattern is no regular expression as RE2 has them", reason=Reason.FIELD_INVALID
            ) from error
        raise _away(error) from error


def _away(error: Exception) -> Unavailable:
    log.warning("clickhouse.failed", error=str(error)[:500])
    return Unavailable("the store of points does not answer; try again", reason=Reason.STORE_UNAVAILABLE)


def _migrate(client: Client, folder: Traversable) -> list[int]:
    client.command(_VERSIONS)
    rows = client.query("SELECT version, checksum FROM schema_migrations FINAL").result_rows
    known: dict[int, str] = {int(version): str(checksum) for version, checksum in rows}
    done = []
    for file in sorted(
        (file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name
    ):
        sql = file.read_text()
        version, checksum = int(file.name.split("_", 1)[0]), hashlib.sha256(sql.encode()).hexdigest()
        if version in known:
            if known[version] != checksum:
                raise SettingsError(f"migration {file.name} was changed after it had been run")
            continue
        # One statement a file, and each can be run again: a crash before the next line repeats it.
        client.command(sql)
        client.insert(
            "schema_migrations",
            [[version, file.name, checksum]],
            column_names=["version", "name", "checksum"],
        )
        log.info("clickhouse.migrated", file=file.name)
        done.append(version)
    return done
