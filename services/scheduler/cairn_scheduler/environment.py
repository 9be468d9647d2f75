"""Reads `cairn.env` of a task file: the Python environment that a job is to run in. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from cairn_common.errors import InvalidArgument, Reason
from cairn_scheduler.model import Environment

PATH = "cairn.env"
MOST_LINES = 2000
LONGEST_LINE = 2000
_KNOWN = ("python", "requirements", "lock", "conda", "image")
_PYTHON = re.compile(r"3\.\d{1,2}(\.\d{1,2})?")
_IMAGE = re.compile(r"(docker:)?[A-Za-z0-9][A-Za-z0-9._/:@-]{0,300}")
_HINTS = {
    "image_id": "give `image`",
    "pip": "give `requirements`, a file of the workdir or a list",
    "uv": "give `lock: uv.lock`",
    "python_version": "give `python`",
}


def parse(fields: object) -> Environment | None:
    """What the block asks for; None: nothing. Raises InvalidArgument TASK_INVALID with the `path`."""
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise _invalid(PATH, "is a mapping, such as {python: '3.11', requirements: requirements.txt}")
    for name in fields:
        if name not in _KNOWN:
            told = _HINTS.get(name, f"known are {', '.join(_KNOWN)}")
            raise _invalid(f"{PATH}.{name}", f"there is no such field; {told}")
    ways = [name for name in _KNOWN[1:4] if fields.get(name) is not None]
    if len(ways) > 1:
        raise _invalid(f"{PATH}.{ways[1]}", f"cannot stand beside `{ways[0]}`; give one of them")
    lines, file = _requirements(fields)
    environment = Environment(
        python=_python(fields),
        requirements=lines,
        requirements_file=file,
        lock=_file(fields, "lock"),
        conda=_file(fields, "conda"),
    )
    if environment.lock and PurePosixPath(environment.lock).name != "uv.lock":
        raise _invalid(f"{PATH}.lock", "is the path of a `uv.lock`, with its pyproject.toml beside it")
    if environment.conda and environment.python:
        raise _invalid(f"{PATH}.python", "stands in the conda file itself, beside its other packages")
    return environment if ways or environment.python else None


def image(fields: object) -> str:
    """The container image to run in, in SkyPilot's words; empty: none is named. Raises InvalidArgument."""
    value = fields.get("image") if isinstance(fields, dict) else None
    if value is None:
        return ""
    if not isinstance(value, str) or not _IMAGE.fullmatch(value.strip()):
        raise _invalid(f"{PATH}.image", "is an image's name, such as ubuntu:22.04 or ghcr.io/lab/train:v3")
    return f"docker:{value.strip().removeprefix('docker:')}"


def check_code(environment: Environment | None, *, has_code: bool) -> None:
    """Refuses an environment that names a file, for a job that brings no files. Raises InvalidArgument."""
    if environment is None or has_code:
        return
    for field in ("requirements_file", "lock", "conda"):
        if getattr(environment, field):
            name = field.removesuffix("_file")
            raise _invalid(
                f"{PATH}.{name}", "is a file of the `workdir`, and the task has none; add `workdir: .`"
            )


def _python(fields: Mapping[str, object]) -> str:
    value = fields.get("python")
    if value is None:
        return ""
    if isinstance(value, float):
        raise _invalid(f"{PATH}.python", f"{value} is a number to YAML (3.10 would be 3.1); put it in quotes")
    if not isinstance(value, str) or not _PYTHON.fullmatch(value):
        raise _invalid(f"{PATH}.python", "is a version such as '3.11' or '3.11.9'")
    return value


def _requirements(fields: Mapping[str, object]) -> tuple[tuple[str, ...], str]:
    """Lines, or the path of a file."""
    path, value = f"{PATH}.requirements", fields.get("requirements")
    if not isinstance(value, list):
        return (), _file(fields, "requirements")
    if not value or len(value) > MOST_LINES:
        raise _invalid(path, f"is a list of 1 to {MOST_LINES:,} packages, such as [numpy, 'torch==2.6.0']")
    for place, line in enumerate(value):
        if (
            not isinstance(line, str)
            or not line.strip()
            or len(line) > LONGEST_LINE
            or not line.isprintable()
        ):
            raise _invalid(f"{path}[{place}]", "is one line of text, such as numpy>=2")
        if re.match(r"\s*(-[rc]|--(requirement|constraint)\b)", line):
            raise _invalid(f"{path}[{place}]", "cannot include a file; give `requirements` that file's path")
    return tuple(line.strip() for line in value), ""


def _file(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    form = "is the path of a file in the `workdir`, such as requirements.txt"
    if not isinstance(value, str) or not value.strip() or len(value) > 500 or not value.isprintable():
        raise _invalid(f"{PATH}.{name}", form)
    path = PurePosixPath(value.strip())
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise _invalid(f"{PATH}.{name}", f"{form}; it cannot lead out of the workdir")
    return str(path)


def _invalid(path: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{path}: {message}", reason=Reason.TASK_INVALID, path=path)
