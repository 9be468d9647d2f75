"""What is moved to and from the artifact store: files in content-addressed parts of 16 MiB, and manifests."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cairn._blobs import CHUNK, Store, TransferError
from cairn._http import Api, Json, segment
from cairn._paths import check_path, check_paths

PART = 16 * 2**20
WORKERS = 8

# Device, inode, size, and when it was written last: of a file that was written since, one of them differs.
Stamp = tuple[int, int, int, int]
# (bytes done, bytes in all): called from one thread at a time.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A file to send: where it lies, its path in the version, its size in bytes."""

    file: Path
    path: str
    size: int
    # How it was when it was given (see `stamp_of`); None: however it is when it is read.
    stamp: Stamp | None = None


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
    # Of a file in one part its sha256, else `digest_of` its parts. Other clients may have stated the sha256
    # of all of such a file: what counts are the parts.
    digest: str
    parts: tuple[Part, ...] = field(default=())

    @staticmethod
    def made_of(path: str, parts: tuple[Part, ...]) -> Entry:
        """The file that these parts are, in their order."""
        return Entry(path, sum(part.size for part in parts), digest_of(parts), parts)

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


def digest_of(parts: Sequence[Part]) -> str:
    """A file's digest: that of its only part, or the sha256 over the digests (as bytes) of its parts."""
    if len(parts) == 1:
        return parts[0].digest
    return hashlib.sha256(b"".join(bytes.fromhex(part.digest) for part in parts)).hexdigest()


def consists_of(path: Path, parts: Iterable[Part]) -> bool:
    """Whether these parts are the bytes of a file, and nothing more. Raises OSError."""
    with path.open("rb") as file:
        return all(_digest(file, part.size) == part.digest for part in parts) and not file.read(1)


def _digest(file: BinaryIO, size: int) -> str:
    """Of the next so many bytes."""
    seen = hashlib.sha256()
    while size and (data := file.read(min(size, CHUNK))):
        seen.update(data)
        size -= len(data)
    return seen.hexdigest()


def sources(path: Path) -> list[Source]:
    """The files to send for ``path``: itself, or all below it. Raises `TransferError`, `UnsafePath`.

    Links inside the folder are followed; one that leads out of it, or nowhere, is an error.
    """
    if not path.exists():
        raise TransferError(f"{path} does not exist")
    if path.is_file():
        return [Source(path, check_path(path.name), path.stat().st_size)]
    if not path.is_dir():
        raise TransferError(f"{path} is neither a file nor a folder: there is nothing to save")
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


def stamp_of(status: os.stat_result) -> Stamp:
    """What tells that a file was written since, or is another one."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def ask_uploads(
    api: Api, team: str, parts: Iterable[Part], *, uploaded: Sequence[str] = ()
) -> dict[str, str]:
    """Digest to URL, for the parts that the store lacks; `uploaded` are digests that were sent since."""
    body: Json = {"parts": [part.json() for part in parts]}
    if uploaded:
        body["uploaded"] = list(uploaded)
    answer = api.post(f"/api/v1/teams/{segment(team)}/uploads", body)
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
    given: Iterable[Json] = version.get("entries", [])
    if len(version.get("entries", [])) < int(version.get("entry_count") or 0):
        given = api.pages(f"/api/v1/{version['name']}/entries", "entries")
    entries = [Entry.of(value) for value in given]
    check_paths(entry.path for entry in entries)
    return entries
