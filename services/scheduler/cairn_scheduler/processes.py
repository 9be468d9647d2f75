"""Processes on this machine, by what /proc says: pids are reused, so a start time goes with each."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_MARK = "CAIRN_ATTEMPT_UID"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is not a zombie. `start` in clock ticks since boot."""

    pid: int
    start: int
    session: int


def look(pid: int) -> Process | None:
    """The process with this pid now; None: gone, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything, spaces and parentheses included.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return Process(pid=pid, start=int(fields[19]), session=int(fields[3]))


def boot() -> str:
    """The id of this boot: recorded pids mean nothing after another one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def of_attempt(attempt_uid: str) -> list[Process]:
    """All of our processes that carry an attempt's mark in their environment."""
    mark = f"{_MARK}={attempt_uid}".encode()
    return [process for process in _ours() if mark in _environment(process.pid)]


def of_attempts() -> dict[str, list[Process]]:
    """All of our processes that carry some attempt's mark, by that attempt's uid."""
    found: dict[str, list[Process]] = {}
    mark = f"{_MARK}=".encode()
    for process in _ours():
        for variable in _environment(process.pid):
            if variable.startswith(mark):
                found.setdefault(variable.removeprefix(mark).decode(errors="replace"), []).append(process)
    return found


def began(process: Process) -> float:
    """When a process began, in seconds since 1970."""
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up + process.start / os.sysconf("SC_CLK_TCK")


def runner_of(attempt_uid: str) -> Process | None:
    """The runner of an attempt, also one that has not yet written who it is."""
    for process in of_attempt(attempt_uid):
        try:
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"cairn._runner" in words and not {b"--drain", b"--attach"} & set(words):
            return process
    return None


def end_all(attempt_uid: str, *, sessions: Collection[int], since: int, timeout: float = 10.0) -> int:
    """Kills what an attempt left running; returns how many processes that were.

    These are the processes with its mark, and those in the sessions that its runner had made (recorded
    in this boot) that began after the runner did (`since`, ticks). Returns when none is left, or after
    `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    ended = set()
    while left := _left(attempt_uid, sessions, since):
        for process in left:
            kill(process)
            ended.add((process.pid, process.start))
        if time.monotonic() > deadline:
            break
    return len(ended)


def _left(attempt_uid: str, sessions: Collection[int], since: int) -> list[Process]:
    left = of_attempt(attempt_uid)
    if sessions:
        left += [p for p in _ours() if p.session in sessions and p.start >= since and p not in left]
    return left


def kill(process: Process) -> None:
    """Kills exactly this process and waits up to a second for its end."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        # The handle pins the pid; whoever has it now is the one we know only if the start agrees.
        now = look(process.pid)
        if now is None or now.start != process.start:
            return
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(1000)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def _ours() -> Iterator[Process]:
    me = os.getuid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.stat(f"/proc/{name}").st_uid != me:
                continue
        except OSError:
            continue
        process = look(int(name))
        if process is not None and process.pid != os.getpid():
            yield process


def _environment(pid: int) -> Collection[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ()
