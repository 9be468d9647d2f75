"""Requirements files: what they say together with all that they include. Reads files, runs nothing."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_FILES = 100
MOST_BYTES = 4 * 1024 * 1024
_COMMENT = re.compile(r"(^|\s+)#.*$")
_INCLUDE = re.compile(r"(?:-(r|c)\s*|--(requirement|constraint)[\s=]+)(\S.*)")
_EDITABLE = re.compile(r"(?:-e\s*|--editable[\s=]+)(\S.*)")
_OPTION_PATH = re.compile(r"(-f\s*|--find-links[\s=]+)(\S+)")
_REMOTE = re.compile(r"[a-z+]{2,}://|git@", re.IGNORECASE)
_FILE_URL = re.compile(r"(?:^|@\s*)file:(?://)?([^\s;#]+)")
_ARCHIVE = re.compile(r"\.(whl|zip|tar\.gz|tgz|tar\.bz2)$")
_CONDA_PATH = re.compile(
    r"(?:^[ \t]*-[ \t]|[\[,])[ \t]*[\"']?((?:-\w|--\w|\.|/|[\w.-]+ *@ *file:)[^\"'\n,\]]*)", re.MULTILINE
)
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")


class BadRequirements(Exception):
    """A file is missing, too large, or no text. `path` is as it was written. The message is for people."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class Requirements:
    """What is to be installed. Lines have neither comments nor includes; `files` are what was read.

    `editable` are folders of the working directory that were named by -e: such a package belongs to one
    working directory, not to an environment that others use. `local` are the other paths that lines name.
    """

    lines: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    editable: tuple[str, ...] = ()
    local: tuple[Path, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def variables(self) -> list[str]:
        """Variables that lines refer to as ${NAME}."""
        return sorted({name for line in self.lines + self.constraints for name in _VARIABLE.findall(line)})


def read(root: Path, name: str) -> Requirements:
    """A requirements file below `root`, and all that it includes. Raises BadRequirements."""
    return _Reader(root).read(name)


def parse(root: Path, lines: Iterable[str]) -> Requirements:
    """Lines that stand in no file; paths in them are below `root`."""
    return _Reader(root).parse(lines)


def parse_conda(root: Path, text: str) -> Requirements:
    """What an environment.yml's `pip:` reads from this disk, files in it below `root`; of no meaning else.

    Nothing here can read YAML; what is taken for a path and is none does no harm.
    """
    _, _, after = text.partition("pip:")
    return _Reader(root).parse(_CONDA_PATH.findall(after))


class _Reader:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._lines: list[str] = []
        self._constraints: list[str] = []
        self._editable: list[str] = []
        self._local: list[Path] = []
        self._files: list[str] = []

    def read(self, name: str) -> Requirements:
        self._file(self._root / name, shown=name, constraint=False, chain=())
        return self._result()

    def parse(self, lines: Iterable[str]) -> Requirements:
        for line in _joined(lines):
            self._line(line, self._root, constraint=False, chain=())
        return self._result()

    def _result(self) -> Requirements:
        return Requirements(
            tuple(self._lines), tuple(self._constraints), tuple(self._editable), tuple(self._local),
            tuple(self._files),
        )  # fmt: skip

    def _file(self, path: Path, *, shown: str, constraint: bool, chain: tuple[str, ...]) -> None:
        at = os.path.normpath(path)
        if at in chain:
            return
        if len(self._files) >= MOST_FILES:
            raise BadRequirements(shown, f"more than {MOST_FILES} files are included")
        by = f" (included by {os.path.relpath(chain[-1], self._root)})" if chain else ""
        try:
            with open(path, "rb") as file:
                raw = file.read(MOST_BYTES + 1)
            text = raw.decode("utf-8-sig")
        except (FileNotFoundError, NotADirectoryError):
            raise BadRequirements(shown, f"there is no file {shown}{by} in the working directory") from None
        except IsADirectoryError:
            raise BadRequirements(shown, f"{shown}{by} is a folder, not a file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequirements(shown, f"{shown}{by} cannot be read: {error}") from error
        if len(raw) > MOST_BYTES:
            raise BadRequirements(shown, f"{shown}{by} is larger than {MOST_BYTES // 2**20} MiB")
        self._files.append(os.path.relpath(at, self._root))
        for line in _joined(text.splitlines()):
            self._line(line, path.parent, constraint=constraint, chain=(*chain, at))

    def _line(self, line: str, folder: Path, *, constraint: bool, chain: tuple[str, ...]) -> None:
        if (included := _INCLUDE.fullmatch(line)) and not _REMOTE.match(included[3]):
            name = included[3].strip().strip("\"'")
            as_constraint = constraint or (included[1] or included[2]).startswith("c")
            self._file(folder / name, shown=name, constraint=as_constraint, chain=chain)
            return
        if (editable := _EDITABLE.fullmatch(line)) and not _REMOTE.search(editable[1]):
            self._editable.append(editable[1].strip().strip("\"'"))
            return
        line = self._find_paths(line, folder)
        (self._constraints if constraint else self._lines).append(line)

    def _find_paths(self, line: str, folder: Path) -> str:
        """Notes what the line names on this disk; a folder of archives is named by its whole path."""
        if option := _OPTION_PATH.fullmatch(line):
            if not _REMOTE.search(option[2]):
                # As pip does: beside the file if it is there, else in the current folder.
                beside = folder / option[2]
                path = beside if beside.exists() else self._root / option[2]
                self._local.append(path)
                return f"--find-links {shlex.quote(os.path.normpath(path))}"
            return line
        if url := _FILE_URL.search(line):
            self._local.append(Path(url[1]))
        elif not line.startswith("-"):
            name = line.split(";")[0].split(" @ ")[0].strip().split("[")[0]
            if name.startswith((".", "/", "~")) or (_ARCHIVE.search(name) and not _REMOTE.search(name)):
                self._local.append(self._root / Path(name).expanduser())
        return line


def fingerprint(path: Path) -> str:
    """The content of a file, or of a folder's files, as one digest. `missing` where there is nothing."""
    seen = hashlib.sha256()
    for each in _files_of(path):
        seen.update(os.fsencode(os.path.relpath(each, path)) + b"\0")
        try:
            with open(each, "rb") as file:
                seen.update(hashlib.file_digest(file, "sha256").digest())
        except OSError:
            seen.update(b"unreadable")
    return seen.hexdigest() if path.exists() else "missing"


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if name not in (".git", "__pycache__", ".venv"))
        yield from (Path(folder) / name for name in sorted(names))


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Without comments and empty lines; a backslash at the end joins a line to the next."""
    begun = ""
    for line in lines:
        line = begun + line
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            begun = line[:-1]
            continue
        begun = ""
        if text := " ".join(_COMMENT.sub("", line).split()):
            yield text
    if text := " ".join(_COMMENT.sub("", begun).split()):
        yield text
