"""Files of versions that were fetched before, by their digests, on this machine's disk: bounded, best effort.

``CAIRN_CACHE_BYTES`` is how many bytes it may have (none: there is no cache), ``CAIRN_CACHE_DIR`` its folder.
Files are copied in and out; with ``CAIRN_CACHE_LINKS=1`` they are hard links where the disk is the same, and
read-only then, as a change would reach all who have the file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from cairn._transfer import Entry, consists_of


class Cache:
    """Whole files by digest; the one that was not used for longest goes first. Threads may share it."""

    def __init__(self, folder: Path, *, limit: int, links: bool = False) -> None:
        self._folder, self._limit, self._links = folder, limit, links

    @staticmethod
    def of(environ: Mapping[str, str]) -> Cache | None:
        """The cache that the environment asks for."""
        text = environ.get("CAIRN_CACHE_BYTES", "").strip()
        limit = int(text) if text.isascii() and text.isdigit() else 0
        if limit <= 0:
            return None
        base = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = Path(environ.get("CAIRN_CACHE_DIR") or os.path.join(base, "cairn", "files"))
        return Cache(folder, limit=limit, links=environ.get("CAIRN_CACHE_LINKS", "") == "1")

    def take(self, entry: Entry, target: Path) -> bool:
        """Puts the file of an entry at ``target``; False where it is not here, or not right any more."""
        if entry.size == 0:
            return False
        kept = self._path(entry.digest)
        temporary = target.with_name(f".cairn-{secrets.token_hex(8)}")
        try:
            if kept.stat().st_size != entry.size:
                return False
            self._bring(kept, temporary)
            if not consists_of(temporary, entry.parts):
                kept.unlink(missing_ok=True)
                return False
            os.replace(temporary, target)
            os.utime(kept)
            return True
        except OSError:
            return False
        finally:
            _remove(temporary)

    def keep(self, entry: Entry, path: Path) -> None:
        """Keeps an entry's file that was just verified."""
        kept = self._path(entry.digest)
        if not 0 < entry.size <= self._limit or kept.exists():
            return
        temporary = kept.with_name(f".{secrets.token_hex(8)}")
        try:
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._bring(path, temporary)
            os.replace(temporary, kept)
        except OSError:
            pass  # a full disk, say: what was fetched is there, and that is what counts
        finally:
            _remove(temporary)

    def trim(self) -> None:
        """Removes what was not used for longest, until the rest is within the limit."""
        found = sorted(self._kept(), key=lambda each: each[1].st_mtime_ns)
        total = sum(status.st_size for _, status in found)
        for path, status in found:
            if total <= self._limit:
                return
            _remove(path)
            total -= status.st_size

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def _bring(self, source: Path, target: Path) -> None:
        if self._links:
            try:
                os.link(source, target)
                os.chmod(target, 0o444)
                return
            except OSError:
                pass  # another disk, or one without links
        shutil.copyfile(source, target)

    def _kept(self) -> Iterator[tuple[Path, os.stat_result]]:
        for parent, _, names in os.walk(self._folder):
            for name in names:
                path = Path(parent, name)
                with contextlib.suppress(OSError):
                    yield path, path.stat()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
