"""Files to the artifact store, in content-addressed parts.

A file is read once, and each byte hashed once. Each part is hashed and, where the store lacks it, sent from
memory by one of eight threads, while the next ones are read; at most `WINDOW` bytes are in memory. What is in
the store already is not sent again, so an upload that broke off goes on where it broke; and a file that was
read before, and was not written since, is not even read (see `cairn._digests`).
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from typing import TypeVar

from cairn._blobs import Bytes, Store, TransferError, UrlExpired
from cairn._digests import Digests
from cairn._http import Api
from cairn._transfer import PART, WORKERS, Entry, Part, Progress, Source, Stamp, ask_uploads, stamp_of

WINDOW = WORKERS * PART
# Parts that are asked about together.
BATCH_PARTS = 1_000
# What a part counts for in memory at least: who sends it, and where to, is more than a small file.
LEAST = 32 * 1024

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
            made = [reader.file(source) for source in files]
            sending.finish()
        except BaseException:
            sending.give_up()
            raise
        reader.note()
    return [each.entry() if isinstance(each, _Hashing) else each for each in made]


@dataclass(slots=True)
class _Hashing:
    """A file in several parts, of which threads find out what they are."""

    path: str
    stamp: Stamp
    # When its reading began.
    began: int
    parts: list[Future[Part]] = field(default_factory=list)

    def done(self) -> bool:
        return all(part.done() for part in self.parts)

    def entry(self) -> Entry:
        return Entry.made_of(self.path, tuple(part.result() for part in self.parts))


class _Reader:
    """Reads files once, giving away their parts; notes what it came to."""

    def __init__(self, sending: _Sending, digests: Digests | None) -> None:
        self._sending, self._digests = sending, digests
        # Files that were read, and are not noted yet.
        self._read: deque[_Hashing] = deque()

    def file(self, source: Source) -> Entry | _Hashing:
        """What the file is, or what will know it when all is sent."""
        if self._digests is not None:
            try:
                stamp = stamp_of(source.file.stat())
            except OSError as error:
                raise _unreadable(source, error) from error
            noted = self._digests.find(stamp)
            if noted is not None:
                _refuse_changed(source, stamp)
                return self._noted(source, stamp, noted)
        return self._hashed(source)

    def note(self) -> None:
        """Writes down what is known by now."""
        while self._read and self._read[0].done():
            made = self._read.popleft()
            self._note(made.stamp, made.began, made.entry())

    def _note(self, stamp: Stamp, began: int, made: Entry) -> None:
        if self._digests is not None:
            self._digests.note(stamp, began, made.digest, made.parts)

    def _noted(self, source: Source, stamp: Stamp, parts: tuple[Part, ...]) -> Entry:
        offset = 0
        for part in parts:
            self._sending.known(part, source, stamp, offset)
            offset += part.size
        return Entry.made_of(source.path, parts)

    def _hashed(self, source: Source) -> Entry | _Hashing:
        began = time.time_ns()
        try:
            # Unbuffered: a part is read into its place.
            with source.file.open("rb", buffering=0) as file:
                before = stamp_of(os.fstat(file.fileno()))
                _refuse_changed(source, before)
                if before[2] > PART:
                    made: Entry | _Hashing = self._large(source.path, file, before, began)
                else:
                    made = self._small(source.path, file)
                after = stamp_of(os.fstat(file.fileno()))
        except OSError as error:
            raise _unreadable(source, error) from error
        read = before[2] if isinstance(made, _Hashing) else made.size
        if before != after or read != after[2]:
            raise ChangedError(f"{source.file} changed while it was read: save it again when it is still")
        if isinstance(made, _Hashing):
            self._read.append(made)
        else:
            self._note(after, began, made)
        self.note()
        return made

    def _small(self, path: str, file: FileIO) -> Entry:
        data = file.readall()
        if not data:
            return Entry.made_of(path, ())
        part = Part(hashlib.sha256(data).hexdigest(), len(data))
        self._sending.small(part, data)
        return Entry.made_of(path, (part,))

    def _large(self, path: str, file: FileIO, stamp: Stamp, began: int) -> _Hashing:
        made, left = _Hashing(path, stamp, began), stamp[2]
        while left:
            buffer = self._sending.room(min(left, PART))
            if not _fill(file, buffer):
                raise ChangedError(f"{file.name} became shorter while it was read: save it again")
            made.parts.append(self._sending.large(buffer))
            left -= len(buffer)
        return made


def _fill(file: FileIO, view: memoryview) -> bool:
    """Whether there was as much."""
    while view and (count := file.readinto(view)):
        view = view[count:]
    return not view


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
        # Memory that parts of large files were in: new memory would cost as much time as filling it.
        self._free_buffers: list[bytearray] = []
        self._batch: dict[str, Bytes] = {}
        self._batch_bytes = 0
        # Parts of large files, to be asked about by whoever is free: several a call, as they come.
        self._unasked: dict[str, Bytes] = {}
        self._asking = False
        # Parts that were noted, to be read if the store lacks them: whose, and where in it.
        self._noted: dict[str, tuple[Part, Source, Stamp, int]] = {}
        # What the store has since it was told so last.
        self._sent: list[str] = []
        # Bytes in memory, bytes that are in the store, and works that are not done.
        self._held = self._done = self._works = 0
        self._failed: BaseException | None = None

    def room(self, size: int) -> memoryview:
        """Memory for a part of a large file, to be given to `large`; waits until there is some."""
        self._wait_for(size)
        with self._changed:
            buffer = self._free_buffers.pop() if self._free_buffers else bytearray(PART)
        return memoryview(buffer)[:size]

    def large(self, data: memoryview) -> Future[Part]:
        """A part of a large file; its digest is worked out beside."""
        return self._work(self._hash_and_send, data)

    def small(self, part: Part, data: bytes) -> None:
        """A whole small file, asked about together with others."""
        self._wait_for(part.size)
        if not self._is_new(part.digest):
            self._free(data)
            return
        self._batch[part.digest] = data
        self._batch_bytes += part.size
        if self._batch_bytes >= PART or len(self._batch) >= BATCH_PARTS:
            self._flush()

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

    def _hash_and_send(self, data: memoryview) -> Part:
        part = Part(hashlib.sha256(data).hexdigest(), len(data))
        if not self._is_new(part.digest):
            self._free(data)
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

    def _ask_and_send(self, batch: Mapping[str, Bytes]) -> None:
        urls = self._ask([Part(digest, len(data)) for digest, data in batch.items()])
        self._free(*(data for digest, data in batch.items() if digest not in urls))
        for digest, url in urls.items():
            self._work(self._put, digest, batch[digest], url)

    def _ask(self, parts: Sequence[Part]) -> dict[str, str]:
        """URLs for what the store lacks; it hears what it has by now, and reads that meanwhile."""
        with self._changed:
            sent, self._sent = self._sent[:BATCH_PARTS], self._sent[BATCH_PARTS:]
        return ask_uploads(self._api, self._team, parts, uploaded=sent)

    def _put(self, digest: str, data: Bytes, url: str) -> None:
        try:
            self._store.put(url, data)
        except UrlExpired:
            again = self._ask([Part(digest, len(data))])
            if digest in again:
                self._store.put(again[digest], data)
        with self._changed:
            self._sent.append(digest)
        self._free(data)

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
        """Returns when there is room for a part of so many bytes."""
        size = max(size, LEAST)
        while True:
            with self._changed:
                while self._works and self._is_full(size):
                    self._changed.wait()
                if not self._is_full(size) or not self._batch:
                    self._held += size
                    self._tell()
                    break
            # All that is held waits to be asked about together: nothing else makes room.
            self._flush()
        self._check()

    def _is_full(self, size: int) -> bool:
        return bool(self._held) and self._held + size > WINDOW and self._failed is None

    def _free(self, *pieces: Bytes) -> None:
        """These are in the store."""
        with self._changed:
            self._free_buffers += [each.obj for each in pieces if isinstance(each, memoryview)]  # type: ignore[misc]
            self._held -= sum(max(len(each), LEAST) for each in pieces)
            self._done += sum(map(len, pieces))
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
