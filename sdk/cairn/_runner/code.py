"""Fetching a job's code archive and unpacking it, believing nothing that it says."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

PATIENCE_SECONDS = 120.0
TIMEOUT_SECONDS = 15.0
MAX_BYTES = 8 * 1024**3
MAX_ENTRIES = 200_000
_CHUNK = 1024 * 1024
# What no retry mends; 401 and 403 may be a token that was renewed this moment.
_FINAL_STATUS = {400, 404, 405, 410, 413, 422}
_REFUSED_STATUS = {401, 403}
_REFUSED_TRIES = 3


class CodeError(Exception):
    """The code is not there, or is not what it should be. The message is for people.

    `hopeless`: no other attempt will find it otherwise.
    """

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class Stopped(Exception):
    """The attempt was stopped meanwhile."""


def fetch(
    url: str, target: Path, *, digest: str, size: int, token: Callable[[], str],
    pause: Callable[[float], bool], patience: float = PATIENCE_SECONDS,
) -> None:  # fmt: skip
    """Downloads an archive of `size` bytes with this sha256. `pause(seconds)` says whether to stop.

    Raises CodeError after `patience` seconds without success, or Stopped.
    """
    deadline = time.monotonic() + patience
    delay, refused = 0.2, 0
    while True:
        try:
            _download(url, target, digest=digest, size=size, token=token(), pause=pause)
            return
        except urllib.error.HTTPError as error:
            error.close()
            refused += error.code in _REFUSED_STATUS
            reason = f"the server answered {error.code}"
            if error.code in _FINAL_STATUS or refused >= _REFUSED_TRIES:
                raise CodeError(
                    f"The code {digest[:12]} cannot be fetched: {reason}.",
                    hopeless=error.code in _FINAL_STATUS,
                ) from error
        except (OSError, http.client.HTTPException, _Damaged) as error:
            reason = str(error) or type(error).__name__
        if time.monotonic() + delay > deadline:
            raise CodeError(f"The code {digest[:12]} could not be fetched: {reason}.")
        if pause(delay * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter
            raise Stopped
        delay = min(delay * 2, 10.0)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a gzipped tar; nothing lands outside of `folder`. Raises CodeError."""
    entries, total = 0, 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                entries, total = entries + 1, total + member.size
                _check(member)
                if entries > MAX_ENTRIES or total > MAX_BYTES:
                    raise CodeError(
                        f"The code is too large: {entries:,} files, {total:,} bytes so far.", hopeless=True
                    )
                _place(tar, member, folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise CodeError(f"The code's archive is damaged: {error}.") from error
    except OSError as error:
        raise CodeError(f"The code could not be unpacked: {error.strerror or error}.") from error


class _Damaged(Exception):
    """What came is not what was asked for."""


def _download(
    url: str, target: Path, *, digest: str, size: int, token: str, pause: Callable[[float], bool]
) -> None:
    request = urllib.request.Request(url)  # noqa: S310 - the platform's own address
    # Not redirected: the store that the answer points at must not see the token.
    request.add_unredirected_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer, open(target, "wb") as file:  # noqa: S310
        _copy(answer, file, digest=digest, size=size, pause=pause)


def _copy(
    answer: BinaryIO, file: BinaryIO, *, digest: str, size: int, pause: Callable[[float], bool]
) -> None:
    seen, count = hashlib.sha256(), 0
    while chunk := answer.read(_CHUNK):
        count += len(chunk)
        if count > size:
            raise _Damaged(f"more than the {size} bytes that were expected")
        seen.update(chunk)
        file.write(chunk)
        if pause(0):
            raise Stopped
    if count != size or seen.hexdigest() != digest:
        raise _Damaged(f"{count} bytes of {size} came, or not the ones that were sent in")


def _check(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\x00" in member.name:
        raise CodeError(f"The code's archive is not safe to unpack: it holds {member.name!r}.", hopeless=True)
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise CodeError(f"The code's archive holds {member.name!r}, which is no file, folder or link.")


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Puts one member where it belongs. `tarfile` has filters for this only from Python 3.11.4 on."""
    target = folder / member.name
    _hold_inside(folder, target if member.isdir() else target.parent, member)
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        target.mkdir(exist_ok=True)
        return
    if target.is_symlink() or target.is_file():
        target.unlink()
    if member.issym():
        _hold_inside(folder, target.parent / member.linkname, member)
        target.symlink_to(member.linkname)
    elif member.islnk():
        _hold_inside(folder, folder / member.linkname, member)
        target.hardlink_to(folder / member.linkname)
    elif (content := tar.extractfile(member)) is not None:
        with content, open(target, "xb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
        # Never set-user-id, never writable by others, always readable by the job.
        target.chmod(member.mode & 0o755 | 0o600)


def _hold_inside(folder: Path, path: Path, member: tarfile.TarInfo) -> None:
    """Refuses a path that leads out of `folder`, also by way of links that were unpacked before."""
    # Not Path.resolve: that raises where links turn in a circle.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        told = f"The code's archive is not safe to unpack: {member.name!r} leads out of its folder."
        raise CodeError(told, hopeless=True)
