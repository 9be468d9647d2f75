"""Bytes to and from presigned URLs: kept-alive connections, and patience with a store that restarts."""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

from cairn._connections import Connections, origin
from cairn._http import CONNECTION_ERRORS, Pauses, Unreachable

TIMEOUT = 60.0
PATIENCE = 120.0
CHUNK = 1 << 20
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
EXPIRED = frozenset({400, 401, 403})

# A blob lies under its digest; a store that can is asked to take no other bytes there.
_CHECKSUM = "x-amz-checksum-sha256"
_DIGEST = re.compile(r"/([0-9a-f]{64})\?")

T = TypeVar("T")
Bytes: TypeAlias = "bytes | bytearray | memoryview"


class TransferError(Exception):
    """Bytes could not be moved, or are not the bytes that were promised."""


class WrongBytesError(TransferError):
    """What came is not what the digest promises."""


class StoreRefused(TransferError):
    """The store does not take it, and says so."""


class UrlExpired(StoreRefused):
    """The store refuses the URL: its quarter of an hour is over. Ask for a new one."""


class _AgainError(Exception):
    """The store cannot answer now."""


class Store:
    """PUTs and GETs by presigned URLs, from any thread."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._connections = Connections()
        self._patience = patience
        self._own = threading.local()

    def put(self, url: str, data: Bytes) -> None:
        """Sends ``data``. Raises `TransferError`, `Unreachable`."""
        self._patiently(url, lambda: self._put(url, data, len(data)))

    def put_file(self, url: str, path: Path, size: int, read: Callable[[int], None]) -> None:
        """Sends a file of ``size`` bytes; ``read`` is told how many have gone. Raises as `put`."""

        def once() -> None:
            with path.open("rb") as file:
                self._put(url, _chunks(file, read), size)

        self._patiently(url, once)

    def get(self, url: str, *, digest: str, size: int) -> memoryview:
        """The blob at ``url``, in memory that the thread's next call uses again.

        Raises `WrongBytesError` where it is not what digest and size say, `TransferError`, `Unreachable`.
        """
        return self._patiently(url, lambda: self._get(url, digest, size))

    def get_range(self, url: str, start: int, count: int) -> bytes:
        """These bytes of the blob at ``url``, unchecked. Raises `TransferError`, `Unreachable`."""
        return self._patiently(url, lambda: self._get_range(url, start, count))

    def _get_range(self, url: str, start: int, count: int) -> bytes:
        with self._answer("GET", url, None, {"Range": f"bytes={start}-{start + count - 1}"}) as response:
            if response.status not in (200, 206):
                _check(response, response.read(4096))
            # rclone's server sends the piece alone, but calls it 200; some may send the whole.
            piece = response.status == 206 or response.getheader("Content-Range") is not None
            data = response.read(count + 1) if piece else response.read(start + count)[start:]
        if len(data) != count:
            raise TransferError(f"the store answered with {len(data)} bytes where {count} were asked for")
        return data

    def _put(self, url: str, body: Bytes | Iterator[bytes], size: int) -> None:
        with self._answer("PUT", url, body, {"Content-Length": str(size)} | _signed(url)) as response:
            _check(response, response.read(4096))

    def _get(self, url: str, digest: str, size: int) -> memoryview:
        seen, read, view = hashlib.sha256(), 0, self._buffer(size + 1)
        with self._answer("GET", url, None, {}) as response:
            if response.status != 200:
                _check(response, response.read(4096))
            # Piece by piece, so that each is hashed while the processor's cache has it; and never more than a
            # byte too many, whatever is sent.
            while count := response.readinto(view[read : min(read + CHUNK, size + 1)]):
                seen.update(view[read : read + count])
                read += count
            if read < size and response.length:
                raise http.client.IncompleteRead(b"", response.length)
        if read != size or seen.hexdigest() != digest:
            raise WrongBytesError(
                f"the store's bytes are not those of blob {digest[:12]}: {read} of {size} bytes, "
                f"sha256 {seen.hexdigest()[:12]}; they were not used"
            )
        return view[:size]

    def _buffer(self, size: int) -> memoryview:
        """This thread's own: new memory would cost as much time as filling it."""
        if len(getattr(self._own, "buffer", b"")) < size:
            self._own.buffer = memoryview(bytearray(size))
        return cast(memoryview, self._own.buffer)

    @contextmanager
    def _answer(
        self, method: str, url: str, body: Bytes | Iterator[bytes] | None, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = self._connections.take(url, timeout=TIMEOUT)
        whole = False
        try:
            response = _asked(connection, method, target, body, headers)
            yield response
            whole = response.isclosed() or response.length == 0
        finally:
            if whole:
                self._connections.give(url, connection)
            else:
                connection.close()

    def _patiently(self, url: str, once: Callable[[], T]) -> T:
        pauses = Pauses(self._patience)
        while True:
            try:
                return once()
            except _AgainError as error:
                failure: Exception = TransferError(f"the store answers {error}")
            except CONNECTION_ERRORS as error:
                failure = Unreachable(origin(url), error)
            if not pauses.pause():
                raise failure


def _asked(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: Bytes | Iterator[bytes] | None,
    headers: dict[str, str],
) -> http.client.HTTPResponse:
    """The answer, also where the store refuses, and hangs up, before it has read all that is sent."""
    try:
        connection.request(method, target, body=body, headers=headers)
    except (BrokenPipeError, ConnectionResetError):
        try:
            response = connection.getresponse()
        except (OSError, http.client.HTTPException):
            response = None
        if response is None or response.status < 400:
            raise
        return response
    return connection.getresponse()


def _signed(url: str) -> dict[str, str]:
    """The headers, beside the host, that the signature of a PUT's URL is over."""
    digest = _DIGEST.search(url) if _CHECKSUM in url else None
    return {_CHECKSUM: base64.b64encode(bytes.fromhex(digest[1])).decode()} if digest else {}


def _chunks(file: BinaryIO, read: Callable[[int], None]) -> Iterator[bytes]:
    gone = 0
    while chunk := file.read(CHUNK):
        yield chunk
        gone += len(chunk)
        read(gone)


def _check(response: http.client.HTTPResponse, answer: bytes) -> None:
    if 200 <= response.status < 300:
        return
    said = f"{response.status} {response.reason}"
    if response.status in RETRIED:
        raise _AgainError(said)
    if response.status in EXPIRED:
        raise UrlExpired(f"the store refuses the URL: {said}")
    raise StoreRefused(f"the store answers {said}: {answer[:200].decode('utf-8', 'replace')}")
