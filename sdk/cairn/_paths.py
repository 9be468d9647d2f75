"""Paths that come from a manifest: never trusted to stay inside the folder they are put in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_DRIVE = re.compile(r"^[A-Za-z]:")
# Bytes, as the server takes them.
LONGEST = 1024
LONGEST_PART = 255


class UnsafePath(Exception):
    """A manifest names a path that could leave its folder, or that no file system would take."""


def check_path(path: str) -> str:
    """``path`` as it came: relative, ``/`` between parts, no ``..``. Raises `UnsafePath`."""
    parts = path.split("/")
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise UnsafePath(f"the path {path[:200]!r} is no valid Unicode: rename the file") from None
    if (
        not 0 < length <= LONGEST
        or _FORBIDDEN.search(path)
        or _DRIVE.match(path)
        or any(part in ("", ".", "..") or len(part.encode()) > LONGEST_PART for part in parts)
    ):
        raise UnsafePath(f"the path {path[:200]!r} is not a plain relative path; nothing was written")
    return path


def check_paths(paths: Iterable[str]) -> None:
    """Refuses unsafe paths, one that is there twice, and one that is file and folder. Raises `UnsafePath`."""
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        if check_path(path) in files:
            raise UnsafePath(f"the path {path!r} is there twice")
        files.add(path)
        folders.update(str(parent) for parent in PurePosixPath(path).parents)
    if both := files & folders:
        raise UnsafePath(f"the path {min(both)!r} is both a file and a folder")


def place(folder: Path, path: str) -> Path:
    """Where ``path`` goes below ``folder``, its parents made. A link on the way is refused."""
    target = folder
    *parents, name = check_path(path).split("/")
    for part in parents:
        target = target / part
        if target.is_symlink():
            raise UnsafePath(f"{target} is a link; files are not written through links")
        target.mkdir(exist_ok=True)
    return target / name
