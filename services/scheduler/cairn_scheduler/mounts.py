"""Reads `file_mounts`: files of the caller's machine, which travel as archives, and buckets, for SkyPilot.

A target is a path on the node; a relative one is in the job's working directory. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from cairn_common.errors import InvalidArgument, Reason
from cairn_scheduler.model import Mount

MOST_MOUNTS = 50
_STORE = re.compile(r"[a-z0-9]+://\S+")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_STORAGE = frozenset({"name", "source", "store", "persistent", "mode", "type", "config"})


def read(value: object, *, infra: str) -> list[str]:
    """The targets of what is on the caller's machine, in their order.

    `infra`: where the job runs; empty: on this machine. Raises InvalidArgument TASK_INVALID with the `path`.
    """
    if value is None:
        return []
    if not isinstance(value, dict):
        raise _invalid("file_mounts", "is a mapping from paths on the node to files, folders or buckets")
    if len(value) > MOST_MOUNTS:
        raise _invalid(
            "file_mounts", f"are more than {MOST_MOUNTS}; put files into one folder, or into `workdir`"
        )
    return [target for target, source in value.items() if _local(target, source, infra=infra)]


def buckets(value: object) -> dict[str, object]:
    """Those that go to SkyPilot as they are written."""
    return {} if not isinstance(value, dict) else {
        target: source for target, source in value.items() if _bucket(source)
    }  # fmt: skip


def match(targets: Sequence[str], given: Sequence[Mount]) -> tuple[Mount, ...]:
    """The archives of those targets, as the caller sent them. Raises InvalidArgument with the `path`."""
    found = {one.target: one for one in given}
    for target in targets:
        if target not in found:
            raise _invalid(
                f"file_mounts.{target}",
                "is on the caller's machine and was not sent along; `cairn run` does that, and other callers "
                "upload an archive of it as they do the code, and name it in `mounts`",
            )
    for target, one in found.items():
        if target not in targets:
            raise _invalid(f"mounts.{target}"[:200], "stands for no entry of the task's `file_mounts`")
        if not _DIGEST.fullmatch(one.digest) or one.size < 0:
            raise _invalid(
                f"mounts.{target}", "names no archive: its SHA-256 in lower-case hex, and its size"
            )
    return tuple(found[target] for target in targets)


def _local(target: str, source: object, *, infra: str) -> bool:
    path = f"file_mounts.{target}"
    parts = PurePosixPath(target).parts
    if (
        not target.strip()
        or not target.isprintable()
        or len(target) > 500
        or ".." in parts
        or target in ("/", "~")
    ):
        raise _invalid(path[:200], "is no path on the node, such as data, ~/data or /data")
    if _bucket(source):
        if not infra:
            raise _invalid(
                path,
                "this machine mounts no buckets; read it by its own client in `setup`, or run the task "
                "elsewhere (`--infra`)",
            )
        return False
    if isinstance(source, dict):
        raise _invalid(
            path,
            "a storage without a bucket's URL as `source` cannot be made here; name a bucket, or give the "
            "folder itself",
        )
    if not isinstance(source, str) or not source.strip() or not source.isprintable():
        raise _invalid(path, "is neither the path of a file or folder nor a bucket such as s3://data")
    if not infra and (target.startswith("~") or PurePosixPath(target).is_absolute()):
        raise _invalid(
            path,
            "lies outside of the job's folder, and this machine is not the job's alone: jobs would overwrite "
            f"each other's files. Give a relative path ({PurePosixPath(target).name}), or read {source} "
            "from where it is",
        )
    return True


def _bucket(source: object) -> bool:
    """A bucket's URL, or a storage of one. Raises nothing: SkyPilot judges the rest."""
    if isinstance(source, str):
        return bool(_STORE.fullmatch(source.strip()))
    if not isinstance(source, Mapping) or not _STORAGE.issuperset(source):
        return False
    url = source.get("source")
    urls = url if isinstance(url, list) else [url]
    return all(isinstance(one, str) and bool(_STORE.fullmatch(one)) for one in urls)


def _invalid(path: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {message}", reason=Reason.TASK_INVALID, path=path)
