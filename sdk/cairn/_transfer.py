"""Files to and from the artifact store, in content-addressed parts moved in parallel.

A file is read once: each part of 16 MiB is hashed, and sent from memory where the store lacks it. What is
there already is not sent again, so a broken upload goes on where it broke. At most about
``2 * BATCH_BYTES`` are held in memory.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cairn._blobs import Store, TransferError, UrlExpired
from cairn._http import Api, Json, segment
from cairn._paths import check_path, check_paths

PART = 16 * 2**20
BATCH_BYTES = 4 * PART
BATCH_PARTS = 1_000
WORKERS = 8

# (bytes done, bytes in all): called from one thread at a time.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A file to send: where it lies, its path in the version, its size in bytes."""

    file: Path
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file, known by its sha256."""

    digest: str
    size: int

    def json(self) -> Json:
        return {"digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a version, as its manifest states it."""

    path: str
    size: int
    digest: str
    parts: tuple[Part, ...] = field(default=())

    def json(self) -> Json:
        return {
            "path": self.path,
            "size": self.size,
            "digest": self.digest,
            "parts": [part.json() for part in self.parts],
        }

    @staticmethod
    def of(value: Json) -> Entry:
        """From the API's resource. Raises `TransferError` where the manifest contradicts itself."""
        parts = tuple(Part(str(part["digest"]), int(part["size"])) for part in value.get("parts", []))
        entry = Entry(str(value["path"]), int(value.get("size", 0)), str(value.get("digest", "")), parts)
        if sum(part.size for part in parts) != entry.size or any(part.size <= 0 for part in parts):
            raise TransferError(f"the manifest of {entry.path!r} contradicts itself: its parts do not add up")
        return entry


def sources(path: Path) -> list[Source]:
    """The files to send for ``path``: itself, or all below it. Raises `TransferError`, `UnsafePath`.

    Links inside the folder are followed; one that leads out of it, or nowhere, is an error.
    """
    if not path.exists():
        raise TransferError(f"{path} does not exist")
    if path.is_file():
        return [Source(path, check_path(path.name), path.stat().st_size)]
    found = sorted(_walk(path, path.resolve()), key=lambda source: source.path)
    if not found:
        raise TransferError(f"{path} is an empty folder: there is nothing to save")
    return found


def _walk(folder: Path, root: Path) -> Iterator[Source]:
    for parent, folders, names in os.walk(folder):
        for name in sorted([*names, *(each for each in folders if Path(parent, each).is_symlink())]):
            file = Path(parent, name)
            if file.is_symlink() and not file.resolve().is_relative_to(root):
                raise TransferError(
                    f"{file} is a link that leads out of {folder}: copy its target in, or remove it"
                )
            try:
                status = file.stat()
            except OSError as error:
                raise TransferError(f"{file} cannot be read: {error.strerror}") from error
            if stat.S_ISDIR(status.st_mode):
                raise TransferError(f"{file} is a link to a folder: save the folder itself")
            if not stat.S_ISREG(status.st_mode):
                raise TransferError(f"{file} is neither a file nor a folder: remove it")
            yield Source(file, check_path(file.relative_to(folder).as_posix()), status.st_size)


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
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="cairn-put") as pool:
        batch = _Uploads(
            api, team, store or Store(), pool, _Meter(progress, sum(each.size for each in files))
        )
        entries = [_read(source, batch.add) for source in files]
        batch.finish()
    return entries


def _read(source: Source, give: Callable[[Part, bytes], None]) -> Entry:
    """Reads a file once, giving away each part; hashes the parts and the whole."""
    parts: list[Part] = []
    whole = hashlib.sha256()
    try:
        with source.file.open("rb") as file:
            before = os.fstat(file.fileno())
            while data := file.read(PART):
                part = Part(hashlib.sha256(data).hexdigest(), len(data))
                parts.append(part)
                if before.st_size > PART:  # of a file in one part, the part's digest is the whole's
                    whole.update(data)
                give(part, data)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise TransferError(f"{source.file} cannot be read: {error.strerror or error}") from error
    size = sum(part.size for part in parts)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size:
        raise TransferError(f"{source.file} changed while it was read: save it again when it is still")
    digest = parts[0].digest if len(parts) == 1 else whole.hexdigest()
    return Entry(source.path, size, digest, tuple(parts))


class _Meter:
    """Counts bytes up for the progress callback; the calling thread alone touches it."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)


class _Uploads:
    """Parts in memory, asked for and sent in batches: while one is sent the next is read."""

    def __init__(self, api: Api, team: str, store: Store, pool: ThreadPoolExecutor, meter: _Meter) -> None:
        self._api, self._team, self._store, self._pool, self._meter = api, team, store, pool, meter
        self._batch: dict[str, bytes] = {}
        self._bytes = 0
        self._repeated = 0
        self._sending: list[tuple[Future[None], int]] = []
        self._known: set[str] = set()

    def add(self, part: Part, data: bytes) -> None:
        if part.digest in self._known:
            self._repeated += part.size
            return
        self._known.add(part.digest)
        self._batch[part.digest] = data
        self._bytes += part.size
        if self._bytes >= BATCH_BYTES or len(self._batch) >= BATCH_PARTS:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self._wait()
        self._meter.add(self._repeated)

    def _flush(self) -> None:
        batch, self._batch, self._bytes = self._batch, {}, 0
        if not batch:
            return
        urls = ask_uploads(self._api, self._team, [Part(digest, len(data)) for digest, data in batch.items()])
        self._wait()
        self._meter.add(sum(len(data) for digest, data in batch.items() if digest not in urls))
        for digest, url in urls.items():
            self._sending.append(
                (self._pool.submit(self._put, digest, batch[digest], url), len(batch[digest]))
            )

    def _put(self, digest: str, data: bytes, url: str) -> None:
        try:
            self._store.put(url, data)
        except UrlExpired:
            again = ask_uploads(self._api, self._team, [Part(digest, len(data))])
            if digest in again:
                self._store.put(again[digest], data)

    def _wait(self) -> None:
        sending, self._sending = self._sending, []
        try:
            for future, size in sending:
                future.result()
                self._meter.add(size)
        finally:
            for future, _ in sending:
                future.cancel()


def ask_uploads(api: Api, team: str, parts: Iterable[Part]) -> dict[str, str]:
    """Digest to URL, for the parts that the store lacks."""
    answer = api.post(f"/api/v1/teams/{segment(team)}/uploads", {"parts": [part.json() for part in parts]})
    return {upload["digest"]: upload["url"] for upload in answer.get("uploads", [])}


def put_file(
    api: Api,
    team: str,
    file: Path,
    part: Part,
    *,
    progress: Progress | None = None,
    store: Store | None = None,
) -> bool:
    """Sends a whole file as one blob (a code archive); False where the store has it already."""
    urls = ask_uploads(api, team, [part])
    if part.digest not in urls:
        return False

    def read(gone: int) -> None:
        if progress is not None:
            progress(gone, part.size)

    (store or Store()).put_file(urls[part.digest], file, part.size, read)
    return True


def entries_of(api: Api, version: Json) -> list[Entry]:
    """The entries of a version as the API gives it, checked; those of many files are asked for.

    Raises `TransferError`, `UnsafePath`, `Unreachable`, `ApiError`.
    """
    given = version.get("entries", [])
    if len(given) < int(version.get("entry_count") or 0):
        given = list(api.pages(f"/api/v1/{version['name']}/entries", "entries"))
    entries = [Entry.of(value) for value in given]
    check_paths(entry.path for entry in entries)
    return entries
