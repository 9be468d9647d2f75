"""Datasets: files, tables, or references to what lies elsewhere, each version under its digest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cairn._blobs import TransferError
from cairn._ids import new_uid
from cairn._keep import Artifact, attempt, look_up, save
from cairn._publish import Version
from cairn._references import REFERENCES, describe, is_reference, write
from cairn._tables import is_table, write_table
from cairn._transfer import Source, sources


def save_dataset(
    name: str,
    data: Any,
    *,
    digest: str = "",
    metadata: Mapping[str, Any] | None = None,
    aliases: Sequence[str] = (),
    made_from: Sequence[str | Artifact] = (),
) -> Artifact | None:
    """Saves the next version of dataset ``name``, made by this run.

    ``data`` is a file, a folder or a list of files; a table (pandas, pyarrow, polars, or a list of dicts, one
    a row), of which columns and rows are kept beside it; or the address of what stays where it is (``s3://``,
    ``https://`` ... or a list of these): that is not copied, only its digest is kept. ``digest``
    (``sha256:...``) is believed; without one it is read once and hashed (of a private address only with
    ``CAIRN_PRIVATE_REFERENCES=1`` in the environment).

    Returns once it is committed. Trouble is a warning and gives None, and an exception only in a strict run.
    """
    from cairn._run import current_run

    run = current_run()

    def make() -> Artifact:
        with tempfile.TemporaryDirectory(prefix="cairn-dataset-") as folder:
            files, about = _files(data, digest, Path(folder))
            version = Version(
                artifact=name,
                kind="dataset",
                run_uid=run.uid,
                metadata={**about, **dict(metadata or {})},
                aliases=tuple(aliases),
                sources=tuple(look_up(run, each).name for each in made_from),
                request_id=new_uid(),
            )
            return save(run, files, version)

    return attempt(run, f"dataset {name!r}", make)


def _files(data: Any, digest: str, folder: Path) -> tuple[list[Source], dict[str, Any]]:
    """What to send, and what to say of it. Raises ValueError, OSError, `TransferError`."""
    several = data if isinstance(data, list | tuple) else [data]
    if several and all(is_reference(each) for each in several):
        if digest and len(several) > 1:
            raise ValueError("digest is of one reference; save each as a dataset of its own")
        found = [describe(str(each), digest) for each in several]
        return sources(write(found, folder / REFERENCES)), {"format": "reference", **_listed(found)}
    if digest:
        raise ValueError("digest is of a reference; files are hashed as they are sent")
    if is_table(data):
        path, about = write_table(data, folder, "data")
        return sources(path), about
    if isinstance(data, list | tuple):
        return _together([Path(each) for each in data]), {"format": "files"}
    if isinstance(data, str | os.PathLike):
        return sources(Path(data)), {"format": "files"}
    raise ValueError(
        f"{type(data).__name__} is no dataset: give a path, a table (pandas, pyarrow, polars, a list of "
        "dicts) or the address of something"
    )


def _together(paths: Sequence[Path]) -> list[Source]:
    if not paths:
        raise TransferError("an empty list: there is nothing to save")
    found = [source for path in paths for source in sources(path)]
    names = [source.path for source in found]
    for path in names:
        if names.count(path) > 1:
            raise ValueError(f"two of the files are called {path!r}: save their folder")
    return found


def _listed(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first of them, for people: all are in the file."""
    return {"references": [dict(each) for each in found[:50]], "reference_count": len(found)}
