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
from cairn_tracker.logged_models import LoggedModels
from cairn_tracker.manifest import Entry
from cairn_tracker.mlflow.files import MOST_LISTED, VERSIONS, Files
from cairn_tracker.mlflow.uploads import Uploads

NAME: Final = "cairn.tracker.v1.MlflowFileService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/PutMlflowFile": access(Role.MEMBER, run_token=True),
    f"/{NAME}/GetMlflowFile": access(Role.VIEWER, run_token=True),
    f"/{NAME}/ListMlflowFiles": access(Role.VIEWER, run_token=True),
    f"/{NAME}/DeleteMlflowFiles": access(Role.MEMBER, run_token=True),
    f"/{NAME}/CreateMlflowUpload": access(Role.MEMBER, run_token=True),
    f"/{NAME}/CompleteMlflowUpload": access(Role.MEMBER, run_token=True),
    f"/{NAME}/AbortMlflowUpload": access(Role.MEMBER, run_token=True),
}

Context = aio.ServicerContext[Any, Any]


class MlflowFileApi(mlflow_file_pb2_grpc.MlflowFileServiceServicer):
    """Files by paths of a team's."""

    def __init__(self, *, files: Files, uploads: Uploads, models: LoggedModels) -> None:
        self._files = files
        self._models = models
        self._uploads = uploads

    async def PutMlflowFile(self, request: pb.PutMlflowFileRequest, context: Context) -> pb.MlflowFile:
        """Writes a file whose parts are in the store."""
        team = await self._team_of(request.parent, request.entry.path, Role.MEMBER)
        return _file(await self._files.put(team, wire_artifacts.entry(request.entry)))

    async def GetMlflowFile(self, request: pb.GetMlflowFileRequest, context: Context) -> pb.MlflowFile:
        """One file."""
        team = await self._team_of(request.parent, request.path, Role.VIEWER)
        return _file(await self._files.get(team, request.path))

    async def ListMlflowFiles(
        self, request: pb.ListMlflowFilesRequest, context: Context
    ) -> pb.ListMlflowFilesResponse:
        """What lies in a folder."""
        team = await self._team_of(request.parent, request.path, Role.VIEWER)
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
        team = await self._team_of(request.parent, request.path, Role.MEMBER)
        return pb.DeleteMlflowFilesResponse(deleted=await self._files.delete(team, request.path))

    async def CreateMlflowUpload(
        self, request: pb.CreateMlflowUploadRequest, context: Context
    ) -> pb.MlflowUpload:
        """URLs to PUT the parts of a file to."""
        team = await self._team_of(request.parent, request.path, Role.MEMBER)
        uid, urls = await self._uploads.create(team, request.path, parts=request.parts)
        return pb.MlflowUpload(upload_id=uid, urls=urls)

    async def CompleteMlflowUpload(
        self, request: pb.CompleteMlflowUploadRequest, context: Context
    ) -> pb.CompleteMlflowUploadResponse:
        """Makes a file of what was sent."""
        team = await self._team_of(request.parent, request.path, Role.MEMBER)
        made = await self._uploads.complete(team, request.path, request.upload_id, request.tags)
        if made is None:
            return pb.CompleteMlflowUploadResponse()
        return pb.CompleteMlflowUploadResponse(done=True, entry=_file(made).entry)

    async def AbortMlflowUpload(
        self, request: pb.AbortMlflowUploadRequest, context: Context
    ) -> pb.AbortMlflowUploadResponse:
        """Forgets what was sent."""
        team = await self._team_of(request.parent, request.path, Role.MEMBER)
        await self._uploads.abort(team, request.path, request.upload_id)
        return pb.AbortMlflowUploadResponse()

    async def _team_of(self, parent: str, path: str, role: Role) -> str:
        """The team of a parent, in which the caller has this role; a run's token only for what its run and
        the models that it logged have, and to read versions."""
        who = caller()
        team = team_of(who, parent, role)
        if not who.is_run or (role is Role.VIEWER and path.split("/")[0] == VERSIONS):
            return team
        parts = path.split("/")
        if parts[1:3] == [who.run_uid, "artifacts"]:
            return team
        if parts[1:2] == ["models"] and parts[3:4] == ["artifacts"]:
            try:
                model = await self._models.of_run(team, parts[2], who.run_uid)
            except NotFound:
                model = None
            if model is not None and model.experiment_id == parts[0]:
                return team
        raise NotFound(f"No such artifact: '{path[:500]}'", reason=Reason.ARTIFACT_NOT_FOUND)


def _file(entry: Entry) -> pb.MlflowFile:
    parts = [artifact_pb2.ArtifactPart(digest=part.digest, size=part.size) for part in entry.parts]
    made = artifact_pb2.ArtifactEntry(path=entry.path, size=entry.size, digest=entry.digest, parts=parts)
    return pb.MlflowFile(entry=made)
