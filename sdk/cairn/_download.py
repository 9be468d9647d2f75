"""Versions into folders: parts in parallel, each checked, each file put in place whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedRandom, BufferedWriter
from itertools import accumulate
from pathlib import Path
from typing import Final, TypeVar

from cairn._blobs import CHUNK, Store, TransferError, UrlExpired, WrongBytesError
from cairn._cache import Cache
from cairn._http import Api, ApiError, segment
from cairn._paths import check_paths, place
from cairn._transfer import WORKERS, Entry, Part, Progress, consists_of

URLS_AT_ONCE = 200
_PIECE: Final = 16 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

T = TypeVar("T")


def download(
    api: Api,
    team: str,
    entries: Sequence[Entry],
    folder: Path,
    *,
    progress: Progress | None = None,
    store: Store | None = None,
) -> None:
    """Puts the files of a version into ``folder``; a file that is there with the right bytes stays.

    What was fetched of a large file before it broke off is not fetched again. Raises `TransferError` (also
    where bytes are not those of the manifest, or the disk is full), `UnsafePath`, `Unreachable`, `ApiError`.
    """
    check_paths(entry.path for entry in entries)
    total, done = sum(entry.size for entry in entries), 0
    cache = Cache.of(os.environ)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="cairn-get") as pool:
            fetcher = _Fetcher(api, team, store or Store())
            for batch in _batches(entries):
                for size in _files(pool, fetcher, batch, folder, cache):
                    done += size
                    if progress is not None:
                        progress(done, total)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise TransferError(
            f"the disk of {folder} is full: {done:,} of {total:,} bytes are there. Make room for the rest, "
            "and fetch again: it goes on where it stopped"
        ) from error
    finally:
        if cache is not None:
            cache.trim()


def download_folder(
    api: Api,
    team: str,
    entries: Sequence[Entry],
    folder: Path,
    *,
    progress: Progress | None = None,
    store: Store | None = None,
) -> None:
    """As `download`, with the folder itself appearing only once all of it is there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        return
    with _partial(folder) as partial:
        download(api, team, entries, partial, progress=progress, store=store)
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder beside it for what is not whole yet. It stays after an error, to go on with; where another
    process works in it, this one has one of its own."""
    shared = folder.with_name(f".{folder.name}.partial")
    shared.mkdir(exist_ok=True)
    lock = os.open(shared, os.O_RDONLY)
    try:
        if _locked(lock):
            yield shared
            return
        own = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)
    finally:
        os.close(lock)


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """So many files at a time as one answer's URLs serve before they expire."""
    batch: list[Entry] = []
    parts = 0
    for entry in entries:
        if batch and parts + len(entry.parts) > URLS_AT_ONCE:
            yield batch
            batch, parts = [], 0
        batch.append(entry)
        parts += len(entry.parts)
    if batch:
        yield batch


def _files(
    pool: ThreadPoolExecutor, fetcher: _Fetcher, batch: list[Entry], folder: Path, cache: Cache | None
) -> Iterator[int]:
    """Yields the sizes of parts as they arrive. Large files go one after the other, small ones together."""
    targets = {entry.path: place(folder, entry.path) for entry in batch}
    there = [pool.submit(_there, entry, targets[entry.path], cache) for entry in batch]
    missing = []
    for entry, is_there in zip(batch, _results(there), strict=True):
        if is_there:
            yield entry.size
        else:
            missing.append(entry)
    fetcher.ask([part for entry in missing for part in entry.parts])
    small = [entry for entry in missing if _is_small(entry)]
    futures = [pool.submit(_small_file, fetcher, entry, targets[entry.path], cache) for entry in small]
    yield from _results(futures)
    for entry in missing:
        if not _is_small(entry):
            yield from _large_file(pool, fetcher, entry, targets[entry.path])
            if cache is not None:
                cache.keep(entry, targets[entry.path])


def _there(entry: Entry, target: Path, cache: Cache | None) -> bool:
    return _same(target, entry) or (cache is not None and cache.take(entry, target))


def _is_small(entry: Entry) -> bool:
    """Whether it fits into memory: an MLflow client's file may be one part of gigabytes."""
    return len(entry.parts) <= 1 and entry.size <= _PIECE


def _small_file(fetcher: _Fetcher, entry: Entry, target: Path, cache: Cache | None) -> int:
    data = fetcher.get(entry.parts[0]) if entry.parts else b""
    with _in_place(target) as file:
        file.write(data)
    if cache is not None:
        cache.keep(entry, target)
    return entry.size


def _large_file(pool: ThreadPoolExecutor, fetcher: _Fetcher, entry: Entry, target: Path) -> Iterator[int]:
    with _resumable(target, entry) as (file, begun):
        if len(entry.parts) > 1:
            yield from _parts(pool, fetcher, entry, file.fileno(), begun=begun)
        else:
            yield from _one_part(pool, fetcher, entry, file.fileno())
        os.truncate(file.fileno(), entry.size)


def _parts(
    pool: ThreadPoolExecutor, fetcher: _Fetcher, entry: Entry, descriptor: int, *, begun: bool
) -> Iterator[int]:
    """Fetches parts, each checked on its way; not those that are there from before."""

    def fetch(part: Part, offset: int) -> int:
        if not begun or not _is_part(part, descriptor, offset):
            _write(descriptor, fetcher.get(part), offset)
        return part.size

    offsets = accumulate((part.size for part in entry.parts), initial=0)
    yield from _results([pool.submit(fetch, *each) for each in zip(entry.parts, offsets, strict=False)])


