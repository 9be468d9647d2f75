"""Files of the caller's machine, laid out where the task's `file_mounts` wants them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cairn._runner.code import CodeError, unpack


def lay(archive: Path, target: str, *, file: bool, work: Path, home: str, scratch: Path) -> None:
    """Unpacks an archive at `target`: absolute, in `home` (`~/...`), or in the working directory.

    `file`: the archive holds one file, which is to be `target` itself. What is there already stays beside the
    new files, or is replaced by them. Raises CodeError.
    """
    place = _place(target, work, home)
    try:
        if not file:
            place.mkdir(parents=True, exist_ok=True)
            unpack(archive, place)
            return
        scratch.mkdir(mode=0o700)
        try:
            unpack(archive, scratch)
            _put_file(scratch, place)
        finally:
            shutil.rmtree(scratch)
    except CodeError as error:
        hopeless = error.hopeless or isinstance(error.__cause__, PermissionError | FileExistsError)
        raise CodeError(f"file_mounts.{target}: {error}", hopeless=hopeless) from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        kinds = ("a file", "a folder") if file else ("a folder", "a file")
        told = f"it is {kinds[0]}, and on the node {kinds[1]} is in its way"
        raise CodeError(f"file_mounts.{target}: {told}.", hopeless=True) from error
    except OSError as error:
        raise CodeError(
            f"file_mounts.{target}: it cannot be made on the node: {error.strerror or error}.",
            hopeless=isinstance(error, PermissionError),
        ) from error


def _place(target: str, work: Path, home: str) -> Path:
    if target == "~" or target.startswith("~/"):
        return Path(home) / target[2:]
    if os.path.isabs(target):
        return Path(target)
    place = work / target
    # The working directory may hold links.
    if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(work)):
        raise CodeError(f"file_mounts.{target}: it leads out of the working directory.", hopeless=True)
    return place


def _put_file(folder: Path, place: Path) -> None:
    names = os.listdir(folder)
    if len(names) != 1 or not (folder / names[0]).is_file():
        raise CodeError("its archive does not hold one file.", hopeless=True)
    if place.is_dir():
        raise IsADirectoryError
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()
    # Perhaps onto another file system.
    shutil.move(folder / names[0], place)
