"""Media on their way from `log`: small ones in the spool's own events, larger ones as files beside it.

A file is named by the SHA-256 of its bytes, and lies there whole before the event that speaks of it is
written; `_uploading` sends it to the store. Both survive the end of the process.
"""

from __future__ import annotations

import hashlib
import os
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from cairn._segments import media_folder
from cairn.media import Encoded, Media

if TYPE_CHECKING:
    from cairn._run import Run

ARM = "media_logged"
MOST_ITEMS = 64
SMALL = 8 * 1024
_SMALL_TOGETHER = 64 * 1024
#: The variable that says how many bytes of media may wait beside a spool, and what holds without it.
MOST_BYTES = "CAIRN_MEDIA_BYTES"
DEFAULT_BYTES = 4 * 2**30
_LOOK_AFTER = 32
_LOOK_SECONDS = 1.0


def log(
    run: Run, given: Mapping[str, Sequence[Media]], *, step: int, time: float, report: Callable[[str], None]
) -> None:
    """Appends media by key at a step. What cannot be shown or kept is reported and left out."""
    for key, media in given.items():
        items: list[dict[str, Any]] = []
        room, full = _SMALL_TOGETHER, 0
        if len(media) > MOST_ITEMS:
            report(f"{key!r} has {len(media)} items; the first {MOST_ITEMS} of them are kept")
        for one in media[:MOST_ITEMS]:
            try:
                encoded = one.encode()
                inside = len(encoded.data) <= min(SMALL, room)
                if not inside and not _shelf(run).takes(len(encoded.data)):
                    full += 1
                    continue
                items.append(_item(encoded, None if inside else media_folder(run.spool)))
                room -= len(encoded.data) if inside else 0
            except Exception as error:  # users' objects may raise anything
                report(f"{key!r} cannot be kept: {error or type(error).__name__}")
        if full:
            run.leave_out_media(full)
            report(
                f"images and tables are left out: {media_folder(run.spool)} has"
                f" {_shelf(run).most / 2**20:,.1f} MiB that no server took yet, and no more may wait"
                f" there ({MOST_BYTES})"
            )
        if items:
            run.event(ARM, {"key": key, "step": step, "time": time, "items": items})
            if any("data" not in item for item in items):
                run.media_waits()


class Shelf:
    """How much lies in a folder of media, of which others take away what was sent; `most` bytes at most."""

    def __init__(self, folder: Path, most: int, *, clock: Callable[[], float] = monotonic) -> None:
        self.most = most
        self._folder = folder
        self._clock = clock
        self._known = most  # not looked yet
        self._writes = 0
        self._next_look = 0.0

    def takes(self, size: int) -> bool:
        """Whether there is room for so many bytes more, which are on their way then."""
        full, now = self._known + size > self.most, self._clock()
        # Other processes write here, too; and a full one is not looked through with every call.
        if self._writes >= _LOOK_AFTER or (full and now >= self._next_look):
            self._writes, self._next_look = 0, now + _LOOK_SECONDS
            self._known = _lying(self._folder)
            full = self._known + size > self.most
        if not full:
            self._known += size
            self._writes += 1
        return not full


def _lying(folder: Path) -> int:
    size = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # it was sent in the meantime
                size += entry.stat().st_size
    return size


def _shelf(run: Run) -> Shelf:
    if run.shelf is None:
        run.shelf = Shelf(media_folder(run.spool), _most_bytes())
    return run.shelf


def _most_bytes() -> int:
    try:
        return int(os.environ.get(MOST_BYTES) or DEFAULT_BYTES)
    except ValueError:
        return DEFAULT_BYTES


def taken_out(value: object) -> list[Media] | None:
    """A value of `log` as media: one, or a list of nothing else. None: it is something else."""
    if isinstance(value, Media):
        return [value]
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, Media) for each in value):
        return list(value)
    return None


def _item(encoded: Encoded, folder: Path | None) -> dict[str, Any]:
    digest = hashlib.sha256(encoded.data).hexdigest()
    told = {
        "kind": encoded.kind, "media_type": encoded.media_type, "size": len(encoded.data), "digest": digest,
        **encoded.facts,
    }  # fmt: skip
    if folder is None:
        told["data"] = b64encode(encoded.data).decode()
    else:
        _write(folder, digest, encoded.data)
    return told


def _write(folder: Path, digest: str, data: bytes) -> None:
    """Whole or not at all. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / digest
    if path.exists():
        return
    temporary = folder / f".{digest}.{os.getpid()}.{threading.get_ident()}"
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
