"""Evaluations: how a version of a model does on a version of a dataset."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cairn._ids import new_uid
from cairn._keep import Artifact, attempt, look_up, measured, save
from cairn._publish import Version
from cairn._tables import is_table, write_table
from cairn._transfer import sources

METRICS = "metrics.json"
_LONGEST_NAME = 63


def log_evaluation(
    model: str | Artifact,
    dataset: str | Artifact,
    metrics: Mapping[str, float],
    *,
    table: Any = None,
    name: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Artifact | None:
    """Records what ``model`` came to on ``dataset`` (``digits:v7``, ``digits:best``, or what `save_model` and
    `save_dataset` gave): ``cairn evals board DATASET`` ranks it.

    ``metrics`` are numbers; ``table``, such as one row an example, is a pandas, pyarrow or polars table, a
    list of dicts, or a file. What this run did not make is an input of it. Returns once it is committed.
    Trouble is a warning and gives None, and an exception only in a strict run.
    """
    from cairn._run import current_run

    run = current_run()

    def make() -> Artifact:
        found = measured(metrics)
        if not found:
            raise ValueError("metrics: give at least one number, such as {'accuracy': 0.98}")
        of, on = look_up(run, model), look_up(run, dataset)
        artifact = name or f"{of.artifact}-on-{on.artifact}"[:_LONGEST_NAME].rstrip("-")
        with tempfile.TemporaryDirectory(prefix="cairn-evaluation-") as folder:
            about = {"model": of.ref, "dataset": on.ref, "metrics": found}
            (Path(folder) / METRICS).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
            if table is not None:
                _bring(table, Path(folder))
            version = Version(
                artifact=artifact,
                kind="evaluation",
                run_uid=run.uid,
                metadata={**dict(metadata or {}), **about},
                sources=(of.name, on.name),
                request_id=new_uid(),
            )
            return save(run, sources(Path(folder)), version)

    return attempt(run, f"the evaluation of {model if isinstance(model, str) else model.ref}", make)


def _bring(table: Any, folder: Path) -> None:
    if is_table(table):
        write_table(table, folder, "table")
    elif isinstance(table, str | os.PathLike):
        shutil.copyfile(table, folder / f"table{Path(table).suffix}")
    else:
        raise ValueError(f"table: {type(table).__name__} is none; give a table of pandas, pyarrow or polars, "
                         "a list of dicts, or a file")  # fmt: skip
