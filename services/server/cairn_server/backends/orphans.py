"""What outlived a PostgreSQL's starter, or the PostgreSQL itself: found by pid file and working folder, and
ended only if it is surely ours.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cairn_server import processes
from cairn_server.backends.program import SetupError

FAST_STOP = signal.SIGINT
_AT_ONCE = signal.SIGQUIT
_GRACE = 10.0


def stop_postgres(data: Path) -> None:
    """Ends what still runs on `data`, if anything does, and waits until it is gone.

    The postmaster is stopped in order. Where it was killed, its children may not have noticed yet (one that
    waits for the disk, or computes, looks up later), and no new server starts while one of them has the old
    one's memory: they are killed, which loses nothing, as a new server goes by the log.

    A pid file whose pid now belongs to somebody else is no obstacle: PostgreSQL replaces it itself.
    Raises `SetupError` where something does not end.
    """
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    if processes.works_in(pid, data) and not any(
        _stop(pid, number) for number in (FAST_STOP, _AT_ONCE, signal.SIGKILL)
    ):
        raise SetupError(f"PostgreSQL (pid {pid}) still runs on {data} and does not end; end it by hand")
    end = time.monotonic() + _GRACE
    # Again until there are none: one of them may have started another in between.
    while left := list(_in(data)):
        if time.monotonic() > end:
            raise SetupError(f"processes of a PostgreSQL that died still run on {data}: end {left} by hand")
        for child in left:
            _stop(child, signal.SIGKILL)


def _in(data: Path) -> Iterator[int]:
    """Processes of a PostgreSQL on it: each works in that folder. So may a person's shell, which is none."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and processes.works_in(int(entry.name), data) and _is_postgres(entry):
            yield int(entry.name)


def _is_postgres(entry: os.DirEntry[str]) -> bool:
    try:
        # A program that was replaced since has a remark behind its name.
        return os.path.basename(os.readlink(f"{entry.path}/exe")).split(" ")[0] == "postgres"
    except OSError:
        return False


def _stop(pid: int, number: signal.Signals) -> bool:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        signal.pidfd_send_signal(handle, number)
        ended, _, _ = select.select([handle], [], [], _GRACE)
        return bool(ended)
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)
