"""Files to the artifact store, in content-addressed parts.

A file is read once. Each part is hashed and, where the store lacks it, sent from memory by one of eight
threads, while the next ones are read; at most `WINDOW` bytes are in memory. What is in the store already is
not sent again, so an upload that broke off goes on where it broke.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cairn._blobs import Store, TransferError, UrlExpired
from cairn._http import Api
from cairn._transfer import PART, WORKERS, Entry, Part, Progress, Source, ask_uploads

WINDOW = WORKERS * PART
# Small files that are asked about together.
BATCH_PARTS = 1_000

T = TypeVar("T")


def upload(
    api: Api,
    team: str,
    files: Sequence[Source],
    *,
    progress: Progress | None = None,
    store: Store | None = None,
) -> list[Entry]:
    """Sends what the store lacks of ``files``; returns the manifest's entries in their order.

    Raises `TransferError`, `Unreachable`, `ApiError`.
    """
    total = sum(each.size for each in files)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="cairn-put") as pool:
        sending = _Sending(api, team, store or Store(), pool, progress=progress, total=total)
        try:
            entries = [_send_file(source, sending) for source in files]
            sending.finish()
        except BaseException:
            sending.give_up()
            raise
    return [entry() for entry in entries]


def _send_file(source: Source, sending: _Sending) -> Callable[[], Entry]:
    """Reads a file once, giving away its parts. The entry is known when all is sent."""
    parts: list[Future[Part]] = []
    whole, size = hashlib.sha256(), 0
    try:
        with source.file.open("rb") as file:
            before = os.fstat(file.fileno())
            while data := file.read(PART):
                size += len(data)
                if before.st_size > PART:
                    parts.append(sending.large(data))
                    whole.update(data)  # while other threads hash the part, and send
                else:
                    # Of a file in one part, the part's digest is the whole's.
                    whole.update(data)
                    parts.append(sending.small(Part(whole.hexdigest(), len(data)), data))
            after = os.fstat(file.fileno())
    except OSError as error:
        raise TransferError(f"{source.file} cannot be read: {error.strerror or error}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size:
        raise TransferError(f"{source.file} changed while it was read: save it again when it is still")
    return lambda: Entry(source.path, size, whole.hexdigest(), tuple(part.result() for part in parts))


class _Sending:
    """Parts on their way. The calling thread adds them, and waits where there is no room for more."""

    def __init__(
        self,
        api: Api,
        team: str,
        store: Store,
        pool: ThreadPoolExecutor,
        *,
        progress: Progress | None,
        total: int,
    ) -> None:
        self._api, self._team, self._store, self._pool = api, team, store, pool
        self._progress, self._total = progress, total
        self._changed = threading.Condition()
        self._known: set[str] = set()
        self._batch: dict[str, bytes] = {}
        self._batch_bytes = 0
        # Bytes in memory, bytes that are in the store, and works that are not done.
        self._held = self._done = self._works = 0
        self._failed: BaseException | None = None

    def large(self, data: bytes) -> Future[Part]:
        """A part of a large file; its digest is worked out beside."""
        self._wait_for(len(data))
        return self._work(self._hash_and_send, data)

    def small(self, part: Part, data: bytes) -> Future[Part]:
        """A whole small file, asked about together with others."""
        known: Future[Part] = Future()
        known.set_result(part)
        self._wait_for(part.size)
        if not self._is_new(part.digest):
            self._free(part.size)
            return known
        self._batch[part.digest] = data
        self._batch_bytes += part.size
        if self._batch_bytes >= PART or len(self._batch) >= BATCH_PARTS:
            self._flush()
        return known

    def finish(self) -> None:
        """Returns once all is in the store. Raises what made something of it impossible."""
        self._flush()
        with self._changed:
            while self._works and self._failed is None:
                self._changed.wait()
                self._tell()
        self._check()

    def give_up(self) -> None:
        """What has not begun does not begin."""
        with self._changed:
            self._failed = self._failed or TransferError("given up")

    def _flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, {}, 0
        if batch:
            self._work(self._ask_and_send, batch)

    def _hash_and_send(self, data: bytes) -> Part:
        part = Part(hashlib.sha256(data).hexdigest(), len(data))
        if not self._is_new(part.digest):
            self._free(part.size)
        else:
            self._ask_and_send({part.digest: data})
        return part

    def _ask_and_send(self, batch: Mapping[str, bytes]) -> None:
        parts = [Part(digest, len(data)) for digest, data in batch.items()]
        urls = ask_uploads(self._api, self._team, parts)
        self._free(sum(part.size for part in parts if part.digest not in urls))
        if len(urls) == 1:
            ((digest, url),) = urls.items()
            self._put(digest, batch[digest], url)
            return
        for digest, url in urls.items():
            self._work(self._put, digest, batch[digest], url)

    def _put(self, digest: str, data: bytes, url: str) -> None:
        try:
            self._store.put(url, data)
        except UrlExpired:
            again = ask_uploads(self._api, self._team, [Part(digest, len(data))])
            if digest in again:
                self._store.put(again[digest], data)
        self._free(len(data))

    def _work(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        """Has it done by another thread, and notes when it is, or why it cannot be."""

        def work() -> T:
            try:
                self._check()
                return function(*arguments)
            except BaseException as error:
                with self._changed:
                    self._failed = self._failed or error
                raise
            finally:
                with self._changed:
                    self._works -= 1
                    self._changed.notify_all()

        with self._changed:
            self._works += 1
        return self._pool.submit(work)

    def _is_new(self, digest: str) -> bool:
        with self._changed:
            new = digest not in self._known
            self._known.add(digest)
        return new

    def _wait_for(self, size: int) -> None:
        """Returns when there is room for so many bytes more."""
        if self._held + self._batch_bytes + size > WINDOW:
            self._flush()
        with self._changed:
            while self._held and self._held + size > WINDOW and self._failed is None:
                self._changed.wait()
            self._held += size
            self._tell()
        self._check()

    def _free(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._done += size
            self._changed.notify_all()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed
