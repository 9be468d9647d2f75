"""One log file for each process, kept from growing without bound."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO

MOST = 20 * 2**20
_TAIL = 4_000


def path(folder: Path, name: str) -> Path:
    """The log of the process `name`; what was before lies in `<name>.log.1`."""
    return folder / f"{name}.log"


def open_for(folder: Path, name: str) -> IO[bytes]:
    """Opens the log to append; rotates it first where it is due."""
    rotate(path(folder, name))
    handle = os.open(path(folder, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return os.fdopen(handle, "ab", buffering=0)


def rotate(file: Path, *, most: int = MOST) -> None:
    """Copies a log of more than `most` bytes aside and empties it; its writers append and notice nothing.

    Where the disk has no place for the copy, the end of the log is not kept: a log is what may go first.
    """
    try:
        if file.stat().st_size <= most:
            return
    except FileNotFoundError:
        return
    aside = file.with_name(f"{file.name}.1")
    try:
        shutil.copyfile(file, aside)
        aside.chmod(0o600)
    except OSError:
        aside.unlink(missing_ok=True)
    os.truncate(file, 0)


def tail(file: Path, lines: int = 15) -> str:
    """The last lines."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _TAIL))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
