"""MlflowFileService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import artifact_pb2, mlflow_file_pb2_grpc
from cairn.tracker.v1 import mlflow_file_pb2 as pb
from cairn_common.auth import Access, Role, access
from cairn_common.errors import NotFound, Reason
from cairn_common.rpc import caller
from cairn_tracker import wire_artifacts
from cairn_tracker.api.names import team_of
from cairn_tracker.manifest import Entry
from cairn_tracker.mlflow.files import MOST_LISTED, Files

NAME: Final = "cairn.tracker.v1.MlflowFileService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/PutMlflowFile": access(Role.MEMBER, run_token=True),
    f"/{NAME}/GetMlflowFile": access(Role.VIEWER, run_token=True),
    f"/{NAME}/ListMlflowFiles": access(Role.VIEWER, run_token=True),
    f"/{NAME}/DeleteMlflowFiles": access(Role.MEMBER, run_token=True),
}

Context = aio.ServicerContext[Any, Any]


class MlflowFileApi(mlflow_file_pb2_grpc.MlflowFileServiceServicer):
    """Files by paths of a team's."""

    def __init__(self, *, files: Files) -> None:
        self._files = files

    async def PutMlflowFile(self, request: pb.PutMlflowFileRequest, context: Context) -> pb.MlflowFile:
        """Writes a file whose parts are in the store."""
        team = _team_of(request.parent, request.entry.path, Role.MEMBER)
        return _file(await self._files.put(team, wire_artifacts.entry(request.entry)))

    async def GetMlflowFile(self, request: pb.GetMlflowFileRequest, context: Context) -> pb.MlflowFile:
        """One file."""
        team = _team_of(request.parent, request.path, Role.VIEWER)
        return _file(await self._files.get(team, request.path))

    async def ListMlflowFiles(
        self, request: pb.ListMlflowFilesRequest, context: Context
    ) -> pb.ListMlflowFilesResponse:
        """What lies in a folder."""
        team = _team_of(request.parent, request.path, Role.VIEWER)
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
        team = _team_of(request.parent, request.path, Role.MEMBER)
        return pb.DeleteMlflowFilesResponse(deleted=await self._files.delete(team, request.path))


def _team_of(parent: str, path: str, role: Role) -> str:
    """The team of a parent, in which the caller has this role; a run's token only for the run's own files."""
    who = caller()
    team = team_of(who, parent, role)
    parts = path.split("/")
    if who.is_run and parts[1:3] != [who.run_uid, "artifacts"]:
        raise NotFound(f"No such artifact: '{path[:500]}'", reason=Reason.ARTIFACT_NOT_FOUND)
    return team


def _file(entry: Entry) -> pb.MlflowFile:
    parts = [artifact_pb2.ArtifactPart(digest=part.digest, size=part.size) for part in entry.parts]
    made = artifact_pb2.ArtifactEntry(path=entry.path, size=entry.size, digest=entry.digest, parts=parts)
    return pb.MlflowFile(entry=made)
