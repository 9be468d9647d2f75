"""Routes of files: what clients put below `mlflow-artifacts:/`, by a path."""

from __future__ import annotations

import mimetypes
import posixpath
import unicodedata
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.responses import Response, StreamingResponse

from cairn.tracker.v1 import artifact_pb2, logged_model_pb2, mlflow_pb2
from cairn.tracker.v1 import mlflow_file_pb2 as pb
from cairn_common.auth import Role
from cairn_gateway.mlflow.errors import invalid
from cairn_gateway.mlflow.route import Asked, Route, of_runs
from cairn_gateway.wire import Json

FILES: Final = "/api/2.0/mlflow-artifacts"
_TREE: Final = f"{FILES}/artifacts"
_TEXT: Final = (
    "txt log err cfg conf cnf cf ini properties prop hocon toml yaml yml xml json js py py3 csv tsv md rst "
    "MLmodel MLproject"
)
_LONGEST: Final = 1_024
# A path that is quoted more often than this means no file.
_MOST_QUOTED: Final = 8


async def upload(asked: Asked) -> Json:
    """Writes a file."""
    path = path_of(asked.request.path_params["path"])
    sent = await asked.transfer.send(asked, asked.request.stream())
    entry = artifact_pb2.ArtifactEntry(path=path, size=sent.size, digest=sent.digest, parts=sent.parts)
    request = pb.PutMlflowFileRequest(parent=asked.parent, entry=entry)
    await asked.call("MlflowFileService/PutMlflowFile", request, pb.MlflowFile)
    return {}


async def download(asked: Asked) -> Response:
    """A file's bytes, to be saved and never shown: whoever logged them may have meant a page."""
    path = path_of(asked.request.path_params["path"])
    request = pb.GetMlflowFileRequest(parent=asked.parent, path=path)
    found = (await asked.call("MlflowFileService/GetMlflowFile", request, pb.MlflowFile)).entry
    name = posixpath.basename(path)
    headers = {
        "Content-Disposition": disposition(name),
        "Content-Length": str(found.size),
        "ETag": f'"{found.digest}"',
        "X-Content-Type-Options": "nosniff",
    }
    chunks = asked.transfer.fetch(asked, found.parts)
    # A store that is away is told of in the status, not by a body that breaks off.
    first = await anext(chunks, b"")
    return StreamingResponse(_with(first, chunks), headers=headers, media_type=media_type(name))


async def list_tree(asked: Asked) -> Json:
    """What lies in a folder, by the names in it."""
    path = _optional_path(asked)
    found = await _listed(asked, path)
    return {"files": [_item(item, item.name) for item in found]} if found else {}


async def list_run(asked: Asked) -> Json:
    """artifacts/list: what lies in a folder of a run's, by paths from the run's root."""
    inner = _optional_path(asked)
    get = mlflow_pb2.GetMlflowRunRequest(parent=asked.parent, run_id=asked.fields.run_id())
    run = await asked.call("MlflowService/GetMlflowRun", get, mlflow_pb2.MlflowRun)
    root = f"{run.experiment_id}/{run.run_id}/artifacts"
    found = await _listed(asked, posixpath.join(root, inner) if inner else root)
    answer: dict[str, Any] = {"root_uri": f"mlflow-artifacts:/{root}"}
    if found:
        answer["files"] = [_item(item, posixpath.join(inner, item.name)) for item in found]
    return answer


async def list_logged_model(asked: Asked) -> Json:
    """logged-models/{id}/artifacts/directories: what lies in a folder of a logged model's."""
    given = asked.fields.text("artifact_directory_path")
    inner = path_of(given) if given else ""
    get = logged_model_pb2.GetLoggedModelRequest(
        parent=asked.parent, model_id=asked.request.path_params["model_id"]
    )
    model = await asked.call("LoggedModelService/GetLoggedModel", get, logged_model_pb2.LoggedModel)
    root = model.location.removeprefix("mlflow-artifacts:/")
    found = await _listed(asked, posixpath.join(root, inner) if inner else root)
    answer: dict[str, Any] = {"root_uri": model.location}
    if found:
        answer["files"] = [_item(item, posixpath.join(inner, item.name)) for item in found]
    return answer


async def delete(asked: Asked) -> Json:
    """Deletes a file, or a folder with all that is in it."""
    path = path_of(asked.request.path_params["path"])
    request = pb.DeleteMlflowFilesRequest(parent=asked.parent, path=path)
    await asked.call("MlflowFileService/DeleteMlflowFiles", request, pb.DeleteMlflowFilesResponse)
    return {}


def path_of(text: str) -> str:
    """A path from the root, however often it was quoted. Raises MlflowError for one that leads elsewhere."""
    plain = text
    for _ in range(_MOST_QUOTED):
        if (unquoted := unquote(plain)) == plain:
            break
        plain = unquoted
    else:
        raise invalid("Invalid path")
    path = plain.strip("/") if not text.startswith("/") else plain
    parts = path.split("/")
    if (
        any(part in ("", ".", "..") for part in parts)
        or any(mark in plain for mark in "\\#")
        or not plain.isprintable()
        or (len(plain) > 1 and plain[1] == ":" and plain[0].isalpha())
        or len(path.encode()) > _LONGEST
    ):
        raise invalid("Invalid path")
    return path


def disposition(name: str) -> str:
    """The header that says: save this under its name."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii") or "download"
    token = plain if all(char.isalnum() or char in "!#$&+-.^_`|~" for char in plain) else None
    quoted = token or '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if name.isascii():
        return f"attachment; filename={quoted}"
    star = quote(name, safe="!#$&+-.^_`|~")
    return f"attachment; filename={quoted}; filename*=UTF-8''{star}"


def media_type(name: str) -> str:
    """What a file is, by its name."""
    ending = posixpath.splitext(name)[1].removeprefix(".") or name
    if ending in _TEXT.split():
        return "text/plain"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _optional_path(asked: Asked) -> str:
    """The folder of the query; empty for the root."""
    text = asked.fields.text("path")
    return path_of(text) if text else ""


async def _listed(asked: Asked, folder: str) -> list[pb.ListMlflowFilesResponse.Item]:
    found: list[pb.ListMlflowFilesResponse.Item] = []
    request = pb.ListMlflowFilesRequest(parent=asked.parent, path=folder)
    while True:
        page = await asked.call("MlflowFileService/ListMlflowFiles", request, pb.ListMlflowFilesResponse)
        found += page.items
        if not page.more:
            return found
        request.after = page.items[-1].name


def _item(item: pb.ListMlflowFilesResponse.Item, path: str) -> Json:
    size = {} if item.is_folder else {"file_size": item.size}
    return {"path": path, "is_dir": item.is_folder, **size}


async def _with(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in others:
        yield chunk


ROUTES: Final[tuple[Route, ...]] = (
    of_runs(
        "GET",
        "logged-models/{model_id}/artifacts/directories",
        Role.VIEWER,
        list_logged_model,
        run_token=True,
    ),
    Route("GET", _TREE, Role.VIEWER, list_tree, run_token=True),
    Route("PUT", _TREE + "/{path:path}", Role.MEMBER, upload, streams=True, run_token=True),
    Route("GET", _TREE + "/{path:path}", Role.VIEWER, download, streams=True, run_token=True),
    Route("DELETE", _TREE + "/{path:path}", Role.MEMBER, delete, streams=True, run_token=True),
    of_runs("GET", "artifacts/list", Role.VIEWER, list_run, run_token=True),
)
