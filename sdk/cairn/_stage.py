"""Consistent copies of checkpoints on local disk: what is to be sent, and the store without a server.

A state is written straight to where it is sent from, and that is all there is of it. Files are cloned where
the disk can do that (XFS, Btrfs: nothing is copied until one of the two is written), linked where nobody is
going to write into them, and copied else.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cairn._transfer import Source, Stamp, sources, stamp_of
from cairn._upload import ChangedError

MANIFEST = "manifest.json"
CONTENT = "content"
STATE_FILE = "state.pt"
_FICLONE = 0x40049409
_DISTRIBUTED = re.compile(r"__(\d+)_\d+\.distcp")


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of a checkpoint that `ranks` of them write."""

    rank: int
    ranks: int
    # How often this step was saved before, by this process.
    round: int = 0


class StageError(Exception):
    """What was given cannot be saved as a checkpoint."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A copy that nothing else writes to, whole since its manifest is there."""

    folder: Path
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    # The file's name in the content folder; empty: a folder was saved.
    file: str = ""
    # Which rank's it is, and of how many; None: the whole is one's.
    shard: Shard | None = None
    # Of files (paths within the content) that are links to another's: how they were when they were given.
    links: dict[str, Stamp] = field(default_factory=dict)

    @property
    def content(self) -> Path:
        """The file, or the folder."""
        return self.folder / CONTENT / self.file

    def sources(self) -> list[Source]:
        """The files to send; a rank may have none."""
        content = self.folder / CONTENT
        if self.shard is not None and not any(content.iterdir()):
            return []
        return [replace(source, stamp=self.links.get(source.path)) for source in sources(content)]

    def own(self) -> None:
        """Copies what is linked still: from here on nobody else can write to it. Raises `ChangedError` where
        somebody did, and `OSError`."""
        for path, stamp in list(self.links.items()):
            file = self.folder / CONTENT / path
            copy = file.with_name(f".{file.name}.copy")
            shutil.copyfile(file, copy)
            if stamp_of(file.stat()) != stamp:
                raise ChangedError(f"{path} was written before all of it was read")
            os.replace(copy, file)
            del self.links[path]

    def remove(self) -> None:
        """The manifest first, so that no half of it counts as whole."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def stage(
    path_or_state: Any,
    folder: Path,
    *,
    step: int,
    metrics: Mapping[str, float],
    shard: Shard | None = None,
    link: bool = False,
) -> Staged:
    """Clones or copies a file or folder, or writes a state by ``torch.save``, below ``folder``; of a folder
    that ranks share only what this one wrote.

    With ``link`` files of the same disk become hard links. That is no copy: a training that writes its file
    again in place would change it, so how it is now is noted, and another one is never sent. Raises
    `StageError`, `TransferError`, `UnsafePath`, `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
    try:
        links: dict[str, Stamp] = {}
        file = _copy(path_or_state, partial / CONTENT, shard, links if link else None)
        manifest = {"step": step, "metrics": dict(metrics), "file": file}
        (partial / MANIFEST).write_text(json.dumps(manifest))
        final = _number(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Staged(final, step, dict(metrics), file, shard, links)


def own_files(found: Sequence[Source], rank: int) -> list[Source]:
    """What this rank wrote of a folder: torch.distributed.checkpoint has names for that, and rank 0 writes
    what describes the whole. Of another folder everything counts as its own."""
    writers = [_DISTRIBUTED.fullmatch(source.path.rsplit("/", 1)[-1]) for source in found]
    if not any(writers):
        return list(found)
    return [
        source
        for source, writer in zip(found, writers, strict=True)
        if (int(writer[1]) if writer else 0) == rank
    ]


def state_of(rank: int) -> str:
    """The file with the state that one rank saved of its own."""
    return f"state-{rank:05d}.pt"


def latest(folder: Path) -> Staged | None:
    """The copy staged last; None if there is none."""
    for number in sorted(_numbers(folder), reverse=True):
        each = folder / f"local-{number}" / MANIFEST
        try:
            manifest = json.loads(each.read_text())
            return Staged(
                each.parent, int(manifest["step"]), dict(manifest["metrics"]), str(manifest["file"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being removed, or never finished
    return None


def _number(partial: Path, folder: Path) -> Path:
    """Gives a whole copy the next number: two saves can fall into one tick of any clock."""
    while True:
        final = folder / f"local-{max([0, *_numbers(folder)]) + 1}"
        try:
            os.rename(partial, final)
            return final
        except OSError:
            if not final.exists():  # else another thread took the number
                raise


def _numbers(folder: Path) -> list[int]:
    names = (each.name.removeprefix("local-") for each in folder.glob("local-*"))
    return [int(name) for name in names if name.isdigit()]


def _copy(given: Any, target: Path, shard: Shard | None, links: dict[str, Stamp] | None) -> str:
    if not isinstance(given, str | os.PathLike):
        name = STATE_FILE if shard is None else state_of(shard.rank)
        target.mkdir()
        write_state(given, target / name)
        return name
    path = Path(given)
    if not path.exists():
        raise StageError(f"{path} does not exist")
    target.mkdir()
    found = sources(path)  # refuses links that lead out, sockets, an empty folder
    for source in found if shard is None else own_files(found, shard.rank):
        copy = target / source.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        stamp = None if links is None or source.file.is_symlink() else _linked(source.file, copy)
        if stamp is not None and links is not None:
            links[source.path] = stamp
        elif not _cloned(source.file, copy):
            shutil.copyfile(source.file, copy)
    return path.name if path.is_file() else ""


def _linked(file: Path, link: Path) -> Stamp | None:
    """How a file is that was linked; None where it cannot be: it is on another disk, or somebody else's."""
    with contextlib.suppress(OSError):
        os.link(file, link)
        return stamp_of(link.stat())
    return None


def _cloned(file: Path, clone: Path) -> bool:
    """Lets both names share the bytes until one of them is written; False where the disk cannot."""
    with file.open("rb") as source, clone.open("wb") as target:
        try:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        except OSError:
            return False
    return True


def write_state(state: Any, path: Path) -> None:
    """Writes a state, or that of an object with a `state_dict`, by ``torch.save``. Raises `StageError`."""
    try:
        import torch
    except ImportError:
        raise StageError(
            f"a state of type {type(state).__name__} is saved by torch.save, and there is no PyTorch here; "
            "write it to a file as you like and give that file's path"
        ) from None
    own = getattr(state, "state_dict", None)
    try:
        torch.save(own() if callable(own) else state, path)
    except (TypeError, AttributeError, RuntimeError) as error:
        raise StageError(f"torch.save refuses a state of type {type(state).__name__}: {error}") from error
