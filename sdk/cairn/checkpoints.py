"""Checkpoints that a killed training goes on from: saved beside the training, committed whole or not at all.

`save_checkpoint` makes a consistent copy and returns; a background thread sends and commits it.
`latest_checkpoint` brings back the last one that was committed, in this attempt or an earlier one.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn import _stage, _stopping
from cairn._blobs import TransferError
from cairn._download import download_folder
from cairn._http import Api, ApiError, Json, Pauses, Unreachable, segment
from cairn._paths import UnsafePath
from cairn._saver import Saver
from cairn._stage import Shard, StageError
from cairn._transfer import entries_of

if TYPE_CHECKING:
    from cairn._run import Run

PATIENCE = 300.0  # seconds that an unreachable server is waited for before a training would start from zero
EXIT_WAIT = 60.0
FAILURES = (TransferError, UnsafePath, Unreachable, ApiError, OSError)

_log = logging.getLogger("cairn")
_savers: dict[str, Saver] = {}
_told: set[tuple[str, int]] = set()
_lock = threading.Lock()


class CheckpointUnavailable(Exception):
    """Whether there is a checkpoint could not be learned. Never to be taken for "there is none"."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint on this machine's disk.

    ``path`` is the file, or the folder if a folder was saved; ``step`` and ``metrics`` are those that it was
    saved with; ``name`` is the version's name (``teams/.../artifacts/.../versions/3``).
    """

    path: Path
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    name: str = ""

    def load(self, map_location: Any = "cpu") -> Any:
        """The saved state, of a sharded one this rank's, by ``torch.load(weights_only=True)``. Raises
        `ValueError` for a folder."""
        path = self.path
        if path.is_dir() and (path / _stage.state_of(0)).exists():
            from cairn._run import current_run

            path /= _stage.state_of(_shard(current_run()).rank)
        if not path.is_file():
            raise ValueError(f"{path} is a folder, or not there; read its files as you wrote them")
        import torch

        return torch.load(path, map_location=map_location, weights_only=True)


def save_checkpoint(
    path_or_state: Any,
    step: int,
    metrics: Mapping[str, float] | None = None,
    wait: bool = False,
    *,
    sharded: bool = False,
    frozen: bool = False,
) -> None:
    """Saves a file, a folder, or any state that ``torch.save`` takes, as the run's checkpoint at ``step``.

    Returns once later writes cannot touch what is saved; with ``wait`` once it is committed (or a minute has
    passed). Checkpoints are committed in the order of the calls, and of several at one step the last is the
    one that counts. Trouble is a warning, and an exception only in a strict run.

    A state is written to disk once. Files are not copied with ``wait``, where the disk clones them (XFS,
    Btrfs), or if they are ``frozen``: nobody writes into them any more (they may be deleted, or another file
    moved to their place), as those of a folder of each step's own. One that is written all the same is
    refused, never saved half. Else a copy lies beside the run until it is committed.

    Call it from one rank, or, ``sharded``, from all with what each of them has (its state, files of its own,
    or the folder that torch.distributed.checkpoint wrote): it is committed once all ranks have saved, and
    never in part (``wait`` is then for this rank's share). After a `checkpoint_due` in a process that was
    told to end it waits for the commit and raises SystemExit (143).
    """
    from cairn._run import current_run

    run, ends = current_run(), False
    try:
        if step < 0:
            raise ValueError(f"step must not be negative, is {step}")
        saver = _saver(run)
        shard = replace(_shard(run), round=saver.next_round(int(step))) if sharded else None
        staged = _stage.stage(
            path_or_state,
            saver.folder,
            step=int(step),
            metrics=_numbers(metrics),
            shard=shard,
            link=saver.sends and (wait or frozen),
        )
        saver.save(staged)
        ends = _stopping.saved()
        if (wait or ends) and not saver.wait(EXIT_WAIT):
            if not frozen:
                staged.own()  # the caller goes on, and may write to its files
            raise TransferError(
                f"the checkpoint at step {step} is not committed yet; it is still being tried"
            )
    except (*FAILURES, StageError, ValueError, TypeError) as error:
        if run.strict:
            raise
        _log.warning("cairn: the checkpoint at step %s is not safe: %s", step, error)
    if ends:
        raise SystemExit(128 + signal.SIGTERM)


def latest_checkpoint() -> Checkpoint | None:
    """The run's last committed checkpoint, brought to local disk; None only if there is none.

    An unreachable server is waited for, up to five minutes. Raises `CheckpointUnavailable` after that, also
    in a run that is not strict: a training that started from zero instead would be silently wrong.
    """
    from cairn._run import current_run

    run = current_run()
    saver = _savers.get(run.uid)
    if saver is not None:
        _settled(saver, EXIT_WAIT)
    if run.job is None and saver is None:
        return None  # this process made up the run's id: nobody can have saved anything for it
    api = run.api()
    found = _local_latest(run) if api is None else _remote_latest(run, api)
    if found is not None and saver is None:
        _tell_resumed(run, found)
    return found


def wait_for_checkpoints(timeout: float) -> bool:
    """Waits until all that was saved is committed; False if some is not after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    done = [_settled(saver, max(0.0, end - time.monotonic())) for saver in list(_savers.values())]
    return all(done)


def checkpoint_artifact(run_uid: str) -> str:
    """The artifact that keeps a run's checkpoints."""
    return f"checkpoint-{run_uid}"


def _settled(saver: Saver, timeout: float) -> bool:
    """Whether all that it was given is committed; what made one impossible has been told by a warning."""
    try:
        return saver.wait(timeout)
    except FAILURES:
        return False


def _saver(run: Run) -> Saver:
    with _lock:
        if run.uid not in _savers:
            if not _savers:
                _before_exit(wait_for_checkpoints, EXIT_WAIT)
            _savers[run.uid] = Saver(
                api=run.api(),
                team=run.team,
                run_uid=run.uid,
                folder=run.directory / "checkpoints",
                artifact=checkpoint_artifact(run.uid),
                attempt=run.attempt,
            )
        return _savers[run.uid]


def _shard(run: Run) -> Shard:
    """This process's rank among those that train together: as torch has it, else as its launcher says."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return Shard(int(distributed.get_rank()), int(distributed.get_world_size()))
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return Shard(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    if run.job is not None and run.job.rank:
        raise ValueError("sharded: how many ranks there are is not known; set RANK and WORLD_SIZE")
    return Shard(0, 1)


def _before_exit(function: Callable[[float], object], timeout: float) -> None:
    """Calls ``function`` when the main thread is done, while thread pools still take work.

    They refuse it by the time that `atexit` runs its functions, so the last checkpoint of a script that just
    ends could not be sent there. The hook is the one that `concurrent.futures` itself uses.
    """
    register = getattr(threading, "_register_atexit", atexit.register)
    register(function, timeout)


def _numbers(metrics: Mapping[str, float] | None) -> dict[str, float]:
    return {str(key): float(value) for key, value in (metrics or {}).items()}


def _tell_resumed(run: Run, checkpoint: Checkpoint) -> None:
    """Once a process: this attempt goes on from there."""
    with _lock:
        if (run.uid, checkpoint.step) in _told:
            return
        _told.add((run.uid, checkpoint.step))
    run.resumed_from(checkpoint.step)
    run.event("run_resumed", {"step": checkpoint.step, "checkpoint": checkpoint.name})


def _local_latest(run: Run) -> Checkpoint | None:
    found = _stage.latest(run.directory / "checkpoints")
    if found is None:
        return None
    return Checkpoint(found.content, found.step, found.metrics, name=found.folder.name)


def _remote_latest(run: Run, api: Api, *, patience: float = PATIENCE) -> Checkpoint | None:
    pauses = Pauses(patience)
    while True:
        try:
            version = _ask(run, api, patience=min(patience, 20.0))
            return None if version is None else _fetch(run, api, version)
        except (Unreachable, OSError) as error:
            failure: Exception = error
        except ApiError as error:
            if error.status < 500 and error.reason != "RUN_NOT_FOUND":
                raise CheckpointUnavailable(f"the server refuses the run's checkpoint: {error}") from error
            failure = error
        except (TransferError, UnsafePath) as error:
            raise CheckpointUnavailable(f"the run's checkpoint is not usable: {error}") from error
        if not pauses.pause():
            raise CheckpointUnavailable(
                f"whether run {run.uid} has a checkpoint could not be learned in {patience:.0f} s: {failure}"
            ) from failure


def _ask(run: Run, api: Api, *, patience: float) -> Json | None:
    path = f"/api/v1/teams/{segment(run.team)}/runs/{segment(run.uid)}/checkpoints/latest"
    try:
        return api.get(path, patience=patience)
    except ApiError as error:
        # Before its first checkpoint a run may not have reached the tracker yet; a later attempt's has.
        if error.reason == "CHECKPOINT_NOT_FOUND" or (error.reason == "RUN_NOT_FOUND" and run.attempt <= 1):
            return _inherited(run, api, patience=patience)
        raise


def _inherited(run: Run, api: Api, *, patience: float) -> Json | None:
    """What `cairn resume` named for a run that has saved nothing yet. What is named and not there is an
    error: the training would begin from zero without anybody's wish."""
    if run.job is None or not run.job.resume:
        return None
    path = "/api/v1/" + "/".join(segment(part) for part in run.job.resume.split("/"))
    return api.get(path, {"used_by": run.uid}, patience=patience)


def _fetch(run: Run, api: Api, version: Json) -> Checkpoint:
    entries = entries_of(api, version)
    folder = run.directory / "checkpoints" / f"v{int(version['version'])}"
    download_folder(api, run.team, entries, folder)
    metadata = version.get("metadata") or {}
    single = len(entries) == 1 and not metadata.get("folder")
    return Checkpoint(
        path=folder / entries[0].path if single else folder,
        step=int(version.get("step") or 0),
        metrics=_numbers(metadata.get("metrics")),
        name=str(version.get("name", "")),
    )
