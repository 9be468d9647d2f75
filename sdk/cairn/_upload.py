"""Files to the artifact store, in content-addressed parts.

A file is read once. Each part is hashed and, where the store lacks it, sent from memory by one of eight
threads, while the next ones are read; at most `WINDOW` bytes are in memory. What is in the store already is
not sent again, so an upload that broke off goes on where it broke; and a file that was read before, and was
not written since, is not even read (see `cairn._digests`).
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cairn._blobs import Store, TransferError, UrlExpired
from cairn._digests import Digests
from cairn._http import Api
from cairn._transfer import PART, WORKERS, Entry, Part, Progress, Source, Stamp, ask_uploads, stamp_of

WINDOW = WORKERS * PART
# Parts that are asked about together.
BATCH_PARTS = 1_000

T = TypeVar("T")


class ChangedError(TransferError):
    """A file was written while it was to be saved: what was read of it is no state that it ever had."""


class _NotedWronglyError(Exception):
    """A file is not what was noted of it."""


def upload(
    api: Api,
    team: str,
    files: Sequence[Source],
    *,
    progress: Progress | None = None,
    store: Store | None = None,
) -> list[Entry]:
    """Sends what the store lacks of ``files``; returns the manifest's entries in their order.

    Raises `TransferError` (`ChangedError` for a file that is written meanwhile), `Unreachable`, `ApiError`.
    """
    store, digests = store or Store(), Digests.of(os.environ)
    try:
        return _upload(api, team, files, progress, store, digests)
    except _NotedWronglyError:
        return _upload(api, team, files, progress, store, None)
    finally:
        if digests is not None:
            digests.close()


def _upload(
    api: Api,
    team: str,
    files: Sequence[Source],
    progress: Progress | None,
    store: Store,
    digests: Digests | None,
) -> list[Entry]:
    total = sum(each.size for each in files)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="cairn-put") as pool:
        sending = _Sending(api, team, store, pool, progress=progress, total=total)
        reader = _Reader(sending, digests)
        try:
            entries = [reader.file(source) for source in files]
            sending.finish()
        except BaseException:
            sending.give_up()
            raise
        reader.note()
    return [entry() for entry in entries]


class _Reader:
    """Reads files once, giving away their parts; notes what it came to."""

    def __init__(self, sending: _Sending, digests: Digests | None) -> None:
        self._sending, self._digests = sending, digests
        # Files that were read, when that began, and what they came to, once their parts are hashed.
        self._read: deque[tuple[Stamp, int, Sequence[Future[Part]], Callable[[], Entry]]] = deque()

    def file(self, source: Source) -> Callable[[], Entry]:
        """The entry, known when all is sent."""
        if self._digests is not None:
            try:
                stamp = stamp_of(source.file.stat())
            except OSError as error:
                raise _unreadable(source, error) from error
            noted = self._digests.find(stamp)
            if noted is not None:
                _refuse_changed(source, stamp)
                return self._noted(source, stamp, Entry(source.path, stamp[2], *noted))
        return self._hashed(source)

    def note(self) -> None:
        """Writes down what is known by now."""
        while self._read and all(part.done() for part in self._read[0][2]):
            stamp, began, _, entry = self._read.popleft()
            if self._digests is not None:
                made = entry()
                self._digests.note(stamp, began, made.digest, made.parts)

    def _noted(self, source: Source, stamp: Stamp, entry: Entry) -> Callable[[], Entry]:
        offset = 0
        for part in entry.parts:
            self._sending.known(part, source, stamp, offset)
            offset += part.size
        return lambda: entry

    def _hashed(self, source: Source) -> Callable[[], Entry]:
        parts: list[Future[Part]] = []
        whole, size, began = hashlib.sha256(), 0, time.time_ns()
        try:
            with source.file.open("rb") as file:
                before = stamp_of(os.fstat(file.fileno()))
                _refuse_changed(source, before)
                while data := file.read(PART):
                    size += len(data)
                    if before[2] > PART:
                        parts.append(self._sending.large(data))
                        whole.update(data)  # while other threads hash the part, and send
                    else:
                        # Of a file in one part, the part's digest is the whole's.
                        whole.update(data)
                        parts.append(self._sending.small(Part(whole.hexdigest(), len(data)), data))
                after = stamp_of(os.fstat(file.fileno()))
        except OSError as error:
            raise _unreadable(source, error) from error
        if before != after or size != after[2]:
            raise ChangedError(f"{source.file} changed while it was read: save it again when it is still")

        def entry() -> Entry:
            return Entry(source.path, size, whole.hexdigest(), tuple(part.result() for part in parts))

        self._read.append((after, began, parts, entry))
        self.note()
        return entry


def _refuse_changed(source: Source, stamp: Stamp) -> None:
    if source.stamp is not None and source.stamp != stamp:
        raise ChangedError(
            f"{source.file} was written after it was given to be saved: its bytes then are gone"
        )


def _unreadable(source: Source, error: OSError) -> TransferError:
    return TransferError(f"{source.file} cannot be read: {error.strerror or error}")


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
        self._seen: set[str] = set()
        self._batch: dict[str, bytes] = {}
        self._batch_bytes = 0
        # Parts of large files, to be asked about by whoever is free: several a call, as they come.
        self._unasked: dict[str, bytes] = {}
        self._asking = False
        # Parts that were noted, to be read if the store lacks them: whose, and where in it.
        self._noted: dict[str, tuple[Part, Source, Stamp, int]] = {}
        # What the store has since it was told so last.
        self._sent: list[str] = []
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

    def known(self, part: Part, source: Source, stamp: Stamp, offset: int) -> None:
        """A part of a file that was read before."""
        if self._is_new(part.digest):
            self._noted[part.digest] = (part, source, stamp, offset)
        else:
            self._count(part.size)
        if len(self._noted) >= BATCH_PARTS:
            self._read_noted()

    def finish(self) -> None:
        """Returns once all is in the store. Raises what made something of it impossible."""
        self._read_noted()
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

    def _read_noted(self) -> None:
        """Reads and sends what the store lacks of what was noted."""
        noted, self._noted = self._noted, {}
        urls = self._ask([part for part, *_ in noted.values()]) if noted else {}
        for digest, (part, source, stamp, offset) in noted.items():
            if digest not in urls:
                self._count(part.size)
                continue
            self._wait_for(part.size)
            self._work(self._check_and_put, part, _piece(source, stamp, offset, part.size), urls[digest])

    def _check_and_put(self, part: Part, data: bytes, url: str) -> None:
        if hashlib.sha256(data).hexdigest() != part.digest:
            raise _NotedWronglyError
        self._put(part.digest, data, url)

    def _hash_and_send(self, data: bytes) -> Part:
        part = Part(hashlib.sha256(data).hexdigest(), len(data))
        if not self._is_new(part.digest):
            self._free(part.size)
            return part
        with self._changed:
            self._unasked[part.digest] = data
            if self._asking:
                return part  # whoever asks now takes it along next
            self._asking = True
        while True:
            with self._changed:
                batch, self._unasked = self._unasked, {}
                if not batch:
                    self._asking = False
                    return part
            self._ask_and_send(batch)

    def _ask_and_send(self, batch: Mapping[str, bytes]) -> None:
        urls = self._ask([Part(digest, len(data)) for digest, data in batch.items()])
        self._free(sum(len(data) for digest, data in batch.items() if digest not in urls))
        for digest, url in urls.items():
            self._work(self._put, digest, batch[digest], url)

    def _ask(self, parts: Sequence[Part]) -> dict[str, str]:
        """URLs for what the store lacks; it hears what it has by now, and reads that meanwhile."""
        with self._changed:
            sent, self._sent = self._sent[:BATCH_PARTS], self._sent[BATCH_PARTS:]
        return ask_uploads(self._api, self._team, parts, uploaded=sent)

    def _put(self, digest: str, data: bytes, url: str) -> None:
        try:
            self._store.put(url, data)
        except UrlExpired:
            again = self._ask([Part(digest, len(data))])
            if digest in again:
                self._store.put(again[digest], data)
        with self._changed:
            self._sent.append(digest)
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
            new = digest not in self._seen
            self._seen.add(digest)
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

    def _count(self, size: int) -> None:
        """So many bytes need not be sent."""
        with self._changed:
            self._done += size
            self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed


def _piece(source: Source, stamp: Stamp, offset: int, size: int) -> bytes:
    """Bytes of a file that is as it was. Raises `TransferError`."""
    try:
        with source.file.open("rb") as file:
            if stamp_of(os.fstat(file.fileno())) != stamp:
                raise ChangedError(f"{source.file} changed while it was read: save it again when it is still")
            return os.pread(file.fileno(), size, offset)
    except OSError as error:
        raise _unreadable(source, error) from error
