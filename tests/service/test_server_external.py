"""Servers of somebody else instead of the embedded ones; the one-shot of production; dead letters."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest

from cairn_server import bootstrap, dead_letters, migrate
from cairn_server.backends.nats import NatsKeys, new_seeds
from cairn_server.backends.program import SetupError
from tests.harness import servers
from tests.harness.platform import Platform

ROLES = {"scheduler": "one", "quota": "two", "tracker": "three"}


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def cluster(data_folder: Path) -> AsyncIterator[servers.Postgres]:
    """A PostgreSQL of this test's own: roles belong to a whole cluster."""
    server = await asyncio.to_thread(servers.start_postgres, data_folder)
    yield server
    await asyncio.to_thread(server.stop)


async def test_bootstrap_makes_what_is_missing_and_is_safe_to_repeat(cluster: servers.Postgres) -> None:
    urls = await bootstrap.bootstrap(cluster.admin_url("cairn"), ROLES)
    assert await bootstrap.bootstrap(cluster.admin_url("cairn"), ROLES) == urls
    async with connected(urls["quota"]) as own:
        assert await own.fetchval("SELECT current_schema()") == "quota"
        await own.execute("CREATE TABLE t (n int)")
    async with connected(urls["tracker"]) as other:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.execute("SELECT n FROM quota.t")


async def test_bootstrap_by_an_administrator_who_is_no_superuser(cluster: servers.Postgres) -> None:
    await asyncio.to_thread(
        cluster.execute,
        "CREATE ROLE admin LOGIN CREATEROLE CREATEDB PASSWORD 'admin'",
        "CREATE DATABASE mine OWNER admin",
    )
    urls = await bootstrap.bootstrap(bootstrap.url_of(cluster.admin_url("mine"), "admin", "admin"), ROLES)
    async with connected(urls["scheduler"]) as own:
        await own.execute("CREATE TABLE t (n int)")


async def test_one_role_serves_all_where_it_may_not_make_others(cluster: servers.Postgres) -> None:
    await asyncio.to_thread(
        cluster.execute, "CREATE ROLE plain LOGIN PASSWORD 'plain'", "CREATE DATABASE theirs OWNER plain"
    )
    admin = bootstrap.url_of(cluster.admin_url("theirs"), "plain", "plain")
    assert await bootstrap.bootstrap(admin, ROLES) == dict.fromkeys(ROLES, admin)


async def test_a_role_with_a_foreign_password_is_refused(cluster: servers.Postgres) -> None:
    await bootstrap.bootstrap(cluster.admin_url("cairn"), ROLES)
    with pytest.raises(SetupError, match="role quota already"):
        await bootstrap.bootstrap(cluster.admin_url("cairn"), ROLES | {"quota": "other"})


async def test_migrate_writes_each_service_its_own_secrets(cluster: servers.Postgres, tmp_path: Path) -> None:
    operator = {"CAIRN_POSTGRES_URL": cluster.admin_url("cairn")}
    applied = await migrate.run(tmp_path / "home", operator)
    assert all(applied[service] for service in ROLES)
    first = {path.name: path.read_text() for path in (tmp_path / "home" / "env").iterdir()}
    assert await migrate.run(tmp_path / "home", operator) == {service: [] for service in ROLES}
    assert {path.name: path.read_text() for path in (tmp_path / "home" / "env").iterdir()} == first
    assert first.keys() == {"scheduler.env", "quota.env", "tracker.env", "gateway.env"}
    assert all(stat.S_IMODE((tmp_path / "home" / "env" / name).stat().st_mode) == 0o600 for name in first)
    assert "ISSUER" in first["quota.env"]
    assert not any("ISSUER" in text for name, text in first.items() if name != "quota.env")
    assert "CAIRN_POSTGRES_URL" not in first["gateway.env"]


async def test_a_dead_letter_is_told_again_and_forgotten(cluster: servers.Postgres, tmp_path: Path) -> None:
    urls = await bootstrap.bootstrap(cluster.admin_url("cairn"), ROLES)
    keys = NatsKeys(new_seeds())
    bus = await asyncio.to_thread(lambda: servers.start_nats(tmp_path / "bus", keys=keys))
    try:
        async with await nats.connect(bus.url, nkeys_seed_str=keys.seeds["tracker"]) as connection:
            await connection.jetstream(timeout=5).add_stream(name="JOB", subjects=["cairn.v1.job.>"])
        async with connected(urls["tracker"]) as own:
            await own.execute(
                "CREATE TABLE dead_letters (consumer text, stream text, sequence bigint, subject text,"
                " payload bytea, msg_id text, error text, tries int, create_time timestamptz DEFAULT now())"
            )
            await own.execute(
                "INSERT INTO dead_letters VALUES ('tracker-ingest', 'JOB', 9,"
                " 'cairn.v1.job.run.points-logged.main.x', 'payload', '', 'ValueError: no', 5)"
            )
        (letter,) = await dead_letters.find(urls)
        assert letter.id == "tracker-ingest/JOB/9"
        told = await dead_letters.replay(
            letter, postgres_url=urls["tracker"], nats_url=bus.url, seed=keys.seeds["server"]
        )
        assert told
        assert await dead_letters.find(urls) == []
        async with await nats.connect(bus.url, nkeys_seed_str=keys.seeds["tracker"]) as connection:
            message = await connection.jetstream(timeout=5).get_msg("JOB", 1)
        assert (message.subject, message.data) == ("cairn.v1.job.run.points-logged.main.x", b"payload")
    finally:
        await asyncio.to_thread(bus.stop)


def test_nothing_embedded_starts_where_urls_are_given(data_folder: Path, nats_url: str) -> None:
    database = servers.start_postgres(data_folder / "elsewhere")
    platform = Platform(data_folder, CAIRN_POSTGRES_URL=database.admin_url("cairn"), CAIRN_NATS_URL=nats_url)
    try:
        platform.up("--only", "gateway")
        names = {process["name"] for process in platform.status()["processes"]}
        assert names == {"cairn up", "quota", "gateway"}
        team = platform.cairn("team", "--json")
        assert json.loads(team.stdout)["name"] == "teams/main"
        assert urlsplit(platform.status()["url"]).hostname == "127.0.0.1"
    finally:
        platform.cairn("down")
        database.stop()
