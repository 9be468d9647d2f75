"""Who is told that it is time to end: the programs of a rank, not all that they started.

A signal to the whole group would end a training's data loaders before it has saved its last checkpoint, and
the `tee` that it prints to. So shells are told and what they run; these tell their own children, or leave
orphans, which are told when they come to the runner.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from cairn._runner import guard

_SHELLS = frozenset({"bash", "sh", "dash", "zsh", "ksh", "ash", "busybox", "fish"})


def terminate(pids: Iterable[int]) -> set[int]:
    """SIGTERM to processes, and to the children of those that are shells; returns whom it met."""
    met: set[int] = set()
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        if pid in met:
            continue
        met.add(pid)
        if _is_shell(pid):
            waiting += guard.children(pid)
    for pid in met:
        if not _reads_a_pipe(pid):
            try:
                os.kill(pid, signal.SIGTERM)
            except (ProcessLookupError, PermissionError):
                continue
    return met


def _is_shell(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() in _SHELLS
    except OSError:
        return False


def _reads_a_pipe(pid: int) -> bool:
    """It ends by itself when its input does, as `tee` behind a training; a job's own input is no pipe."""
    try:
        return os.readlink(f"/proc/{pid}/fd/0").startswith("pipe:")
    except OSError:
        return False
