"""A PostgreSQL that outlived who started it: found by its pid file, and stopped only if it is surely ours."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from cairn_server import processes
from cairn_server.backends.program import SetupError

FAST_STOP = signal.SIGINT
_AT_ONCE = signal.SIGQUIT
_GRACE = 10.0


def stop_postgres(data: Path) -> None:
    """Stops the postmaster that still runs on `data`, if there is one, and waits until it is gone.

    A pid file whose pid now belongs to somebody else is no obstacle: PostgreSQL replaces it itself.
    Raises `SetupError` where it does not end.
    """
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return
    if not processes.works_in(pid, data):
        return
    for number in (FAST_STOP, _AT_ONCE, signal.SIGKILL):
        if _stop(pid, number):
            return
    raise SetupError(f"PostgreSQL (pid {pid}) still runs on {data} and does not end; end it by hand")


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
