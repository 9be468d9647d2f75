"""What a task's `file_mounts` has on this machine: found, packed, and sent as the code is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn._cli.errors import USAGE, CliError
from cairn._code import Bundle, pack, pack_file
from cairn._http import Json

_STORE = re.compile(r"[a-z0-9]+://")


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder here, and where it is to be on the node."""

    target: str
    source: Path

    def pack(self) -> Bundle:
        """Packs it; git is not asked what belongs, as data is often ignored. Raises CodeError."""
        return pack_file(self.source) if self.source.is_file() else pack(self.source, git=False)

    def named(self, bundle: Bundle) -> Json:
        """As a `Mount` of the API."""
        file = self.source.is_file()
        return {"target": self.target, "digest": bundle.digest, "size": bundle.size, "file": file}


def find(task: Mapping[str, Any], base: Path) -> list[Mount]:
    """Those of the task; relative sources are beside the task file. Raises `CliError`.

    Buckets, and what is odd in other ways, are the scheduler's to judge.
    """
    given = task.get("file_mounts")
    return [] if not isinstance(given, dict) else list(_local(given, base))


def _local(given: Mapping[Any, Any], base: Path) -> Iterator[Mount]:
    for target, source in given.items():
        if not isinstance(source, str) or not source.strip() or _STORE.match(source.strip()):
            continue
        path = base / Path(source.strip()).expanduser()
        if not path.exists():
            raise CliError(
                f"file_mounts.{target}: there is no {path}", code=USAGE,
                hint="paths are relative to the task file's folder; a bucket is written as s3://data",
            )  # fmt: skip
        if not path.is_file() and not path.is_dir():
            raise CliError(f"file_mounts.{target}: {path} is neither a file nor a folder", code=USAGE)
        yield Mount(str(target), path)
