"""Where the files of a model version may come from. No I/O.

Only what this tracker keeps itself, and only of the run or the logged model that the request names: nothing
is ever fetched from, or read at, an address that a caller wrote.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from typing import Final

from cairn_common.errors import InvalidArgument, Reason

#: What clients write as the source of a prompt, which has no files.
PROMPT_SOURCES: Final = frozenset({"dummy-source", "prompt-template"})
ARTIFACTS: Final = "mlflow-artifacts"

_LONGEST: Final = 500
_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class OfRun:
    """`runs:/{run}/{path}`."""

    run_id: str
    path: str


@dataclass(frozen=True, slots=True)
class OfLoggedModel:
    """`models:/{model id}`."""

    model_id: str


@dataclass(frozen=True, slots=True)
class OfRegistered:
    """`models:/{name}/{version}`, `models:/{name}@{alias}`, `models:/{name}/{stage}` or `.../latest`."""

    name: str
    version: int | None = None
    alias: str = ""
    stage: str = ""


@dataclass(frozen=True, slots=True)
class OfFiles:
    """`mlflow-artifacts:/{path}`, of a run's or a logged model's files."""

    path: tuple[str, ...]


Source = OfRun | OfLoggedModel | OfRegistered | OfFiles


def read(source: str) -> Source:
    """What a source names. Raises InvalidArgument (SOURCE_INVALID)."""
    if not source or len(source) > _LONGEST or not source.isprintable():
        raise _invalid(source, f"A source has 1 to {_LONGEST} printable characters.")
    scheme, _, rest = source.partition(":")
    if scheme not in ("runs", "models", ARTIFACTS):
        raise _invalid(
            source,
            "A model version is made of files that the server keeps: runs:/RUN_ID/PATH, models:/MODEL_ID, "
            "models:/NAME/VERSION or mlflow-artifacts:/PATH. Log the model, and register that.",
        )
    if rest.startswith("//") or not rest.startswith("/"):
        raise _invalid(source, "It must name something of this server, without a host.")
    path = _path(source, rest)
    if scheme == "runs":
        return OfRun(path[0], "/".join(path[1:]))
    return OfFiles(path) if scheme == ARTIFACTS else _of_models(source, path)


def is_model_id(text: str) -> bool:
    """Whether this has the form of a logged model's id."""
    return _MODEL_ID.fullmatch(text) is not None


def run_files(experiment: str, run_id: str, path: str = "") -> str:
    """Where the files of a run are."""
    return f"{ARTIFACTS}:/{experiment}/{run_id}/artifacts" + (f"/{path}" if path else "")


def logged_model_files(experiment: str, model_id: str) -> str:
    """Where the files of a logged model are."""
    return f"{ARTIFACTS}:/{experiment}/models/{model_id}/artifacts"


def version_files(artifact: str, number: int) -> str:
    """Where the files of a version are that was committed as an artifact."""
    return f"{ARTIFACTS}:/models/{artifact}/{number}"


def is_within(source: OfFiles, root: str) -> bool:
    """Whether files lie in a folder given as `mlflow-artifacts:/...`."""
    parts = tuple(root.removeprefix(f"{ARTIFACTS}:/").split("/"))
    return bool(parts) and source.path[: len(parts)] == parts


def foreign(source: str, field: str) -> InvalidArgument:
    """The error for a source that lies in another run or model than the request names."""
    return _invalid(
        source, f"The {field} request parameter must identify the resource that contains the source."
    )


def _path(source: str, rest: str) -> tuple[str, ...]:
    plain = rest
    while (unquoted := urllib.parse.unquote(plain)) != plain:
        plain = unquoted
    parts = plain.rstrip("/").split("/")[1:]
    if not parts or any(part in ("", ".", "..") for part in parts) or "\\" in plain or "\0" in plain:
        raise _invalid(
            source,
            "If supplying a source as an http, https, local file path, ftp, objectstore, or mlflow-artifacts "
            "uri, an absolute path must be provided without relative path references present. Please provide "
            "an absolute path.",
        )
    if plain != rest and any(mark in plain for mark in "%?#;"):
        raise _invalid(source, "Its path is written in more than one way.")
    return tuple(parts)


def _of_models(source: str, path: tuple[str, ...]) -> Source:
    if len(path) > 2:
        raise _invalid(source, "Use models:/MODEL_ID, models:/NAME/VERSION or models:/NAME@ALIAS.")
    if len(path) == 2:
        name, which = path
        if which.isascii() and which.isdigit() and len(which) < 19:
            return OfRegistered(name, version=int(which))
        return OfRegistered(name, stage="" if which.lower() == "latest" else which)
    name, at, alias = path[0].rpartition("@")
    if at and alias.strip():
        return OfRegistered(name, alias=alias)
    return OfLoggedModel(path[0])


def _invalid(source: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"Invalid model version source: '{source[:200]}'. {why}", reason=Reason.SOURCE_INVALID, field="source"
    )
