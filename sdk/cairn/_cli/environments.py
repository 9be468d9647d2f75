"""The files that `cairn.env` of a task names: checked before anything is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cairn._cli.errors import USAGE, CliError
from cairn._code import list_files
from cairn._runner.requirements import BadRequirements, read


def check(task: Mapping[str, Any], workdir: Path | None) -> None:
    """Raises `CliError` with the field's path where a file is missing, or does not go along with the job.

    What is odd in other ways is the scheduler's to say.
    """
    cairn = task.get("cairn")
    env = cairn.get("env") if isinstance(cairn, dict) else None
    named = [] if not isinstance(env, dict) else list(_named(env))
    if not named:
        return
    if workdir is None:
        path, name = named[0]
        raise CliError(
            f"{path}: {name} is a file of the `workdir`, and the task has none",
            code=USAGE,
            hint="add `workdir: .` to the task, or give --workdir",
        )
    going = set(list_files(workdir))
    for path, name in named:
        for file in _files(path, name, workdir):
            if os.path.normpath(file) not in going:
                raise CliError(
                    f"{path}: {file} is in {workdir}, but does not go along with the job",
                    code=USAGE,
                    hint="an ignore file excludes it (.skyignore, .gitignore): take it out there",
                )


def inside(path: str, workdir: Path) -> str:
    """A path that was typed here, as one in `workdir`. Raises `CliError`."""
    full = (Path.cwd() / Path(path).expanduser()).resolve()
    try:
        return full.relative_to(workdir.resolve()).as_posix()
    except ValueError:
        raise CliError(
            f"--requirements {path} is not in the working directory {workdir}", code=USAGE,
            hint="only what is in there goes along; name another one by --workdir",
        ) from None  # fmt: skip


def _named(env: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for field in ("requirements", "lock", "conda"):
        value = env.get(field)
        if isinstance(value, str) and value.strip():
            yield f"cairn.env.{field}", value.strip()
    lock = env.get("lock")
    if isinstance(lock, str):
        yield "cairn.env.lock", os.path.join(os.path.dirname(lock.strip()), "pyproject.toml")


def _files(path: str, name: str, workdir: Path) -> list[str]:
    """The file itself, and those that it includes."""
    if path.endswith(".requirements"):
        try:
            return list(read(workdir, name).files)
        except BadRequirements as error:
            raise CliError(f"{path}: {error} {workdir}", code=USAGE) from None
    if not (workdir / name).is_file():
        raise CliError(f"{path}: there is no file {name} in the working directory {workdir}", code=USAGE)
    return [name]
