"""Routes of files whose bytes go between clients and the store alone, by signed URLs."""

from __future__ import annotations

import asyncio
import posixpath
from typing import Any, Final

from cairn.tracker.v1 import mlflow_file_pb2 as pb
from cairn.tracker.v1 import tracker_pb2
from cairn_common.auth import Role
from cairn_gateway.mlflow.artifacts import FILES, path_of
from cairn_gateway.mlflow.errors import MlflowError, invalid
from cairn_gateway.mlflow.fields import Fields, missing_value
from cairn_gateway.mlflow.route import Asked, Route, empty
from cairn_gateway.wire import Json

_MOST_PARTS: Final = 4_096
# Clients wait for an answer for two minutes.
_WAIT_SECONDS: Final = 100.0


async def create(asked: Asked) -> Json:
    """mpu/create/PATH: begins to send a file into that folder; where to PUT each of its parts."""
    count = asked.fields.whole("num_parts")
    if count is None:
        count = 1
    if not 1 <= count <= _MOST_PARTS:
        raise invalid(
            f"num_parts: {count}; a file has 1 to {_MOST_PARTS:,} parts. Send larger ones: "
            "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE"
        )
    request = pb.CreateMlflowUploadRequest(parent=asked.parent, path=_path(asked), parts=count)
    made = await asked.call("MlflowFileService/CreateMlflowUpload", request, pb.MlflowUpload)
    credentials = [
        {"url": url, "part_number": number, "headers": {}} for number, url in enumerate(made.urls, start=1)
    ]
    return {"upload_id": made.upload_id, "credentials": credentials}


async def complete(asked: Asked) -> Json:
    """mpu/complete/PATH: makes the file of what was sent."""
    request = pb.CompleteMlflowUploadRequest(
        parent=asked.parent,
        path=_path(asked),
        upload_id=asked.fields.text("upload_id", required=True),
        tags=_tags(asked.fields.objects("parts", required=True)),
    )
    end = asyncio.get_running_loop().time() + _WAIT_SECONDS
    while asyncio.get_running_loop().time() < end:
        answer = await asked.call(
            "MlflowFileService/CompleteMlflowUpload", request, pb.CompleteMlflowUploadResponse
        )
        if answer.done:
            return empty()
    raise MlflowError(
        "TEMPORARILY_UNAVAILABLE", "the file is being put together still; ask again, it is safe to repeat"
    )


async def abort(asked: Asked) -> Json:
    """mpu/abort/PATH: forgets what was sent."""
    request = pb.AbortMlflowUploadRequest(
        parent=asked.parent,
        path=_path(asked),
        upload_id=asked.fields.text("upload_id", required=True),
    )
    await asked.call("MlflowFileService/AbortMlflowUpload", request, pb.AbortMlflowUploadResponse)
    return empty()


async def presigned(asked: Asked) -> Json:
    """presigned/PATH: where to GET a file from, whole or by ranges.

    One that lies in several pieces has no such place: without its size clients fetch it through here.
    """
    path = path_of(asked.request.path_params["path"])
    get = pb.GetMlflowFileRequest(parent=asked.parent, path=path)
    found = (await asked.call("MlflowFileService/GetMlflowFile", get, pb.MlflowFile)).entry
    answer: dict[str, Any] = {"url": "", "headers": {}}
    if len(found.parts) > 1:
        return answer
    for part in found.parts:
        request = tracker_pb2.CreateDownloadsRequest(parent=asked.parent, digests=[part.digest])
        made = await asked.call(
            "ArtifactService/CreateDownloads", request, tracker_pb2.CreateDownloadsResponse
        )
        answer["url"] = made.downloads[0].url
    return {**answer, "file_size": found.size}


def _path(asked: Asked) -> str:
    """The folder of the path, and in it the file's name: the last part of where the client has it."""
    folder = asked.request.path_params["path"]
    given = asked.fields.text("path", required=True)
    name = posixpath.basename(given.replace("\\", "/"))
    if not name:
        raise missing_value("path")
    return path_of(posixpath.join(path_of(folder), path_of(name)) if folder else name)


def _tags(parts: list[Fields]) -> list[str]:
    """The parts' tags in the order of their numbers, which are 1, 2, 3 and so on."""
    found = {part.whole("part_number", required=True): part.text("etag", required=True) for part in parts}
    if sorted(found, key=lambda number: number or 0) != list(range(1, len(parts) + 1)):
        raise invalid("parts: their part_number has to be 1, 2, 3 and so on, each once")
    return [found[number] for number in range(1, len(parts) + 1)]


ROUTES: Final[tuple[Route, ...]] = (
    Route("POST", FILES + "/mpu/create/{path:path}", Role.MEMBER, create, run_token=True),
    Route("POST", FILES + "/mpu/complete/{path:path}", Role.MEMBER, complete, run_token=True),
    Route("POST", FILES + "/mpu/abort/{path:path}", Role.MEMBER, abort, run_token=True),
    Route("GET", FILES + "/presigned/{path:path}", Role.VIEWER, presigned, run_token=True),
)
