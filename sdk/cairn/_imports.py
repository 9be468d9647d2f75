"""Imports in threads of our own, which a fork waits for.

The lock of a module that is being imported stays taken in a child that is forked meanwhile, and whoever
imports that module there waits for ever: a data loader's worker would.
"""

from __future__ import annotations

import os
import threading

# Imports take a fraction of a second; a fork that comes from inside one is not to wait for itself.
_PATIENCE = 10.0

importing = threading.Lock()
"""Held by a thread while it imports."""

_waited = False


def _before_fork() -> None:
    global _waited
    _waited = importing.acquire(timeout=_PATIENCE)


def _after_fork() -> None:
    if _waited:
        importing.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
