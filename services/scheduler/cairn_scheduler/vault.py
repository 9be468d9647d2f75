"""Secrets of jobs at rest: encrypted in the database, and gone from it when their job has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from cairn_common.db import Connection, Database
from cairn_common.sealing import Sealed, Sealer, keys_of

__all__ = ["Sealed", "Vault", "keep", "kept", "open_vault"]


class Vault:
    """Seals a job's secrets for that job alone: under another job's uid they do not open."""

    def __init__(self, *keys: str) -> None:
        """`keys`: see `Sealer`."""
        self.sealer = Sealer(*keys, purpose=b"cairn-vault")

    def seal(self, job_uid: str, values: Mapping[str, str | None]) -> bytes:
        """The values, encrypted and bound to the job; None: an attempt asks the quota service for it."""
        return self.sealer.seal(job_uid, json.dumps(dict(values)).encode())

    def open(self, job_uid: str, sealed: bytes) -> dict[str, str | None]:
        """Raises Sealed where the key is another one, or the bytes are another job's."""
        try:
            values: dict[str, str | None] = json.loads(self.sealer.open(job_uid, sealed))
        except (Sealed, ValueError):
            raise Sealed(
                "Its secrets cannot be opened: they were sealed with another key than the scheduler has now "
                "(CAIRN_SECRETS_KEY, or secrets.key in its data folder). Put it back, or submit anew."
            ) from None
        return values


def open_vault(key: SecretStr, old: SecretStr, folder: Path) -> Vault:
    """With the operator's keys, else with those in `folder` (0600). Raises SettingsError as `keys_of`."""
    return Vault(*keys_of(key, old, folder))


async def keep(conn: Connection, job_uid: str, sealed: bytes) -> None:
    """Keeps them until the job has ended: the database itself erases them then."""
    await conn.execute("INSERT INTO job_secrets (job_uid, sealed) VALUES ($1, $2)", job_uid, sealed)


async def kept(db: Database, job_uid: str) -> bytes | None:
    """What was kept; None: nothing, or nothing any more."""
    row = await db.fetchrow("SELECT sealed FROM job_secrets WHERE job_uid = $1", job_uid)
    return None if row is None else bytes(row["sealed"])
