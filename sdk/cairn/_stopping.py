"""The end that is announced: SIGTERM, then the task's grace, then SIGKILL.

A training that asks `stopping()` in its loop has the grace to save a last checkpoint. Nothing is installed
before one of these functions is called: until then SIGTERM ends the process, as it always does.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

_log = logging.getLogger("cairn")

_stop = threading.Event()
_callbacks: list[Callable[[], object]] = []
_installing = threading.Lock()
_installed = False
_asked = False
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
    elif _callbacks and not _asked:
        raise SystemExit(128 + number)
