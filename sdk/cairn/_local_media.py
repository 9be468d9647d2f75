"""Media that still lie on this machine: what a spool says of them, and their files beside it."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cairn import _frames
from cairn._media import ARM
from cairn._segments import media_folder, read_all, writers


@dataclass(frozen=True, slots=True)
class LocalItem:
    """A histogram, table or image. `data` is None once the server has it."""

    kind: str
    media_type: str
    caption: str
    data: bytes | None = field(repr=False)

    @property
    def value(self) -> Any:
        """Of a histogram or table: `edges` and `counts`, or `columns` and `rows`."""
        return json.loads(self.data) if self.data is not None and self.media_type.endswith("json") else None


@dataclass(frozen=True, slots=True)
class LocalMedia:
    """What was logged under a key at a step, last."""

    key: str
    step: int
    time: float
    items: tuple[LocalItem, ...]


def media(*spools: Path, key: str = "") -> list[LocalMedia]:
    """By key and step; of several for one step the one that was logged last. No `key`: all."""
    found: dict[tuple[str, int], LocalMedia] = {}
    for spool in spools:
        for told in _events(spool):
            one = _read(told, media_folder(spool))
            place = (one.key, one.step)
            if key in ("", one.key) and (place not in found or found[place].time <= one.time):
                found[place] = one
    return [found[place] for place in sorted(found)]


def _events(spool: Path) -> Iterator[dict[str, Any]]:
    for folder in writers(spool):
        for _, frame in read_all(folder):
            if frame.payload[0] == _frames.JSON:
                value = json.loads(frame.payload[1:])
                if value.get("arm") == ARM:
                    yield value["value"]


def _read(told: dict[str, Any], folder: Path) -> LocalMedia:
    items = tuple(
        LocalItem(
            kind=str(item["kind"]).removeprefix("KIND_").lower(), media_type=str(item["media_type"]),
            caption=str(item.get("caption", "")), data=_bytes(item, folder),
        )
        for item in told["items"]
    )  # fmt: skip
    return LocalMedia(str(told["key"]), int(told["step"]), float(told["time"]), items)


def _bytes(item: dict[str, Any], folder: Path) -> bytes | None:
    if "data" in item:
        return b64decode(item["data"])
    try:
        return (folder / str(item["digest"])).read_bytes()
    except OSError:
        return None
