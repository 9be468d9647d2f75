"""Track runs, metrics, checkpoints and artifacts, with or without a server.

    import cairn

    cairn.log({"loss": 0.3}, step=1)              # in a job of the platform nothing else is needed
    run = cairn.init(experiment="digits", params={"lr": 3e-4})   # elsewhere: a run of your own

Importing costs a few milliseconds: what needs more is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cairn._params import Config
from cairn._run import Run, current_run, define_metric, finish, init, log, log_image, log_table
from cairn._stopping import checkpoint_due, on_stop, stop_reason, stopping

if TYPE_CHECKING:
    from cairn._local import LocalRun, local_runs
    from cairn._sync import sync
    from cairn.artifacts import save_artifact, use_artifact
    from cairn.checkpoints import Checkpoint, CheckpointUnavailable, latest_checkpoint, save_checkpoint
    from cairn.client import Client
    from cairn.datasets import save_dataset
    from cairn.evaluations import log_evaluation
    from cairn.media import Histogram, Image, Table
    from cairn.models import save_model

    config: Config

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CheckpointUnavailable",
    "Client",
    "Config",
    "Histogram",
    "Image",
    "LocalRun",
    "Run",
    "Table",
    "checkpoint_due",
    "config",
    "current_run",
    "define_metric",
    "finish",
    "init",
    "latest_checkpoint",
    "local_runs",
    "log",
    "log_evaluation",
    "log_image",
    "log_table",
    "on_stop",
    "save_artifact",
    "save_checkpoint",
    "save_dataset",
    "save_model",
    "stop_reason",
    "stopping",
    "sync",
    "use_artifact",
]

_LAZY = {
    "Checkpoint": "cairn.checkpoints",
    "CheckpointUnavailable": "cairn.checkpoints",
    "Client": "cairn.client",
    "Histogram": "cairn.media",
    "Image": "cairn.media",
    "LocalRun": "cairn._local",
    "Table": "cairn.media",
    "latest_checkpoint": "cairn.checkpoints",
    "local_runs": "cairn._local",
    "log_evaluation": "cairn.evaluations",
    "save_artifact": "cairn.artifacts",
    "save_checkpoint": "cairn.checkpoints",
    "save_dataset": "cairn.datasets",
    "save_model": "cairn.models",
    "sync": "cairn._sync",
    "use_artifact": "cairn.artifacts",
}


def __getattr__(name: str) -> Any:
    if name == "config":
        return _config_now()
    if name not in _LAZY:
        raise AttributeError(f"module 'cairn' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _config_now() -> Config:
    """The run's params; before there is a run, what the platform chose for this job."""
    from cairn import _env, _run

    return current_run().config if _run.has_run() else Config(_env.given_params(), _begin_with)


def _begin_with(params: Mapping[str, Any]) -> None:
    current_run().update(params=params)