def _one_part(pool: ThreadPoolExecutor, fetcher: _Fetcher, entry: Entry, descriptor: int) -> Iterator[int]:
    """Fetches a part of any size by ranges, which are held against its digest in their order."""
    (part,) = entry.parts

    def fetch(start: int, count: int) -> int:
        _write(descriptor, fetcher.get_range(part, start, count), start)
        return count

    starts = range(0, part.size, _PIECE)
    futures = [pool.submit(fetch, start, min(_PIECE, part.size - start)) for start in starts]
    seen, offset = hashlib.sha256(), 0
    for size in _results(futures):
        _add(seen, descriptor, offset, size)
        offset += size
        yield size
    if seen.hexdigest() != part.digest:
        os.truncate(descriptor, 0)
        raise TransferError(f"{entry.path}: its bytes are not those of the manifest; it was not written")


def _results(futures: list[Future[T]]) -> Iterator[T]:
    try:
        for future in futures:
            yield future.result()
    finally:
        # On an error the file is closed after this: no part may still be writing into it.
        for future in futures:
            if not future.cancel():
                future.exception()


def _add(whole: hashlib._Hash, descriptor: int, offset: int, size: int) -> None:
    """Adds what a file has at a place to its digest."""
    end = offset + size
    while offset < end and (data := os.pread(descriptor, min(CHUNK, end - offset), offset)):
        whole.update(data)
        offset += len(data)


def _is_part(part: Part, descriptor: int, offset: int) -> bool:
    seen = hashlib.sha256()
    _add(seen, descriptor, offset, part.size)
    return seen.hexdigest() == part.digest


def _write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    # A disk that is nearly full takes what it can, and says so with the rest.
    while (written := os.pwrite(descriptor, data, offset)) < len(data):
        data, offset = memoryview(data)[written:], offset + written


class _Fetcher:
    """Parts by digest; URLs are asked for ahead, and again for one that has expired."""

    def __init__(self, api: Api, team: str, store: Store) -> None:
        self._api, self._team, self._store = api, team, store
        self._urls: dict[str, str] = {}

    def ask(self, parts: Sequence[Part]) -> None:
        wanted = sorted({part.digest for part in parts})
        for start in range(0, len(wanted), 1000):
            self._urls.update(self._ask(wanted[start : start + 1000]))

    def get(self, part: Part) -> memoryview:
        """As `Store.get`; what came wrong may come right."""
        for last in (False, True):
            url = self._urls[part.digest]
            try:
                return self._store.get(url, digest=part.digest, size=part.size)
            except UrlExpired:
                if last:
                    raise
                self._urls.update(self._ask([part.digest]))
            except WrongBytesError:
                if last:
                    raise
        raise AssertionError("the last try ends it")

    def get_range(self, part: Part, start: int, count: int) -> bytes:
        try:
            return self._store.get_range(self._urls[part.digest], start, count)
        except UrlExpired:
            return self._store.get_range(self._ask([part.digest])[part.digest], start, count)

    def _ask(self, digests: list[str]) -> dict[str, str]:
        try:
            answer = self._api.post(f"/api/v1/teams/{segment(self._team)}/downloads", {"digests": digests})
        except ApiError as error:
            if error.reason != "BLOB_NOT_FOUND":
                raise
            lost = error.metadata.get("digest", "")[:12]
            raise TransferError(
                f"the store has lost bytes of it (blob {lost}): `cairn artifacts verify` says of which files"
            ) from error
        urls = {each["digest"]: each["url"] for each in answer.get("downloads", [])}
        if missing := set(digests) - urls.keys():
            raise TransferError(f"the store no longer has blob {min(missing)[:12]}")
        return urls


@contextmanager
def _resumable(target: Path, entry: Entry) -> Iterator[tuple[BufferedRandom, bool]]:
    """As `_in_place`; after an error the file stays, to go on with, and is found by the digest that it is to
    have. Also whether it was begun before. Where another process writes it, this one has one of its own."""
    shared, own = (target.with_name(f".cairn-{name}") for name in (entry.digest[:32], secrets.token_hex(8)))
    for path in (shared, own):
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as file:
            # One's own needs no lock, nor can it have one where the disk knows none.
            if path == shared and (not _locked(file.fileno()) or not _is(path, file)):
                continue  # in the second case another process has just put it in place
            try:
                yield file, os.fstat(file.fileno()).st_size > 0
                os.replace(path, target)
            finally:
                if path == own or not os.fstat(file.fileno()).st_size:
                    path.unlink(missing_ok=True)
            return


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        # Somebody else has it, or this disk (Lustre with noflock, some FUSE mounts) has no locks.
        return False


def _is(path: Path, file: BufferedRandom) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextmanager
def _in_place(target: Path) -> Iterator[BufferedWriter]:
    """A new file beside ``target`` that takes its place at the end, and is gone after an error."""
    temporary = target.with_name(f".cairn-{secrets.token_hex(8)}")
    try:
        # O_EXCL and the name make it ours; the process's umask gives its mode.
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _same(target: Path, entry: Entry) -> bool:
    if target.is_symlink() or not target.is_file() or target.stat().st_size != entry.size:
        return False
    return consists_of(target, entry.parts)
