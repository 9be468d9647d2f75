"""Bytes to and from presigned URLs: kept-alive connections, and patience with a store that restarts."""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections.abc import Callable, Iterator
from typing import IO, TypeVar
from urllib.parse import urlsplit

from cairn._http import CONNECTION_ERRORS, Pauses, Unreachable, connection_to

TIMEOUT = 60.0
PATIENCE = 120.0
CHUNK = 1 << 20
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
EXPIRED = frozenset({400, 401, 403})

T = TypeVar("T")


class TransferError(Exception):
    """Bytes could not be moved, or are not the bytes that were promised."""


class UrlExpired(TransferError):
    """The store refuses the URL: its quarter of an hour is over. Ask for a new one."""


class _Again(Exception):
    """The store cannot answer now."""


class Store:
    """PUTs and GETs by presigned URLs, from any thread."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._local = threading.local()
        self._patience = patience

    def put(self, url: str, body: Callable[[], bytes | memoryview | IO[bytes]], *, size: int) -> None:
        """Sends ``size`` bytes; ``body()`` gives them for each try. Raises `TransferError`, `Unreachable`."""

        def once() -> None:
            response, connection = self._send("PUT", url, body(), size)
            answer = response.read(4096)
            if response.will_close:
                connection.close()
            _check(response, answer)

        self._patiently(url, once)

    def get(self, url: str, *, digest: str, size: int) -> bytes:
        """The blob at ``url``, checked against its digest and size. Raises `TransferError`, `Unreachable`."""
        return b"".join(self._patiently(url, lambda: list(self._checked(url, digest, size))))

    def _checked(self, url: str, digest: str, size: int) -> Iterator[bytes]:
        response, connection = self._send("GET", url, None, None)
        if response.status != 200:
            _check(response, response.read(4096))
        seen, received = hashlib.sha256(), 0
        while chunk := response.read(CHUNK):
            received += len(chunk)
            if received > size:
                connection.close()
                break
            seen.update(chunk)
            yield chunk
        if response.will_close:
            connection.close()
        if received != size or seen.hexdigest() != digest:
            raise TransferError(
                f"the store's bytes are not those of blob {digest[:12]}: {received} of {size} bytes, "
                f"sha256 {seen.hexdigest()[:12]}; they were not used"
            )

    def _send(
        self, method: str, url: str, body: bytes | memoryview | IO[bytes] | None, size: int | None
    ) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
        parts = urlsplit(url)
        connection = self._connection(_origin(url))
        headers = {} if size is None else {"Content-Length": str(size)}
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, body=body, headers=headers)
        return connection.getresponse(), connection

    def _patiently(self, url: str, once: Callable[[], T]) -> T:
        pauses = Pauses(self._patience)
        while True:
            try:
                return once()
            except _Again as error:
                failure: Exception = TransferError(f"the store answers {error}")
            except CONNECTION_ERRORS as error:
                self._forget(url)
                failure = Unreachable(_origin(url), error)
            if not pauses.pause():
                raise failure

    def _connection(self, origin: str) -> http.client.HTTPConnection:
        open_ones: dict[str, http.client.HTTPConnection] | None = getattr(self._local, "open", None)
        if open_ones is None:
            open_ones = self._local.open = {}
        if origin not in open_ones:
            open_ones[origin] = connection_to(origin, timeout=TIMEOUT)
        return open_ones[origin]

    def _forget(self, url: str) -> None:
        """The connection is in an unknown state after a failure."""
        connection = self._local.open.pop(_origin(url), None)
        if connection is not None:
            connection.close()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _check(response: http.client.HTTPResponse, answer: bytes) -> None:
    if 200 <= response.status < 300:
        return
    said = f"{response.status} {response.reason}"
    if response.status in RETRIED:
        raise _Again(said)
    if response.status in EXPIRED:
        raise UrlExpired(f"the store refuses the URL: {said}")
    raise TransferError(f"the store answers {said}: {answer[:200].decode('utf-8', 'replace')}")
