"""Kept-alive HTTP connections that threads share: one is in the hands of one caller at a time."""

from __future__ import annotations

import http.client
import ssl
import threading
import weakref
from urllib.parse import urlsplit

MOST_IDLE = 16


class Connections:
    """Idle connections by origin (``http://host:port``). They are closed with the object that owns this."""

    def __init__(self) -> None:
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._idle)

    def take(self, url: str, *, timeout: float) -> http.client.HTTPConnection:
        """An idle connection to the server of ``url``, or a new one; ``timeout`` is for each wait, in s."""
        with self._lock:
            idle = self._idle.get(origin(url))
            connection = idle.pop() if idle else None
        if connection is None:
            return connection_to(url, timeout=timeout)
        connection.timeout = timeout
        if connection.sock is not None:
            connection.sock.settimeout(timeout)
        return connection

    def give(self, url: str, connection: http.client.HTTPConnection) -> None:
        """Takes one back whose answer has been read to its end; only such a one can be used again."""
        with self._lock:
            idle = self._idle.setdefault(origin(url), [])
            if connection.sock is not None and len(idle) < MOST_IDLE:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Closes those that are idle; the next call opens a new one."""
        with self._lock:
            _close(self._idle)


def connection_to(url: str, *, timeout: float) -> http.client.HTTPConnection:
    """A connection to the server of ``url``, not opened yet."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=context)
    return http.client.HTTPConnection(host, parts.port, timeout=timeout)


def origin(url: str) -> str:
    """Scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _close(idle: dict[str, list[http.client.HTTPConnection]]) -> None:
    for connections in idle.values():
        for connection in connections:
            connection.close()
    idle.clear()
