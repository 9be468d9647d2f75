"""Secrets at rest: sealed under a key that is the operator's, or is made once and kept in a 0600 file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

import structlog
from nacl.exceptions import CryptoError
from nacl.secret import Aead
from pydantic import SecretStr

from cairn_common.db import Database
from cairn_common.settings import SettingsError

log = structlog.get_logger(__name__)

KEY_FILE = "secrets.key"
_LEAST_KEY = 32


class Sealed(Exception):
    """What was kept cannot be opened; the message is for people."""


class Sealer:
    """Seals bytes for one thing alone: under another name they do not open (XChaCha20-Poly1305)."""

    def __init__(self, *keys: str, purpose: bytes) -> None:
        """`keys`: each at least 32 characters that nobody can guess. The first seals; what one of the others
        has sealed opens, too. `purpose` (at most 16 bytes): what is sealed for another one does not open."""
        self._boxes = [
            Aead(hashlib.blake2b(key.encode(), digest_size=Aead.KEY_SIZE, person=purpose).digest())
            for key in keys
        ]

    @property
    def has_old(self) -> bool:
        """Whether there may be something that was sealed under an earlier key."""
        return len(self._boxes) > 1

    def seal(self, name: str, value: bytes) -> bytes:
        """The value, encrypted and bound to the name."""
        return bytes(self._boxes[0].encrypt(value, name.encode()))

    def open(self, name: str, sealed: bytes) -> bytes:
        """Raises Sealed where the key is another one, or the bytes are something else's."""
        return self._open(name, sealed)[1]

    def renewed(self, name: str, sealed: bytes) -> bytes | None:
        """The same under the first key; None where it is already. Raises as `open`."""
        number, value = self._open(name, sealed)
        return self.seal(name, value) if number else None

    def _open(self, name: str, sealed: bytes) -> tuple[int, bytes]:
        for number, box in enumerate(self._boxes):
            with contextlib.suppress(CryptoError, ValueError):
                return number, bytes(box.decrypt(sealed, name.encode()))
        raise Sealed("it was sealed with another key (CAIRN_SECRETS_KEY, or secrets.key)")


def keys_of(key: SecretStr, old: SecretStr, folder: Path) -> list[str]:
    """The operator's key and the one before it; else those of a file in `folder` (0600), one a line, which is
    made with one where there is none.

    Raises SettingsError for a key that is too short, and for an old one without a new one.
    """
    text, before = key.get_secret_value(), old.get_secret_value()
    for name, value in (("CAIRN_SECRETS_KEY", text), ("CAIRN_SECRETS_KEY_OLD", before)):
        if value and len(value) < _LEAST_KEY:
            raise SettingsError(f"{name} has fewer than {_LEAST_KEY} characters")
    if before and not text:
        raise SettingsError("CAIRN_SECRETS_KEY_OLD is set without CAIRN_SECRETS_KEY, the key that follows it")
    return [text, *([before] if before else [])] if text else _own_keys(folder / KEY_FILE)


async def reseal(db: Database, sealer: Sealer, *, table: str, key: str, name: str) -> None:
    """Seals every row of `table` under the first key of `sealer`, so that nothing needs the others any more.

    `key`: the column that rows are found by; `name`: SQL for what `sealed` is bound to. Several processes may
    do it at once; rows that no key opens are left as they are, and counted in the log.
    """
    if not sealer.has_old:
        return
    last, done, lost = "", 0, 0
    while True:
        rows = await db.fetch(
            f"SELECT {key} AS key, {name} AS name, sealed FROM {table} WHERE {key} > $1"  # noqa: S608
            f" ORDER BY {key} LIMIT 500",
            last,
        )
        if not rows:
            break
        last = rows[-1]["key"]
        for row in rows:
            try:
                fresh = sealer.renewed(row["name"], bytes(row["sealed"]))
            except Sealed:
                lost += 1
                continue
            if fresh is not None:
                # Somebody may have replaced it meanwhile.
                await db.execute(
                    f"UPDATE {table} SET sealed = $2 WHERE {key} = $1 AND sealed = $3",  # noqa: S608
                    row["key"],
                    fresh,
                    row["sealed"],
                )
                done += 1
    log.info("sealing.renewed", table=table, rows=done, lost=lost)


def _own_keys(path: Path) -> list[str]:
    if not path.exists():
        # Whole or not at all: nothing is ever sealed with half a key.
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
        fresh.unlink()
    keys = path.read_text().split()
    if not keys or min(map(len, keys)) < _LEAST_KEY:
        raise SettingsError(
            f"{path} holds no key, or one of fewer than {_LEAST_KEY} characters; put it back from your backup"
        )
    return keys
