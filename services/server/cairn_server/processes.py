"""Processes known by pid and start time: a pid alone may belong to somebody else tomorrow."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from pathlib import Path


def start_time(pid: int) -> int | None:
    """When `pid` began, in clock ticks since boot; None where there is no such process any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def is_same(pid: int, began: int) -> bool:
    """True while the process that began then lives."""
    return start_time(pid) == began


def works_in(pid: int, folder: Path) -> bool:
    """True where the working folder of `pid` is this one: by inode, as it may see it at another path."""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/cwd"), os.stat(folder))
    except OSError:
        return False


async def ended(pid: int) -> None:
    """Returns when `pid`, a child of ours, has ended: an event of the kernel, nothing is polled."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    handle = os.pidfd_open(pid)
    loop.add_reader(handle, _settle, over)
    try:
        await over
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _settle(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


def stop(pid: int, began: int, *, grace: float, first: signal.Signals = signal.SIGTERM) -> bool:
    """Ends the process that began then: `first`, `grace` seconds, SIGKILL. True when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if not is_same(pid, began):
            return True
        for number, seconds in ((first, grace), (signal.SIGKILL, 10.0)):
            signal.pidfd_send_signal(handle, number)
            if _wait(handle, seconds):
                return True
        return False
    except ProcessLookupError:
        return True
    finally:
        os.close(handle)


def wait(pid: int, began: int, *, timeout: float) -> bool:
    """Waits until that process is gone; False when `timeout` seconds were not enough."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return not is_same(pid, began) or _wait(handle, timeout)
    finally:
        os.close(handle)


def _wait(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
