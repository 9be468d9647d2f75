"""Histograms, tables and images as files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

from cairn._http import Json
from cairn.client import Client

_ENDINGS = {
    "application/json": "json", "image/png": "png", "image/jpeg": "jpg", "image/gif": "gif",
    "image/webp": "webp",
}  # fmt: skip
# Of a file system's 255.
_LONGEST = 180


def kind_of(item: Json) -> str:
    """histogram, table or image."""
    return str(item.get("kind", "")).removeprefix("KIND_").lower()


def save(client: Client, run: str, media: Json, index: int, folder: Path) -> Path:
    """Writes an item as ``<folder>/<key>/<step>-<index>.<ending>``, whole or not at all.

    Raises as `Client.media_bytes`, and OSError.
    """
    key, step, item = str(media["key"]), int(media["step"]), media["items"][index]
    data = client.media_bytes(run, key, step, item, index)
    place = folder / file_name(key)
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{step}-{index}.{_ENDINGS.get(str(item.get('media_type')), 'bin')}"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def file_name(key: str) -> str:
    """A key as the name of one folder, whatever is in it: `train/x` becomes `train%2Fx`."""
    name = quote(key, safe=" ")
    if len(name) > _LONGEST:
        name = f"{name[:_LONGEST]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return "%2E" + name[1:] if name.startswith(".") else name
