"""Migrations: numbered SQL files that only go forward, each applied once, in its own transaction."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import asyncpg
import structlog
from pydantic import SecretStr

from cairn_common.db import connect_waiting

log = structlog.get_logger(__name__)

_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_LOCK_TIMEOUT = 120.0

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    component text NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    apply_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (component, number)
)
"""


class MigrationError(Exception):
    """The files and the database do not agree, or a file could not be applied."""


@dataclass(frozen=True, slots=True)
class _File:
    component: str
    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


async def migrate(url: SecretStr | str, schema: str, folder: Traversable) -> list[int]:
    """Applies what is new in `folder` (``0001_init.sql``, ...) to a schema; returns the numbers applied.

    The common tables (outbox, inbox, dead_letters) come first. Two processes may do this at once: the
    second one waits and finds nothing to do. Raises `MigrationError` where an applied file was changed,
    numbers repeat, or a file fails (nothing of that file is kept then); `Unavailable` where the server stays
    away for 60 s. Numbers may leave gaps, and one that comes late into a gap is applied late.
    """
    common = _read(files("cairn_common") / "migrations", component="common")
    own = _read(folder, component="service")
    connection = await connect_waiting(url, schema=schema)
    try:
        # Lasts as long as the session; a killed process cannot leave it behind.
        await connection.execute(
            "SELECT pg_advisory_lock(hashtextextended($1, 0))",
            f"cairn.migrate.{schema}",
            timeout=_LOCK_TIMEOUT,
        )
        await _ensure_schema(connection, schema)
        await connection.execute(_TABLE)
        await _apply(connection, common)
        return await _apply(connection, own)
    finally:
        await connection.close(timeout=5.0)


def _read(folder: Traversable, *, component: str) -> list[_File]:
    found = []
    for item in folder.iterdir():
        if not item.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(item.name)
        if match is None:
            raise MigrationError(f"{item.name}: a migration is named like 0001_init.sql")
        found.append(_File(component, int(match[1]), item.name, item.read_text(encoding="utf-8")))
    found.sort(key=lambda file: file.number)
    numbers = [file.number for file in found]
    if len(set(numbers)) != len(numbers):
        raise MigrationError(f"each migration has a number of its own; found {numbers}")
    return found


async def _ensure_schema(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> None:
    # Asked first: CREATE SCHEMA IF NOT EXISTS wants a right on the database even where there is one.
    if await connection.fetchval("SELECT to_regnamespace(quote_ident($1)) IS NULL", schema):
        statement = await connection.fetchval("SELECT format('CREATE SCHEMA %I', $1::text)", schema)
        await connection.execute(statement)


async def _apply(connection: asyncpg.Connection[asyncpg.Record], found: list[_File]) -> list[int]:
    if not found:
        return []
    component = found[0].component
    rows = await connection.fetch(
        "SELECT number, checksum FROM schema_migrations WHERE component = $1", component
    )
    applied = {row["number"]: row["checksum"] for row in rows}
    if newer := sorted(applied.keys() - {file.number for file in found}):
        # An older release on a newer schema: each file is safe for the release before it.
        log.warning("migration.newer", component=component, applied=newer, known=len(found))
    done = []
    for file in found:
        if file.number not in applied:
            await _apply_one(connection, file)
            done.append(file.number)
        elif applied[file.number] != file.checksum:
            raise MigrationError(
                f"{file.name} was changed after it was applied; put it back as it was and write a new file"
            )
    return done


async def _apply_one(connection: asyncpg.Connection[asyncpg.Record], file: _File) -> None:
    try:
        async with connection.transaction():
            await connection.execute(file.text)
            await connection.execute(
                "INSERT INTO schema_migrations (component, number, name, checksum) VALUES ($1, $2, $3, $4)",
                file.component,
                file.number,
                file.name,
                file.checksum,
            )
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{file.name}: {error}") from error
    log.info("migration.applied", component=file.component, name=file.name)
