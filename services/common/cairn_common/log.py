"""Structured logs on stderr: lines for people on a terminal, JSON everywhere else."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

_SECRET_KEY = re.compile(r"(?i)token$|secret|password|passwd|authorization|seed$|credential|api_?key|_url$")
_SECRET_TEXT = re.compile(
    # Tokens, whatever their kind; seeds of the bus; what a signed URL is worth; a URL's user and password.
    r"cairn[a-z_-]*_[A-Za-z0-9_-]{20,}|\bS[UACNOX][A-Z2-7]{54,}|(?<=X-Amz-Signature=)\w+"
    r"|(?i:bearer)\s+[^\s\"']+|(?<=://)[^/\s@]+(?=@)"
)
_HIDDEN = "[hidden]"


def configure_logging(service: str, level: str) -> None:
    """Sets up structlog and the standard library's logging for this process, once, at its entry.

    `level` is a name such as INFO. Values of keys that name secrets are hidden, and so is what looks like
    a token or a URL's password inside any text.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Naming(service),
        structlog.processors.StackInfoRenderer(),
    ]
    terminal = sys.stderr.isatty()
    output = cast(TextIO, _Lossy(sys.stderr))
    ending: list[structlog.typing.Processor] = (
        # Without the values of local variables: they are not looked through for secrets.
        [
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
        if terminal
        else [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(default=str)]
    )
    threshold = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[*shared, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=output),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    # Libraries speak only when something is wrong: their chatter belongs to nobody's service.
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
    # Writes a traceback at each try to reach a database that is away; we say that ourselves.
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: hides the values of keys that name secrets, and secrets inside texts."""
    for key, value in event.items():
        if key != "event" and _SECRET_KEY.search(key) and value:
            event[key] = _HIDDEN
        elif isinstance(value, str):
            event[key] = _SECRET_TEXT.sub(_HIDDEN, value)
    return event


class _Lossy(io.TextIOBase):
    """A stream of log lines; one that cannot be written (a full disk, a closed pipe) is lost, and only that.

    A line is written where a transaction has committed or a process was started: an error of the log's own
    there would be taken for one of the work.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _Naming:
    """Adds the service's name to each line."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("service", self._service)
        return event
