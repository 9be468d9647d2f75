"""Nothing of an attempt outlives its runner: death signals, adoption of orphans, and a guard beside it.

The kernel kills a rank when the runner dies, but not the rank's own children; for those there is the guard, a
shell that waits for the runner's end of a pipe to close and then ends all that carries the runner's mark.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

MARK = "CAIRN_RUNNER"
_SESSION = b"CAIRN_SESSION="
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 50


def mark(attempt_uid: str, *, first: int = 0) -> str:
    """What the processes of one runner carry in their environment as MARK. `first`: of its ranks. Two nodes
    of a cluster may be one machine, on which a runner must not end what is another's."""
    return f"{attempt_uid}/{first}"


def adopt_orphans() -> None:
    """Makes this process the parent of whatever its descendants leave behind."""
    prctl = _prctl()
    if prctl is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> Callable[[], None]:
    """What a child calls between fork and exec, so that it is killed when this process is.

    The signal is tied to the thread that starts the child: start children from the main thread.
    """
    prctl, parent = _prctl(), os.getpid()

    def in_child() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL.value)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


class Guard:
    """Ends what carries a mark if this process dies before it releases the guard."""

    def __init__(self, mark: str) -> None:
        sweep = f"from cairn._runner.guard import sweep; sweep({mark!r})"
        reading, self._writing = os.pipe()
        # Its environment is without the mark, or it would end itself.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'read word || exec "$0" -P -c "$1"', sys.executable, sweep],
            stdin=reading, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
            env={name: value for name, value in os.environ.items() if name != MARK}, start_new_session=True,
        )  # fmt: skip
        os.close(reading)

    @property
    def pid(self) -> int:
        return self._process.pid

    def release(self) -> None:
        """Lets the guard go: everything has ended."""
        try:
            os.write(self._writing, b"released\n")
        except OSError:
            pass  # it was killed
        os.close(self._writing)
        self._process.wait()


def sweep(mark: str, *, sessions: bool = True) -> int:
    """Kills every process that carries this mark, but runners; returns how many were seen.

    Without `sessions` what people started who reached in is spared.
    """
    seen: set[int] = set()
    for _ in range(_ROUNDS):
        left = _marked(mark, sessions=sessions)
        if not left:
            break
        for pid in left:
            seen.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        _reap()
    return len(seen)


def children(parent: int | None = None) -> list[int]:
    """A process's children, orphans that it adopted included; without `parent` this one's."""
    parent = os.getpid() if parent is None else parent
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def _marked(mark: str, *, sessions: bool) -> list[int]:
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            spared = not sessions and any(each.startswith(_SESSION) for each in environment)
            if wanted in environment and not spared and b"cairn._runner" not in _words(name):
                found.append(int(name))
        except OSError:  # gone, or not ours
            continue
    return found


def _words(pid: str) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def _reap() -> None:
    """Killed orphans that this process adopted stay as zombies otherwise."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _prctl() -> Callable[..., int] | None:
    try:
        return ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):  # not Linux: the guard alone has to do
        return None
