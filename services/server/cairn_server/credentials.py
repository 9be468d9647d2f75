"""The secrets of one installation: made once, kept in `secrets.json` (0600), never logged."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cairn_common.auth import hash_token, new_token
from cairn_server import SERVICES
from cairn_server.backends import nats, postgres
from cairn_server.backends.program import SetupError
from cairn_server.backends.s3 import S3Keys
from cairn_server.home import Home, read_json, write_private

DATABASE_ROLES = ("scheduler", "quota", "tracker")


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """All secrets; a service is given its own only."""

    admin_token: str
    service_tokens: Mapping[str, str]
    postgres: Mapping[str, str]
    s3: S3Keys
    nats: nats.NatsKeys

    def bootstrap(self) -> str:
        """What the quota service starts with: digests, so that the file tells no token."""
        services = {name: hash_token(token) for name, token in self.service_tokens.items()}
        return json.dumps({"admin": hash_token(self.admin_token), "services": services})


def load(home: Home) -> Credentials:
    """The secrets of `home`; what is missing is made and written first."""
    kept = read_json(home.secrets)
    if not kept and (home.root / "postgres" / "data").exists():
        raise SetupError(
            f"{home.secrets} is missing or broken, and the data beside it cannot be opened without it: "
            "put it back from your backup, or name a new data folder by --data"
        )
    whole = _complete(kept)
    if whole != kept:
        write_private(home.secrets, json.dumps(whole, indent=1))
    return Credentials(
        admin_token=whole["admin_token"],
        service_tokens=whole["service_tokens"],
        postgres=whole["postgres"],
        s3=S3Keys(**whole["s3"]),
        nats=nats.NatsKeys(whole["nats"]),
    )


def _complete(kept: Mapping[str, Any]) -> dict[str, Any]:
    roles = (postgres.SUPERUSER, *DATABASE_ROLES)
    return {
        "admin_token": kept.get("admin_token") or new_token(),
        "service_tokens": {name: new_token("cairn-service") for name in SERVICES}
        | kept.get("service_tokens", {}),
        "postgres": {role: secrets.token_urlsafe(24) for role in roles} | kept.get("postgres", {}),
        "s3": kept.get("s3")
        or {"access": f"cairn{secrets.token_hex(6)}", "secret": secrets.token_urlsafe(30)},
        "nats": nats.new_seeds() | kept.get("nats", {}),
    }
