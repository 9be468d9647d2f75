"""The one-shot of a production deployment: roles, schemas and migrations, and each service's secrets."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from cairn_common.migrate import migrate
from cairn_server import SERVICES, bootstrap, credentials
from cairn_server import home as homes
from cairn_server.backends import nats
from cairn_server.backends.program import SetupError
from cairn_server.credentials import DATABASE_ROLES, Credentials
from cairn_server.home import Home
from cairn_server.services import secrets_of

_FOLDERS = {"scheduler": "migrations", "quota": "migrations", "tracker": "migrations/postgres"}


async def run(data: Path, operator: Mapping[str, str]) -> dict[str, list[int]]:
    """Brings the database of CAIRN_POSTGRES_URL (an administrator's) up to date; returns what was applied.

    Writes into `data`: `env/<service>.env` (0600, for CAIRN_ENV_FILE), `config/bootstrap.json`, and
    `config/accounts.conf` for the NATS server. Safe to run again; secrets stay as they are.
    """
    admin = operator.get("CAIRN_POSTGRES_URL")
    if not admin:
        raise SetupError(
            "CAIRN_POSTGRES_URL is not set: the URL of a role that may make roles. "
            "(`cairn up` without it migrates its embedded database by itself.)"
        )
    home = homes.prepare(data)
    secrets = credentials.load(home)
    urls = await bootstrap.bootstrap(admin, {role: secrets.postgres[role] for role in DATABASE_ROLES})
    _write(home, secrets, urls)
    return {
        service: await migrate(url, service, files(f"cairn_{service}").joinpath(_FOLDERS[service]))
        for service, url in urls.items()
    }


def _write(home: Home, secrets: Credentials, urls: Mapping[str, str]) -> None:
    homes.write_private(home.config / "accounts.conf", nats.accounts(secrets.nats))
    homes.write_private(home.config / "bootstrap.json", secrets.bootstrap())
    homes.write_private(home.config / "admin-token", secrets.admin_token)
    folder = home.root / "env"
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in SERVICES:
        values = secrets_of(name, secrets)
        if name in urls:
            values["CAIRN_POSTGRES_URL"] = urls[name]
        if name == "quota":
            values["CAIRN_BOOTSTRAP"] = str(home.config / "bootstrap.json")
        text = "".join(f"{key}={value}\n" for key, value in values.items())
        homes.write_private(folder / f"{name}.env", text)
