"""Secrets of jobs at rest: encrypted in the database, and gone from it when their job has ended."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.secret import Aead
from pydantic import SecretStr

from cairn_common.db import Connection, Database
from cairn_common.settings import SettingsError

KEY_FILE = "secrets.key"
_LEAST_KEY = 32


class Sealed(Exception):
    """What was kept cannot be opened; the message is for people."""


class Vault:
    """Seals a job's secrets for that job alone: under another job's uid they do not open."""

    def __init__(self, key: str) -> None:
        """`key`: at least 32 characters that nobody can guess."""
        self._box = Aead(
            hashlib.blake2b(key.encode(), digest_size=Aead.KEY_SIZE, person=b"cairn-vault").digest()
        )

    def seal(self, job_uid: str, values: Mapping[str, str]) -> bytes:
        """The values, encrypted (XChaCha20-Poly1305) and bound to the job."""
        return bytes(self._box.encrypt(json.dumps(dict(values)).encode(), job_uid.encode()))

    def open(self, job_uid: str, sealed: bytes) -> dict[str, str]:
        """Raises Sealed where the key is another one, or the bytes are another job's."""
        try:
            values: dict[str, str] = json.loads(self._box.decrypt(sealed, job_uid.encode()))
        except (CryptoError, ValueError):
            raise Sealed(
                "Its secrets cannot be opened: they were sealed with another key than the scheduler has now "
                "(CAIRN_SECRETS_KEY, or secrets.key in its data folder). Put it back, or submit anew."
            ) from None
        return values


def open_vault(key: SecretStr, folder: Path) -> Vault:
    """With the operator's key, else with one that is made once and kept in `folder` (0600).

    Raises SettingsError for a key that is too short.
    """
    text = key.get_secret_value()
    if text and len(text) < _LEAST_KEY:
        raise SettingsError(f"CAIRN_SECRETS_KEY has fewer than {_LEAST_KEY} characters")
    return Vault(text or _own_key(folder / KEY_FILE))


async def keep(conn: Connection, job_uid: str, sealed: bytes) -> None:
    """Keeps them until the job has ended: the database itself erases them then."""
    await conn.execute("INSERT INTO job_secrets (job_uid, sealed) VALUES ($1, $2)", job_uid, sealed)


async def kept(db: Database, job_uid: str) -> bytes | None:
    """What was kept; None: nothing, or nothing any more."""
    row = await db.fetchrow("SELECT sealed FROM job_secrets WHERE job_uid = $1", job_uid)
    return None if row is None else bytes(row["sealed"])


def _own_key(path: Path) -> str:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_urlsafe(48))
        file.flush()
        os.fsync(file.fileno())
    return path.read_text().strip()
