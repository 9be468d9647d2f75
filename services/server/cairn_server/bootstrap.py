"""Database, roles and schemas: what the services' own migrations start from."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import asyncpg

from cairn_server.backends.program import SetupError

_TIMEOUT = 30.0
_MAINTENANCE = "postgres"


async def bootstrap(admin_url: str, passwords: Mapping[str, str]) -> dict[str, str]:
    """Makes in the database of `admin_url` a role and a schema for each of `passwords`, where missing.

    Returns the URL of each. Where the administrator may not make roles, its own role serves all of them,
    each in its schema. Raises `SetupError` where a role is there with a password that is not ours.
    """
    await _ensure_database(admin_url)
    connection = await _connect(admin_url)
    try:
        if not await connection.fetchval(
            "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
        ):
            return dict.fromkeys(passwords, admin_url)
        return {role: await _ensure_role(connection, admin_url, role, passwords[role]) for role in passwords}
    except asyncpg.PostgresError as error:
        raise SetupError(f"the database could not be set up: {error}") from error
    finally:
        await connection.close(timeout=5)


def url_of(admin_url: str, role: str, password: str) -> str:
    """`admin_url` with another role; host, database and options stay."""
    parts = urlsplit(admin_url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(role)}:{quote(password, safe='')}@{host}").geturl()


async def _ensure_database(admin_url: str) -> None:
    parts = urlsplit(admin_url)
    name = parts.path.lstrip("/")
    if not name:
        raise SetupError("CAIRN_POSTGRES_URL names no database: postgresql://user:password@host:5432/cairn")
    try:
        probe = await asyncpg.connect(admin_url, timeout=_TIMEOUT)
    except asyncpg.InvalidCatalogNameError:
        maintenance = await _connect(parts._replace(path=f"/{_MAINTENANCE}").geturl())
        try:
            # Nobody but the services' roles may even connect.
            await _run(maintenance, "CREATE DATABASE %I", name)
            await _run(maintenance, "REVOKE ALL ON DATABASE %I FROM PUBLIC", name)
        except asyncpg.DuplicateDatabaseError:
            pass
        except asyncpg.PostgresError as error:
            raise SetupError(f"the database {name} could not be made: {error}") from error
        finally:
            await maintenance.close(timeout=5)
    except (asyncpg.PostgresError, OSError, TimeoutError) as error:
        raise SetupError(f"PostgreSQL at {parts.hostname}:{parts.port or 5432}: {error}") from error
    else:
        await probe.close(timeout=5)


async def _ensure_role(
    connection: asyncpg.Connection[asyncpg.Record], admin_url: str, role: str, password: str
) -> str:
    address = url_of(admin_url, role, password)
    database = urlsplit(admin_url).path.lstrip("/")
    known = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
    if not known:
        await _run(connection, "CREATE ROLE %I LOGIN PASSWORD %L", role, password)
        await _run(connection, "GRANT %I TO CURRENT_USER", role)
    await _run(connection, "GRANT CONNECT ON DATABASE %I TO %I", database, role)
    await _run(connection, "CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION %I", role, role)
    await _run(connection, "ALTER ROLE %I IN DATABASE %I SET search_path = %I", role, database, role)
    if known:
        await _check_password(address, role)
    return address


async def _check_password(address: str, role: str) -> None:
    try:
        connection = await asyncpg.connect(address, timeout=_TIMEOUT)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise SetupError(
            f"the database has a role {role} already, whose password is not the one in this data folder: "
            "put back the data folder's secrets.json, or drop the role"
        ) from error
    await connection.close(timeout=5)


async def _connect(address: str) -> asyncpg.Connection[asyncpg.Record]:
    try:
        return await asyncpg.connect(address, timeout=_TIMEOUT)
    except (asyncpg.PostgresError, OSError, TimeoutError) as error:
        raise SetupError(f"PostgreSQL at {urlsplit(address).hostname}: {error}") from error


async def _run(connection: asyncpg.Connection[asyncpg.Record], statement: str, *names: str) -> None:
    """Runs a statement that takes no parameters; the server quotes what goes into it."""
    holes = ", ".join(f"${n}::text" for n in range(2, len(names) + 2))
    await connection.execute(await connection.fetchval(f"SELECT format($1, {holes})", statement, *names))
