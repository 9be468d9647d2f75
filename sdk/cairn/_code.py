"""The working directory as one archive: the same files give the same bytes, wherever and whenever packed."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from cairn._git import GitState, git_files, git_state
from cairn._http import Json
from cairn._weigh import heaviest

SKIPPED = frozenset({".git", ".venv", "__pycache__", ".cairn"})
LARGEST = 2 * 2**30
MOST_FILES = 50_000
# Where there are more, the rest is not even looked at.
_MOST_LISTED = 1_000_000
SHOWN = 5
IGNORE = "or name it in .gitignore"


class CodeError(Exception):
    """The folder cannot be packed as it is; the message names each path and what to do."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A packed folder: the archive's file, its sha256 and size in bytes, how many files, git's state."""

    path: Path
    digest: str
    size: int
    files: int
    git: GitState

    def code(self) -> Json:
        """As ``CodeRef`` of the API."""
        return {
            "digest": self.digest,
            "size": self.size,
            "git_commit": self.git.commit,
            "git_branch": self.git.branch,
            "git_diff": self.git.diff,
        }


class _Spec(Protocol):
    def check_file(self, file: str) -> object: ...


def pack(folder: Path, *, git: bool = True, progress: Callable[[int, int], None] | None = None) -> Bundle:
    """Packs ``folder`` into a temporary .tar.gz, which the caller removes. Raises `CodeError`.

    In a git work tree: the tracked files and the new ones that are not ignored. Elsewhere, and without
    ``git``: all files but those that ``.gitignore`` files in the folder exclude. A ``.skyignore`` in the
    folder is used instead of both, as SkyPilot does. Never: .git, .venv, __pycache__, .cairn, virtual
    environments.
    """
    if not folder.is_dir():
        raise CodeError(f"the working directory {folder} is not a folder; give another one with --workdir")
    root = folder.resolve()
    names = list_files(root, git=git)
    _check(root, names)
    return _bundle(root, names, git_state(root) if git else GitState(), progress)


def pack_file(path: Path) -> Bundle:
    """Packs one file, whatever ignore files say. Raises `CodeError`."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CodeError(f"{path} cannot be read: {error.strerror}") from error
    if size > LARGEST:
        raise CodeError(
            f"{path} has {size / 2**30:.1f} GiB; at most {LARGEST / 2**30:.0f} GiB can go with a job. "
            "Bring data in with cairn.use_artifact, or read it from where it is."
        )
    # A link's target is meant.
    real = path.resolve()
    if problem := _problem(real.parent, real.name):
        raise CodeError(f"{path} cannot be packed: {problem}")
    return _bundle(real.parent, [real.name], GitState(), None)


def _bundle(
    root: Path, names: Sequence[str], state: GitState, progress: Callable[[int, int], None] | None
) -> Bundle:
    handle, path = tempfile.mkstemp(prefix="cairn-code-", suffix=".tar.gz")
    try:
        with os.fdopen(handle, "wb") as file:
            write_archive(root, names, file, progress=progress)
        with open(path, "rb") as archive:
            digest = hashlib.file_digest(archive, "sha256").hexdigest()
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    return Bundle(Path(path), digest, Path(path).stat().st_size, len(names), state)


def list_files(root: Path, *, git: bool = True) -> list[str]:
    """The paths to pack below ``root``, sorted, with ``/`` between parts."""
    found = git_files(root) if git and not (root / ".skyignore").is_file() else None
    every = _walk(root, root) if found is None else _inside(root, found)
    names = set(itertools.islice(every, _MOST_LISTED))
    foreign = tuple(name.removesuffix("pyvenv.cfg") for name in names if name.endswith("/pyvenv.cfg"))
    return sorted(
        name for name in names if not SKIPPED.intersection(name.split("/")) and not name.startswith(foreign)
    )


def _inside(root: Path, names: Sequence[str]) -> Iterator[str]:
    """git's list, with the files of submodules and inner repositories in place of their folders."""
    for name in names:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            if SKIPPED.isdisjoint(name.split("/")) and not _is_virtualenv(path):
                yield from (f"{name}/{each}" for each in list_files(path))
        else:
            yield name


def _walk(root: Path, folder: Path, specs: Sequence[tuple[str, _Spec]] = ()) -> Iterator[str]:
    """All files and empty folders below ``folder`` that no ignore file on the way down excludes."""
    base = "" if folder == root else folder.relative_to(root).as_posix() + "/"
    ignore = ".skyignore" if (root / ".skyignore").is_file() else ".gitignore"
    if (spec := _read_spec(folder / ignore)) is not None:
        specs = [*specs, (base, spec)]
    try:
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        raise CodeError(f"{folder} cannot be read ({error.strerror}): change its mode, {IGNORE}") from error
    if folder != root and not children:
        yield base.rstrip("/")
    for child in children:
        name = base + child.name
        is_folder = child.is_dir(follow_symlinks=False)
        if child.name in SKIPPED or _ignored(name + ("/" if is_folder else ""), specs):
            continue
        if not is_folder:
            yield name
        elif not _is_virtualenv(Path(child.path)):
            yield from _walk(root, Path(child.path), specs)


