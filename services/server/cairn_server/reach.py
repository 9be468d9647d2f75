"""How an operator's command reaches the stores of a running platform."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cairn_server import bootstrap, credentials
from cairn_server import home as homes
from cairn_server.backends import nats, postgres
from cairn_server.backends.program import SetupError
from cairn_server.credentials import DATABASE_ROLES
from cairn_server.home import Home


def databases(data: Path, operator: Mapping[str, str]) -> dict[str, str]:
    """The database URL of each service."""
    home = _existing(data)
    secrets = credentials.load(home)
    admin = operator.get("CAIRN_POSTGRES_URL") or postgres.url(
        port=_port(home, "postgres"), password=secrets.postgres[postgres.SUPERUSER]
    )
    return {role: bootstrap.url_of(admin, role, secrets.postgres[role]) for role in DATABASE_ROLES}


def bus(data: Path, operator: Mapping[str, str]) -> tuple[str, str]:
    """The bus' URL, and the seed that may tell a fact again."""
    home = _existing(data)
    url = operator.get("CAIRN_NATS_URL") or f"nats://127.0.0.1:{_port(home, 'nats')}"
    return url, credentials.load(home).nats.seeds[nats.SERVER]


def _existing(data: Path) -> Home:
    home = Home(data)
    if not home.secrets.exists():
        raise SetupError(f"{data} is no data folder of Cairn; name it by --data")
    return home


def _port(home: Home, name: str) -> int:
    return int(homes.read_json(home.ports)[name])
