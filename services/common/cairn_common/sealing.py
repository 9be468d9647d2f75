"""Secrets at rest: sealed under a key that is the operator's, or is made once and kept in a 0600 file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.secret import Aead
from pydantic import SecretStr

from cairn_common.settings import SettingsError

KEY_FILE = "secrets.key"
_LEAST_KEY = 32


class Sealed(Exception):
    """What was kept cannot be opened; the message is for people."""


class Sealer:
    """Seals bytes for one thing alone: under another name they do not open (XChaCha20-Poly1305)."""

    def __init__(self, key: str, *, purpose: bytes) -> None:
        """`key`: at least 32 characters that nobody can guess. `purpose` (at most 16 bytes): what is sealed
        under the same key for another purpose does not open."""
        self._box = Aead(hashlib.blake2b(key.encode(), digest_size=Aead.KEY_SIZE, person=purpose).digest())

    def seal(self, name: str, value: bytes) -> bytes:
        """The value, encrypted and bound to the name."""
        return bytes(self._box.encrypt(value, name.encode()))

    def open(self, name: str, sealed: bytes) -> bytes:
        """Raises Sealed where the key is another one, or the bytes are something else's."""
        try:
            return bytes(self._box.decrypt(sealed, name.encode()))
        except (CryptoError, ValueError):
            raise Sealed("it was sealed with another key (CAIRN_SECRETS_KEY, or secrets.key)") from None


def key_of(key: SecretStr, folder: Path) -> str:
    """The operator's key, else one that is made once and kept in `folder` (0600).

    Raises SettingsError for a key that is too short.
    """
    text = key.get_secret_value()
    if text and len(text) < _LEAST_KEY:
        raise SettingsError(f"CAIRN_SECRETS_KEY has fewer than {_LEAST_KEY} characters")
    return text or _own_key(folder / KEY_FILE)


def _own_key(path: Path) -> str:
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
    text = path.read_text().strip()
    if len(text) < _LEAST_KEY:
        raise SettingsError(f"{path} holds no key; put it back from your backup")
    return text
