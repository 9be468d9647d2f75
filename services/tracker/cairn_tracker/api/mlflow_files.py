"""MlflowFileService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import artifact_pb2, mlflow_file_pb2_grpc
from cairn.tracker.v1 import mlflow_file_pb2 as pb
from cairn_common.auth import Access, Role, access
from cairn_common.rpc import caller
from cairn_tracker import wire_artifacts
from cairn_tracker.api.names import team_of
from cairn_tracker.manifest import Entry
from cairn_tracker.mlflow.files import MOST_LISTED, Files

NAME: Final = "cairn.tracker.v1.MlflowFileService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/PutMlflowFile": access(Role.MEMBER),
    f"/{NAME}/GetMlflowFile": access(Role.VIEWER),
    f"/{NAME}/ListMlflowFiles": access(Role.VIEWER),
    f"/{NAME}/DeleteMlflowFiles": access(Role.MEMBER),
}

Context = aio.ServicerContext[Any, Any]


class MlflowFileApi(mlflow_file_pb2_grpc.MlflowFileServiceServicer):
    """Files by paths of a team's."""

    def __init__(self, *, files: Files) -> None:
        self._files = files

    async def PutMlflowFile(self, request: pb.PutMlflowFileRequest, context: Context) -> pb.MlflowFile:
        """Writes a file whose parts are in the store."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        return _file(await self._files.put(team, wire_artifacts.entry(request.entry)))

    async def GetMlflowFile(self, request: pb.GetMlflowFileRequest, context: Context) -> pb.MlflowFile:
        """One file."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        return _file(await self._files.get(team, request.path))

    async def ListMlflowFiles(
        self, request: pb.ListMlflowFilesRequest, context: Context
    ) -> pb.ListMlflowFilesResponse:
        """What lies in a folder."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        found = await self._files.listed(team, request.path, after=request.after)
        return pb.ListMlflowFilesResponse(
            items=[
                pb.ListMlflowFilesResponse.Item(name=item.name, is_folder=item.is_folder, size=item.size)
                for item in found[:MOST_LISTED]
            ],
            more=len(found) > MOST_LISTED,
        )

    async def DeleteMlflowFiles(
        self, request: pb.DeleteMlflowFilesRequest, context: Context
    ) -> pb.DeleteMlflowFilesResponse:
        """Deletes a file or a folder."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        return pb.DeleteMlflowFilesResponse(deleted=await self._files.delete(team, request.path))


def _file(entry: Entry) -> pb.MlflowFile:
    parts = [artifact_pb2.ArtifactPart(digest=part.digest, size=part.size) for part in entry.parts]
    made = artifact_pb2.ArtifactEntry(path=entry.path, size=entry.size, digest=entry.digest, parts=parts)
    return pb.MlflowFile(entry=made)
