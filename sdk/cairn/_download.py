"""Versions into folders: parts in parallel, each checked, each file put in place whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path

from cairn._blobs import Store, TransferError, UrlExpired
from cairn._http import Api, ApiError, segment
from cairn._paths import check_paths, place
from cairn._transfer import WORKERS, Entry, Part, Progress

URLS_AT_ONCE = 200


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

    Raises `TransferError` (also where bytes are not those of the manifest), `UnsafePath`, `Unreachable`,
    `ApiError`.
    """
    check_paths(entry.path for entry in entries)
    folder.mkdir(parents=True, exist_ok=True)
    total, done = sum(entry.size for entry in entries), 0
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="cairn-get") as pool:
        fetcher = _Fetcher(api, team, store or Store())
        for batch in _batches(entries):
            fetcher.ask([part for entry in batch for part in entry.parts])
            for size in _files(pool, fetcher, batch, folder):
                done += size
                if progress is not None:
                    progress(done, total)


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
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        download(api, team, entries, partial, progress=progress, store=store)
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def _files(pool: ThreadPoolExecutor, fetcher: _Fetcher, batch: list[Entry], folder: Path) -> Iterator[int]:
    """Yields the sizes of parts as they arrive. Large files go one after the other, small ones together."""
    small = [entry for entry in batch if len(entry.parts) <= 1]
    futures = [pool.submit(_small_file, fetcher, entry, place(folder, entry.path)) for entry in small]
    yield from _results(futures)
    for entry in batch:
        if len(entry.parts) > 1:
            yield from _large_file(pool, fetcher, entry, place(folder, entry.path))


def _small_file(fetcher: _Fetcher, entry: Entry, target: Path) -> int:
    if _same(target, entry):
        return entry.size
    data = fetcher.get(entry.parts[0]) if entry.parts else b""
    if hashlib.sha256(data).hexdigest() != entry.digest:
        raise TransferError(f"{entry.path}: its bytes are not those of the manifest; it was not written")
    with _in_place(target) as file:
        file.write(data)
    return entry.size


def _large_file(pool: ThreadPoolExecutor, fetcher: _Fetcher, entry: Entry, target: Path) -> Iterator[int]:
    if _same(target, entry):
        yield entry.size
        return
    with _in_place(target) as file:
        os.truncate(file.fileno(), entry.size)
        offset, futures = 0, list[Future[int]]()
        for part in entry.parts:
            futures.append(pool.submit(_part, fetcher, part, file.fileno(), offset))
            offset += part.size
        yield from _results(futures)
        if _digest(Path(file.name)) != entry.digest:
            raise TransferError(f"{entry.path}: its bytes are not those of the manifest; it was not written")


def _results(futures: list[Future[int]]) -> Iterator[int]:
    try:
        for future in futures:
            yield future.result()
    finally:
        # On an error the file is closed after this: no part may still be writing into it.
        for future in futures:
            if not future.cancel():
                future.exception()


def _part(fetcher: _Fetcher, part: Part, descriptor: int, offset: int) -> int:
    os.pwrite(descriptor, fetcher.get(part), offset)
    return part.size


class _Fetcher:
    """Parts by digest; URLs are asked for ahead, and again for one that has expired."""

    def __init__(self, api: Api, team: str, store: Store) -> None:
        self._api, self._team, self._store = api, team, store
        self._urls: dict[str, str] = {}

    def ask(self, parts: Sequence[Part]) -> None:
        wanted = sorted({part.digest for part in parts})
        for start in range(0, len(wanted), 1000):
            self._urls.update(self._ask(wanted[start : start + 1000]))

    def get(self, part: Part) -> bytes:
        try:
            return self._store.get(self._urls[part.digest], digest=part.digest, size=part.size)
        except UrlExpired:
            return self._store.get(self._ask([part.digest])[part.digest], digest=part.digest, size=part.size)

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
    return _digest(target) == entry.digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
