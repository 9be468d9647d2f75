"""Files that a run makes and files that it needs: versions with lineage, in one line each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cairn._download import download_folder
from cairn._ids import new_uid
from cairn._keep import Artifact, attempt, fetch, local_version, save, store
from cairn._publish import Version
from cairn._transfer import entries_of, sources

__all__ = ["Artifact", "save_artifact", "use_artifact"]


def save_artifact(
    path: str | os.PathLike[str],
    name: str,
    kind: str = "file",
    metadata: Mapping[str, Any] | None = None,
    aliases: Sequence[str] = (),
) -> Artifact | None:
    """Saves a file or folder as the next version of ``name``, made by this run.

    ``kind`` is file, model, dataset or evaluation. Returns once the version is committed; what the store has
    already is not sent. Trouble is a warning and gives None, and an exception only in a strict run.
    """
    from cairn._run import current_run

    run = current_run()
    version = Version(
        artifact=name,
        kind=kind,
        run_uid=run.uid,
        metadata=dict(metadata or {}),
        aliases=tuple(aliases),
        request_id=new_uid(),
    )
    return attempt(run, f"artifact {name!r}", lambda: save(run, sources(Path(path)), version))


def use_artifact(ref: str) -> Path:
    """The folder with the files of ``name``, ``name:alias`` or ``name:v3``; recorded as an input of this run.

    What was fetched before is not fetched again; each file is verified. Raises `ApiError` where there is no
    such version, `Unreachable`, `TransferError`, and `FileNotFoundError` in the local store.
    """
    from cairn._run import current_run

    name, _, wanted = ref.partition(":")
    run = current_run()
    api = run.api()
    if api is None:
        folder = store(run, name)
        return folder / f"v{local_version(folder, wanted)}" / "content"
    version = fetch(run, api, name, wanted)
    folder = run.directory / "inputs" / name / f"v{int(version['version'])}"
    download_folder(api, run.team, entries_of(api, version), folder)
    return folder
