"""Versions that a run makes: to the server, or into the local store beside the runs."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn import _values
from cairn._http import Api, Json, Query, segment
from cairn._ids import new_uid
from cairn._publish import Version, kind_name, publish
from cairn._transfer import Source

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

    @property
    def ref(self) -> str:
        """As people write it: ``digits:v7``."""
        return f"{self.artifact}:v{self.version}"


def attempt(run: Run, what: str, save: Callable[[], Artifact]) -> Artifact | None:
    """What `save` made; its trouble is a warning and gives None, and an exception only in a strict run."""
    try:
        return save()
    except Exception as error:  # what tables and addresses are read with raises whatever it likes
        if run.strict:
            raise
        _log.warning("cairn: %s was not saved: %s", what, error)
        return None


def save(run: Run, files: Sequence[Source], version: Version) -> Artifact:
    """Commits the next version of an artifact, made by this run. Raises `TransferError`, `UnsafePath`,
    `Unreachable`, `ApiError`, OSError, ValueError."""
    api = run.api()
    if api is None:
        return _save_local(run, files, version)
    made = publish(api, run.team, files, version)
    return Artifact(version.artifact, int(made["version"]), str(made["name"]))


def look_up(run: Run, ref: str | Artifact, *, use: bool = True) -> Artifact:
    """What ``name``, ``name:alias`` or ``name:v3`` means now; with `use` it is an input of the run that
    did not make it.

    Raises `ApiError` or FileNotFoundError where there is none, and `Unreachable`.
    """
    name, _, wanted = (ref.ref if isinstance(ref, Artifact) else ref).partition(":")
    api = run.api()
    if api is None:
        number = local_version(store(run, name), wanted)
        return Artifact(name, number, f"{name}:v{number}")
    found = fetch(run, api, name, wanted, use=False)
    # What the run itself made is no input of it.
    if use and str(found.get("run", "")).rpartition("/")[2] != run.uid:
        found = fetch(run, api, name, f"v{found['version']}", use=True)
    return Artifact(name, int(found["version"]), str(found["name"]))


def fetch(run: Run, api: Api, name: str, wanted: str, *, use: bool = True) -> Json:
    """A version with its files, noted as an input; of a rerun the one that its origin had."""
    number = wanted[1:] if wanted[:1] == "v" and wanted[1:].isdigit() else wanted or "latest"
    path = f"/api/v1/teams/{segment(run.team)}/artifacts/{segment(name)}/versions/{segment(number)}"
    before = run.job.rerun if run.job is not None else ""
    query: Query = {"used_by": run.uid if use else None, "as_read_by": before or None}
    return api.get(path, query, patience=60.0)


def measured(metrics: Mapping[str, Any]) -> dict[str, float | str]:
    """Numbers by key, nested mappings joined by `/`; NaN and infinities as the API's texts for them.

    Raises ValueError for what is no number.
    """
    wrong: list[str] = []
    found, media = _values.flatten(metrics, wrong.append)
    wrong += (f"the value of {key!r} is no number" for key in media)
    if wrong:
        raise ValueError(f"metrics: {wrong[0]}")
    names = {math.inf: "Infinity", -math.inf: "-Infinity"}
    return {key: value if math.isfinite(value) else names.get(value, "NaN") for key, value in found.items()}


def store(run: Run, name: str) -> Path:
    """Where the local store keeps an artifact: beside the runs, as other runs use it, too."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(f"{name!r} is no name for an artifact: a-z, 0-9 and -, beginning with a letter")
    return run.directory.parent.parent / "artifacts" / name


def local_version(folder: Path, wanted: str) -> int:
    """The number that a version has in the local store. Raises FileNotFoundError."""
    for version in sorted(_local_versions(folder), reverse=True):
        about = json.loads((folder / f"v{version}" / LOCAL_MANIFEST).read_text())
        if wanted in ("", "latest", f"v{version}", str(version), *about["aliases"]):
            return version
    raise FileNotFoundError(f"the local store {folder.parent} has no {folder.name}:{wanted or 'latest'}")


def _save_local(run: Run, files: Sequence[Source], version: Version) -> Artifact:
    kind_name(version.kind)
    folder = store(run, version.artifact)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".partial-{new_uid()}"
    try:
        for source in files:
            target = partial / "content" / source.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.file, target)
        about = {
            "kind": version.kind,
            "run": run.uid,
            "metadata": version.metadata,
            "aliases": list(version.aliases),
            "sources": list(version.sources),
        }
        (partial / LOCAL_MANIFEST).write_text(json.dumps(about))
        number = _place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Artifact(version.artifact, number, f"{version.artifact}:v{number}")


def _place(partial: Path, folder: Path) -> int:
    """Gives it the next free number, also where another process takes the same one first."""
    while True:
        version = max([0, *_local_versions(folder)]) + 1
        try:
            os.rename(partial, folder / f"v{version}")
            return version
        except OSError:
            if not (folder / f"v{version}").exists():
                raise


def _local_versions(folder: Path) -> list[int]:
    return [int(each.name[1:]) for each in folder.glob("v*") if each.name[1:].isdigit()]
