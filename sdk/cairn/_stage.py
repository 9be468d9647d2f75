"""Consistent copies of checkpoints on local disk: what is to be sent, and the store without a server."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cairn._transfer import Source, sources

MANIFEST = "manifest.json"
CONTENT = "content"
STATE_FILE = "state.pt"
_DISTRIBUTED = re.compile(r"__(\d+)_\d+\.distcp")


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of a checkpoint that `ranks` of them write."""

    rank: int
    ranks: int


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

    @property
    def content(self) -> Path:
        """The file, or the folder."""
        return self.folder / CONTENT / self.file

    def sources(self) -> list[Source]:
        """The files to send; a rank may have none."""
        content = self.folder / CONTENT
        return [] if self.shard is not None and not any(content.iterdir()) else sources(content)

    def remove(self) -> None:
        """The manifest first, so that no half of it counts as whole."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def stage(
    path_or_state: Any, folder: Path, *, step: int, metrics: Mapping[str, float], shard: Shard | None = None
) -> Staged:
    """Copies a file or folder, or writes a state by ``torch.save``, below ``folder``; of a folder that ranks
    share only what this one wrote.

    A hard link would be no copy: a training that writes its file again in place would change it. Raises
    `StageError`, `TransferError`, `UnsafePath`, `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
    try:
        file = _copy(path_or_state, partial / CONTENT, shard)
        manifest = {"step": step, "metrics": dict(metrics), "file": file}
        (partial / MANIFEST).write_text(json.dumps(manifest))
        final = _number(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Staged(final, step, dict(metrics), file, shard)


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


def _copy(given: Any, target: Path, shard: Shard | None) -> str:
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
        shutil.copyfile(source.file, copy)
    return path.name if path.is_file() else ""


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
