"""Files that a run makes and files that it needs: versions with lineage, in one line each."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn._blobs import TransferError
from cairn._download import download_folder
from cairn._http import Api, ApiError, Query, Unreachable, segment
from cairn._ids import new_uid
from cairn._paths import UnsafePath
from cairn._publish import Version, kind_name, publish
from cairn._transfer import entries_of, sources

if TYPE_CHECKING:
    from cairn._run import Run

LOCAL_MANIFEST = "version.json"
_log = logging.getLogger("cairn")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A committed version: its artifact, its number from 1, and its name."""

    artifact: str
    version: int
    name: str


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
    try:
        api = run.api()
        if api is None:
            return _save_local(run, Path(path), name, kind, metadata, aliases)
        version = Version(
            artifact=name,
            kind=kind,
            run_uid=run.uid,
            metadata=dict(metadata or {}),
            aliases=tuple(aliases),
            request_id=new_uid(),
        )
        made = publish(api, run.team, sources(Path(path)), version)
        return Artifact(name, int(made["version"]), str(made["name"]))
    except (TransferError, UnsafePath, Unreachable, ApiError, OSError, ValueError) as error:
        if run.strict:
            raise
        _log.warning("cairn: artifact %r was not saved: %s", name, error)
        return None


def use_artifact(ref: str) -> Path:
    """The folder with the files of ``name``, ``name:alias`` or ``name:v3``; recorded as an input of this run.

    What was fetched before is not fetched again; each file is verified. Raises `ApiError` where there is no
    such version, `Unreachable`, `TransferError`, and `FileNotFoundError` in the local store.
    """
    from cairn._run import current_run

    name, _, wanted = ref.partition(":")
    run = current_run()
    api = run.api()
    return _use_local(run, name, wanted) if api is None else _use_remote(run, api, name, wanted)


def _use_remote(run: Run, api: Api, name: str, wanted: str) -> Path:
    number = wanted[1:] if wanted[:1] == "v" and wanted[1:].isdigit() else wanted or "latest"
    path = f"/api/v1/teams/{segment(run.team)}/artifacts/{segment(name)}/versions/{segment(number)}"
    query: Query = {"used_by": run.uid, "as_read_by": (run.job.rerun or None) if run.job else None}
    version = api.get(path, query, patience=60.0)
    folder = run.directory / "inputs" / name / f"v{int(version['version'])}"
    download_folder(api, run.team, entries_of(version), folder)
    return folder


def _store(run: Run, name: str) -> Path:
    """Where the local store keeps an artifact: beside the runs, as other runs use it, too."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(f"{name!r} is no name for an artifact: a-z, 0-9 and -, beginning with a letter")
    return run.directory.parent.parent / "artifacts" / name


def _save_local(
    run: Run, path: Path, name: str, kind: str, metadata: Mapping[str, Any] | None, aliases: Sequence[str]
) -> Artifact:
    kind_name(kind)
    store = _store(run, name)
    store.mkdir(parents=True, exist_ok=True)
    partial = store / f".partial-{new_uid()}"
    try:
        for source in sources(path):
            target = partial / "content" / source.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.file, target)
        about = {"kind": kind, "run": run.uid, "metadata": dict(metadata or {}), "aliases": list(aliases)}
        (partial / LOCAL_MANIFEST).write_text(json.dumps(about))
        version = _place(partial, store)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Artifact(name, version, f"{name}:v{version}")


def _place(partial: Path, store: Path) -> int:
    """Gives it the next free number, also where another process takes the same one first."""
    while True:
        version = max([0, *_local_versions(store)]) + 1
        try:
            os.rename(partial, store / f"v{version}")
            return version
        except OSError:
            if not (store / f"v{version}").exists():
                raise


def _local_versions(store: Path) -> list[int]:
    return [int(each.name[1:]) for each in store.glob("v*") if each.name[1:].isdigit()]


def _use_local(run: Run, name: str, wanted: str) -> Path:
    store = _store(run, name)
    for version in sorted(_local_versions(store), reverse=True):
        about = json.loads((store / f"v{version}" / LOCAL_MANIFEST).read_text())
        if wanted in ("", "latest", f"v{version}", str(version), *about["aliases"]):
            return store / f"v{version}" / "content"
    raise FileNotFoundError(f"the local store {store.parent} has no {name}:{wanted or 'latest'}")
