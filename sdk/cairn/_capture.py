"""What a run without a job tells of itself beside its metrics: git, packages, what it uses of the machine.

In a job the runner and the submission do this. All of it happens in threads of this process, so `init` does
not wait for git; no process is left behind.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cairn._env import installed
from cairn._imports import importing
from cairn._spool import Writer

if TYPE_CHECKING:
    from cairn._runner.system import System

_log = logging.getLogger("cairn")

# An event has room for half a megabyte, and JSON writes some letters with six bytes.
_DIFF_BYTES = 64 * 1024
_PACKAGES_BYTES = 64 * 1024
# How long the end of a run waits for a slow git.
PATIENCE = 2.0
EVERY_SECONDS = 5.0


class Capture:
    """A thread for one run that looks around once, then one that looks every five seconds, until `stop`."""

    def __init__(
        self, writer: Writer, folder: Path, *, every: float = EVERY_SECONDS, patience: float = PATIENCE
    ) -> None:
        self._writer = writer
        self._folder = folder
        self._every = every
        self._patience = patience
        self._looked = threading.Event()
        self._over = threading.Event()
        # Between the end of the run and the last thing that is written or begun.
        self._lock = threading.Lock()
        self._system: System | None = None
        self._thread = threading.Thread(target=self._look, name="cairn-capture", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for a look that is under way, within reason; afterwards nothing is written any more."""
        self._looked.wait(self._patience)
        with self._lock:
            self._over.set()
        if self._system is not None:
            self._system.stop()

    def _look(self) -> None:
        try:
            self._tell_facts()
            self._looked.set()
            # Whoever ends before that is spared NVML, and what else it takes.
            if not self._over.wait(self._every):
                self._begin_system()
        except Exception as error:  # whatever a machine answers, training goes on
            _log.debug("cairn: what is around the run is not known: %s", error)
        finally:
            self._looked.set()

    def _tell_facts(self) -> None:
        facts = {**git_facts(Path.cwd()), **packages(sys.path)}
        with self._lock:
            if facts and not self._over.is_set():
                self._writer.json("run_updated", {"environment": facts})

    def _begin_system(self) -> None:
        if not Path("/proc/self/stat").exists():
            return  # no Linux
        with importing:
            from cairn._runner.gpu import Gpus
            from cairn._runner.system import System

        numbers = visible(os.environ.get("CUDA_VISIBLE_DEVICES"), Gpus().numbers)
        system = System(
            self._writer, pids=[os.getpid()], gpus=[numbers], folder=self._folder, ranks=1, every=self._every
        )
        with self._lock:
            if not self._over.is_set():
                self._system = system
                system.start()


def git_facts(folder: Path) -> dict[str, str]:
    """Commit, branch and what is not committed of the repository around `folder`."""
    with importing:
        from cairn._git import cut, git_state

    state = git_state(folder)
    diff = state.diff.encode()
    short = state.diff if len(diff) <= _DIFF_BYTES else cut(diff[:_DIFF_BYTES].decode("utf-8", "ignore"))
    facts = {"git_commit": state.commit, "git_branch": state.branch, "git_diff": short}
    return {name: fact for name, fact in facts.items() if fact}


def packages(path: Iterable[str]) -> dict[str, str]:
    """Names and versions of what is installed, a line each."""
    found = sorted(installed(path).items(), key=lambda pair: pair[0].lower())
    text = "\n".join(f"{name}=={version}" for name, version in found)
    return {"packages": text.encode()[:_PACKAGES_BYTES].decode("utf-8", "ignore")} if text else {}


def visible(asked: str | None, there: list[int]) -> list[int]:
    """The GPUs that this process may use; names that are no numbers leave all of them."""
    if asked is None:
        return there
    words = [word.strip() for word in asked.split(",") if word.strip()]
    if all(word.lstrip("-").isdigit() for word in words):
        return [number for number in map(int, words) if number in there]
    return there
