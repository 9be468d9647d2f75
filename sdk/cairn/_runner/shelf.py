"""The folder of environments that the attempts of a machine share: built once, used by many, bounded in size.

An environment works at one path only, so it is built where it stays: while a file's lock is held by the one
that builds, and marked as complete at the end. Its users hold the same lock, shared, until they end; what
somebody holds is never removed. A lock goes with its process, so a killed build leaves nothing that anybody
would take for an environment.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_BYTES = 50 * 2**30
# The others on this disk need some room, too.
LEAST_FREE_BYTES = 5 * 2**30
_MARKER = "cairn-complete.json"
_STALE_SECONDS = 6 * 3600.0
# The kernel has no event for a lock that somebody lets go; this is only slept through beside a build.
_WAIT_SECONDS = 0.2


class Stopped(Exception):
    """The attempt was stopped meanwhile."""


@dataclass(slots=True)
class Held:
    """A complete environment, kept from removal until this process ends or `release`."""

    path: Path
    facts: Mapping[str, Any]
    built: bool
    _handle: int

    def release(self) -> None:
        """Lets others remove it."""
        os.close(self._handle)


class Shelf:
    """See the module. `pause(seconds)` waits and returns whether to stop."""

    def __init__(self, root: Path, *, most_bytes: int = 0, pause: Callable[[float], bool]) -> None:
        self._root = root
        self._most = most_bytes or DEFAULT_BYTES
        self._pause = pause
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def take(
        self, digest: str, build: Callable[[Path], Mapping[str, Any]], *, waiting: Callable[[], None]
    ) -> Held:
        """The environment, built by `build(path)` if nobody has; what that returns is kept as its facts.

        `waiting` is called once if another process is at it. Raises Stopped, OSError, and what `build` does.
        """
        told = False
        while True:
            handle = self._open(digest)
            if handle is not None:
                try:
                    held = self._try(digest, handle, build)
                except BaseException:
                    os.close(handle)
                    raise
                if held is not None:
                    return held
                os.close(handle)
            if not told:
                told = True
                waiting()
            if self._pause(_WAIT_SECONDS * random.uniform(0.5, 1.5)):  # noqa: S311 - jitter
                raise Stopped

    def prune(self) -> None:
        """Removes what was not used for the longest time, down to the limits, and what killed builds left."""
        handle = os.open(self._root / ".prune.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _lock(handle, fcntl.LOCK_EX):
                return
            for gone in self._root.glob(".gone-*"):
                shutil.rmtree(gone, ignore_errors=True)
            known = sorted(self._known(), key=lambda one: one[1])
            total = sum(size for _, _, size in known)
            for digest, used, size in known:
                stale = not size and time.time() - used > _STALE_SECONDS
                full = shutil.disk_usage(self._root).free < LEAST_FREE_BYTES
                if (total > self._most or full or stale) and self._remove(digest):
                    total -= size
        finally:
            os.close(handle)

    def _try(self, digest: str, handle: int, build: Callable[[Path], Mapping[str, Any]]) -> Held | None:
        """One try with an open lock; None: somebody else holds it, or has just removed it."""
        path = self._root / digest
        if not _lock(handle, fcntl.LOCK_SH) or not self._is_current(digest, handle):
            return None
        built = False
        if _facts(path) is None:
            if not _lock(handle, fcntl.LOCK_EX) or not self._is_current(digest, handle):
                return None
            if _facts(path) is None:
                self._build(path, build)
                built = True
            if not _lock(handle, fcntl.LOCK_SH):
                return None
        facts = _facts(path)
        if facts is None:
            return None
        os.utime(path / _MARKER)
        if built:
            self.prune()
        return Held(path, facts, built, handle)

    def _build(self, path: Path, build: Callable[[Path], Mapping[str, Any]]) -> None:
        self.prune()
        _remove(path)
        try:
            facts = build(path)
            content = {**facts, "bytes": _size(path)}
            hidden = path / f".{_MARKER}.new"
            with open(hidden, "w") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(hidden, path / _MARKER)
        except BaseException:
            _remove(path)
            raise

    def _known(self) -> list[tuple[str, float, int]]:
        """Digest, time of last use, bytes (0: not complete) of all that is here."""
        found = []
        for entry in os.scandir(self._root):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                facts = _facts(Path(entry.path))
                try:
                    at = os.stat(os.path.join(entry.path, _MARKER) if facts is not None else entry.path)
                except OSError:
                    continue
                found.append((entry.name, at.st_mtime, int((facts or {}).get("bytes") or 0)))
        return found

    def _remove(self, digest: str) -> bool:
        """False: it is in use."""
        handle = self._open(digest)
        if handle is None:
            return False
        try:
            if not _lock(handle, fcntl.LOCK_EX) or not self._is_current(digest, handle):
                return False
            gone = self._root / f".gone-{digest}-{os.getpid()}"
            os.replace(self._root / digest, gone)
            (self._root / f"{digest}.lock").unlink(missing_ok=True)
            shutil.rmtree(gone, ignore_errors=True)
            return True
        except OSError:
            return False
        finally:
            os.close(handle)

    def _open(self, digest: str) -> int | None:
        try:
            return os.open(self._root / f"{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the whole folder was removed
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            return None

    def _is_current(self, digest: str, handle: int) -> bool:
        """Whether the locked file is still the one of that name: it may have been removed meanwhile."""
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self._root / f"{digest}.lock"))
        except OSError:
            return False


def _lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.ENOLCK and error.errno != errno.EOPNOTSUPP:
            raise
        raise OSError(error.errno, "this file system cannot lock files; use a local folder") from error
    return True


def _facts(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads((path / _MARKER).read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def _remove(path: Path) -> None:
    if path.exists():
        gone = path.with_name(f".gone-{path.name}-{os.getpid()}-{time.monotonic_ns()}")
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _size(path: Path) -> int:
    """Bytes on the disk; a file that others link to counts in full."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
    return max(total, 1)
