"""Which trace work belongs to (W3C Trace Context): from the door through calls and facts to the logs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import structlog

HEADER = "traceparent"
_MOST_NAMED = 8
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# The trace's id and flags.
_current: ContextVar[tuple[str, str] | None] = ContextVar("cairn_trace", default=None)


def enter(given: str) -> None:
    """Makes a caller's trace that of this task, its log lines and its calls; a new one, if none is given."""
    found = _PARENT.fullmatch(given) if len(given) <= 512 else None
    trace = (found[1], found[3]) if found else (secrets.token_hex(16), "00")
    _current.set(trace)
    structlog.contextvars.bind_contextvars(trace_id=trace[0])


def parent() -> str:
    """What goes on with a call or a fact; empty outside of a trace."""
    trace = _current.get()
    return f"00-{trace[0]}-{secrets.token_hex(8)}-{trace[1]}" if trace else ""


@contextmanager
def of_facts(given: Sequence[str]) -> Iterator[None]:
    """The trace of the facts that are worked on: what follows goes on with it. Where they are of several,
    the log lines name some of them."""
    found = {match[1]: match[3] for each in given if (match := _PARENT.fullmatch(each))}
    only = next(iter(found.items())) if len(found) == 1 else None
    bound = {"trace_id": only[0]} if only else {"trace_ids": list(found)[:_MOST_NAMED]} if found else {}
    before = _current.set(only)
    try:
        with structlog.contextvars.bound_contextvars(**bound):
            yield
    finally:
        _current.reset(before)