def _ignored(name: str, specs: Sequence[tuple[str, _Spec]]) -> bool:
    """As git decides: the ignore file closest to the path that says anything has the last word."""
    for base, spec in reversed(specs):
        verdict = getattr(spec.check_file(name[len(base) :]), "include", None)
        if verdict is not None:
            return bool(verdict)
    return False


def _read_spec(path: Path) -> _Spec | None:
    from pathspec import GitIgnoreSpec

    try:
        lines = path.read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CodeError(f"{path} cannot be read: {error.strerror}") from error
    return GitIgnoreSpec.from_lines(lines)


def _is_virtualenv(folder: Path) -> bool:
    """A virtual environment works nowhere else, and its links lead out of the folder."""
    return (folder / "pyvenv.cfg").is_file()


def _check(root: Path, names: Sequence[str]) -> None:
    sizes = {name: (root / name).lstat().st_size for name in names}
    total = sum(sizes.values())
    if len(names) > MOST_FILES or total > LARGEST:
        raise CodeError(_too_large(root, sizes))
    problems = [problem for name in names if (problem := _problem(root, name))]
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listed = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
        raise CodeError(f"{root} cannot be packed:{listed}{more}")


def _too_large(root: Path, sizes: Mapping[str, int]) -> str:
    """What is too much, where it lies, and what to write into which file."""
    count, total = len(sizes), sum(sizes.values())
    many = f"{count:,} files" if count < _MOST_LISTED else f"more than {count:,} files"
    found = heaviest(sizes, most_files=MOST_FILES, most_bytes=LARGEST, shown=SHOWN)
    listed = "".join(f"\n  {one.size / 2**20:10,.0f} MiB {one.files:9,} files  {one.path}" for one in found)
    lines = "".join(f"\n  /{one.path}" for one in found if one.chosen)
    own = (root / ".skyignore").is_file()
    tracked = "" if own else (
        "\nWhat git tracks is left out by a .skyignore alone; it is used instead of all .gitignore files."
    )  # fmt: skip
    return (
        f"{root} holds {many} of {total / 2**30:.1f} GiB together; at most {MOST_FILES:,} files and "
        f"{LARGEST / 2**30:.0f} GiB can go with a job. The most lies in:{listed}\n"
        f"Lines for {'.skyignore' if own else '.gitignore'} that make it small enough:{lines}{tracked}\n"
        "Bring data in with cairn.use_artifact, or read it from where it is."
    )


def _problem(root: Path, name: str) -> str:
    """What hinders ``name`` from being packed, with its remedy; empty: nothing."""
    path = root / name
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        target = os.readlink(path)
        if not path.exists():
            return f"{name} is a broken link (to {target}): remove it, {IGNORE}"
        if not path.resolve().is_relative_to(root):
            return f"{name} is a link out of the folder (to {target}): copy its target in, {IGNORE}"
        return ""
    if stat.S_ISDIR(status.st_mode):
        return ""
    if not stat.S_ISREG(status.st_mode):
        return f"{name} is a socket, pipe or device: remove it, {IGNORE}"
    if not os.access(path, os.R_OK):
        return f"{name} cannot be read (permission denied): change its mode, {IGNORE}"
    return ""


def write_archive(
    root: Path, names: Sequence[str], out: IO[bytes], *, progress: Callable[[int, int], None] | None = None
) -> None:
    """A gzipped tar of ``names`` in their order: no times, no owners, of modes the executable bit alone."""
    with (
        gzip.GzipFile(fileobj=out, mode="wb", filename="", mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT, encoding="utf-8") as archive,
    ):
        for number, name in enumerate(names, start=1):
            try:
                _add(archive, root, name)
            except OSError as error:
                raise CodeError(f"{name} could not be packed, did it change meanwhile? ({error})") from error
            if progress is not None:
                progress(number, len(names))


def _add(archive: tarfile.TarFile, root: Path, name: str) -> None:
    path = root / name
    info = tarfile.TarInfo(name)
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        info.type, info.mode = tarfile.SYMTYPE, 0o777
        inside = root / os.path.relpath(path.resolve(), root)
        info.linkname = os.path.relpath(inside, path.parent.resolve())
        archive.addfile(info)
        return
    if stat.S_ISDIR(status.st_mode):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
        return
    info.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    with path.open("rb") as file:
        info.size = os.fstat(file.fileno()).st_size
        archive.addfile(info, file)
