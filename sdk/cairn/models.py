"""Models: what a training came to, with its framework, its metrics and what it was made from."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cairn._ids import new_uid
from cairn._keep import Artifact, attempt, look_up, measured, save
from cairn._publish import Version
from cairn._stage import STATE_FILE, StageError, write_state
from cairn._transfer import sources


def save_model(
    path_or_state: Any,
    name: str,
    *,
    framework: str = "",
    metrics: Mapping[str, float] | None = None,
    metadata: Mapping[str, Any] | None = None,
    aliases: Sequence[str] = (),
    made_from: Sequence[str | Artifact] = (),
) -> Artifact | None:
    """Saves a file, a folder, a ``state_dict`` or an object with one as the next version of model ``name``.

    ``metrics`` and ``framework`` (of a state by itself: pytorch) are kept with it; ``made_from`` names other
    versions (``digits:v3``) that it comes from, beside what this run read. Returns once it is committed.
    Trouble is a warning and gives None, and an exception only in a strict run.
    """
    from cairn._run import current_run

    run = current_run()

    def make() -> Artifact:
        with tempfile.TemporaryDirectory(prefix="cairn-model-") as folder:
            path, known = _file(path_or_state, Path(folder))
            about = {
                **dict(metadata or {}),
                "framework": framework or known,
                "metrics": measured(metrics or {}),
            }
            version = Version(
                artifact=name,
                kind="model",
                run_uid=run.uid,
                metadata=about,
                aliases=tuple(aliases),
                sources=tuple(look_up(run, each).name for each in made_from),
                request_id=new_uid(),
            )
            return save(run, sources(path), version)

    return attempt(run, f"model {name!r}", make)


def _file(given: Any, folder: Path) -> tuple[Path, str]:
    """Where its files are, and the framework as far as it is seen."""
    if isinstance(given, str | os.PathLike):
        return Path(given), ""
    path = folder / STATE_FILE
    try:
        write_state(given, path)
    except StageError as error:
        raise ValueError(str(error)) from None
    return path, "pytorch"
