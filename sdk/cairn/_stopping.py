"""The end that is announced: SIGTERM, then the task's grace, then SIGKILL.

A training that asks `stopping()` in its loop, or saves whenever `checkpoint_due()` says so, has the grace to
save a last checkpoint. Where the platform takes a job's place for another one, it says so in a file before
it sends the signal. Nothing is installed before one of these functions is called: until then SIGTERM ends
the process, as it always does.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

_log = logging.getLogger("cairn")

_stop = threading.Event()
_callbacks: list[Callable[[], object]] = []
_installing = threading.Lock()
_installed = False
_asked = False
_saves = False
_saved_at: float | None = None
_owner = 0
_previous: Callable[[int, FrameType | None], object] | int | None = None


def stopping() -> bool:
    """Whether this process was told to end (SIGTERM): save what is needed, and leave the loop.

    Call it once before the loop begins, from the main thread: the first call installs the handler, and from
    then on SIGTERM only says so here. A handler that was there before is still called.
    """
    global _asked
    _asked = True
    _install()
    return _stop.is_set()


def stop_reason() -> str:
    """Why this process was told to end: `preempted` (its place is taken; the job goes on later from its last
    checkpoint), `stopped`, or empty as long as it was not told."""
    if not _stop.is_set():
        return ""
    try:
        return Path(os.environ["CAIRN_NOTICE"]).read_text().strip() or "stopped"
    except (KeyError, OSError):
        return "stopped"


def checkpoint_due(every: float = 600.0) -> bool:
    """Whether it is time to save a checkpoint: ``every`` seconds after the last one, or this process was told
    to end.

    Then `save_checkpoint` waits for the commit and ends the program (SystemExit, status 143), unless it asks
    `stopping()` too: then ending is its own affair. Costs no more than a look at the clock. With several
    ranks let one ask, and tell the others, so that all save at the same step. Call it from the main thread.
    """
    global _saves, _saved_at
    _saves = True
    _install()
    now = time.monotonic()
    if _saved_at is None:
        _saved_at = now
    return _stop.is_set() or now - _saved_at >= every


def saved() -> bool:
    """A checkpoint was staged just now; returns whether the program ends once it is committed."""
    global _saved_at
    _saved_at = time.monotonic()
    return _saves and not _asked and _stop.is_set()


def on_stop(callback: Callable[[], object]) -> None:
    """Calls `callback` in the main thread, between two of its steps, when this process is told to end.

    After the callbacks the process ends (SystemExit, status 143), unless the program asks `stopping()` too:
    then ending is its own affair. What a callback raises is logged, and the next one is called.
    """
    _callbacks.append(callback)
    _install()


def _install() -> None:
    global _installed, _previous, _owner
    if _installed:
        return
    with _installing:
        if _installed:
            return
        try:
            _previous = signal.signal(signal.SIGTERM, _on_sigterm)
        except ValueError:
            _log.warning("cairn: stopping() and on_stop() must be called first in the main thread")
            return
        _owner, _installed = os.getpid(), True


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _owner:
        # A fork that took the handler along: a data loader's worker ends as if there were none.
        signal.signal(signal.SIGTERM, _previous if _previous is not None else signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        return
    again = _stop.is_set()
    _stop.set()
    if not again:
        for callback in list(_callbacks):
            try:
                callback()
            except Exception:
                _log.exception("cairn: a callback of on_stop failed")
    if callable(_previous):
        _previous(number, frame)
    elif _callbacks and not _asked and not _saves:
        raise SystemExit(128 + number)
