"""ArtifactService."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from google.protobuf import timestamp_pb2
from grpc import aio

from cairn.tracker.v1 import artifact_pb2, tracker_pb2, tracker_pb2_grpc
from cairn_common.auth import Access, Principal, Role, access, require
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, NotFound, Reason
from cairn_common.ids import check_id, parse_name
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_tracker import wire, wire_artifacts
from cairn_tracker.api.keeping import require_for_aliases, version_of
from cairn_tracker.api.names import own_run, run_of, team_of, unknown_run
from cairn_tracker.artifacts import CHECKPOINT, URL_SECONDS, Artifacts, Draft, known_kind
from cairn_tracker.batch import LAST_STEP, RunKey
from cairn_tracker.changes import plain
from cairn_tracker.manifest import Entry
from cairn_tracker.promotions import refuse_without_approval
from cairn_tracker.shards import Shards
from cairn_tracker.store import artifacts as rows
from cairn_tracker.store import runs
from cairn_tracker.store.artifacts import Version

NAME: Final = "cairn.tracker.v1.ArtifactService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/CreateUploads": access(Role.MEMBER, run_token=True),
    f"/{NAME}/CommitVersion": access(Role.MEMBER, run_token=True),
    f"/{NAME}/GetVersion": access(Role.VIEWER, run_token=True),
    f"/{NAME}/ListEntries": access(Role.VIEWER, run_token=True),
    f"/{NAME}/ListArtifacts": access(Role.VIEWER),
    f"/{NAME}/ListVersions": access(Role.VIEWER),
    f"/{NAME}/GetLatestCheckpoint": access(Role.VIEWER, run_token=True),
    f"/{NAME}/CreateDownloads": access(Role.VIEWER, run_token=True),
    f"/{NAME}/SetAlias": access(Role.MEMBER),
    f"/{NAME}/GetLineage": access(Role.VIEWER),
}

_MOST_PARTS: Final = 1_000
_MOST_MANIFESTS: Final = 16
_MOST_ENTRIES: Final = 10_000
_MOST_ALIASES: Final = 20
_MOST_SOURCES: Final = 100
_LARGEST_METADATA: Final = 64 * 1024

Context = aio.ServicerContext[Any, Any]


class ArtifactApi(tracker_pb2_grpc.ArtifactServiceServicer):
    """Files in versions."""

    def __init__(self, *, db: Database, artifacts: Artifacts, clock: Clock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._shards = Shards(db=db, artifacts=artifacts, clock=clock)
        self._clock = clock

    async def CreateUploads(
        self, request: tracker_pb2.CreateUploadsRequest, context: Context
    ) -> tracker_pb2.CreateUploadsResponse:
        """URLs to PUT what the store lacks to."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        _check_count(len(request.parts), "parts")
        _check_count(max(1, len(request.uploaded)), "uploaded")
        self._artifacts.uploaded(team, request.uploaded)
        expires = self._expires()
        urls = await self._artifacts.uploads(team, [wire_artifacts.part(part) for part in request.parts])
        return tracker_pb2.CreateUploadsResponse(
            uploads=[
                tracker_pb2.CreateUploadsResponse.Upload(digest=digest, url=url)
                for digest, url in urls.items()
            ],
            expire_time=expires,
        )

    async def CommitVersion(
        self, request: tracker_pb2.CommitVersionRequest, context: Context
    ) -> artifact_pb2.ArtifactVersion:
        """Makes the next version visible."""
        who = caller()
        team = team_of(who, request.parent, Role.MEMBER)
        run_uid = own_run(who, team, request.run)
        await self._known_run(who, team, run_uid)
        await require_for_aliases(self._db, who, team, request.aliases)
        await refuse_without_approval(self._db, team, request.aliases)
        if len(request.manifest) > _MOST_MANIFESTS:
            raise InvalidArgument(f"manifest: at most {_MOST_MANIFESTS} blobs can be given", field="manifest")
        more = await self._artifacts.manifest(team, request.manifest)
        draft = _draft(request, more, team, run_uid, who)
        if request.HasField("shard"):
            return await self._commit_shard(draft, request.shard)
        made = await self._artifacts.commit(draft)
        return wire_artifacts.version(made)

    async def GetVersion(
        self, request: tracker_pb2.GetVersionRequest, context: Context
    ) -> artifact_pb2.ArtifactVersion:
        """One version with its entries."""
        who = caller()
        found = await self._version(who, request.name, Role.VIEWER, as_read_by=request.as_read_by)
        if request.used_by:
            require(who, found.team, Role.MEMBER)
            run_uid = own_run(who, found.team, request.used_by)
            await self._known_run(who, found.team, run_uid)
            await self._artifacts.use(found, run_uid)
        made = wire_artifacts.version(found)
        made.rotten.extend(
            item.path for item in wire_artifacts.rotten(found, await self._artifacts.rotten(found))
        )
        return made

    async def ListEntries(
        self, request: tracker_pb2.ListEntriesRequest, context: Context
    ) -> tracker_pb2.ListEntriesResponse:
        """Files of a version, by path."""
        found = await version_of(self._artifacts, caller(), request.version, Role.VIEWER, entries=False)
        if not 0 <= request.page_size <= _MOST_ENTRIES:
            raise InvalidArgument(f"page_size: it is not in 0 to {_MOST_ENTRIES:,}", field="page_size")
        size = request.page_size or _MOST_ENTRIES
        scope = f"entries/{found.uid}"
        token = request.page_token
        after = decode_token(token, scope=scope, read=lambda at: str(at["path"])) if token else ""
        page = await rows.entries_of(self._db, found.uid, after=after, limit=size + 1)
        some = wire_artifacts.as_many_as_fit(page[:size])
        more = encode_token({"path": some[-1].path}, scope=scope) if len(some) < len(page) else ""
        return tracker_pb2.ListEntriesResponse(entries=wire_artifacts.entries(some), next_page_token=more)

    async def ListArtifacts(
        self, request: tracker_pb2.ListArtifactsRequest, context: Context
    ) -> tracker_pb2.ListArtifactsResponse:
        """A team's artifacts, by id."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        scope = f"artifacts/{team}/{request.kind}"
        size = page_size(request.page_size)
        token = request.page_token
        after = decode_token(token, scope=scope, read=lambda at: str(at["id"])) if token else ""
        found = await rows.list_artifacts(self._db, team, kind=request.kind, after=after, limit=size + 1)
        more = encode_token({"id": found[size - 1].id}, scope=scope) if len(found) > size else ""
        return tracker_pb2.ListArtifactsResponse(
            artifacts=[wire_artifacts.artifact(item) for item in found[:size]], next_page_token=more
        )

    async def ListVersions(
        self, request: tracker_pb2.ListVersionsRequest, context: Context
    ) -> tracker_pb2.ListVersionsResponse:
        """Versions of an artifact, or of a run, newest first, without their entries."""
        who = caller()
        parts = parse_name("teams/{team}/artifacts/{artifact}", request.parent)
        team = team_of(who, f"teams/{parts['team']}", Role.VIEWER)
        artifact = "" if parts["artifact"] == "-" else parts["artifact"]
        run_uid = own_run(who, team, request.run)
        await self._known_run(who, team, run_uid)
        if artifact:
            await known_kind(self._db, team, artifact)
        scope = f"versions/{team}/{artifact}/{run_uid}/{request.kind}"
        size = page_size(request.page_size)
        token = request.page_token
        after = decode_token(token, scope=scope, read=lambda at: int(at["seq"])) if token else None
        which = rows.Filter(team=team, artifact=artifact, run_uid=run_uid, kind=request.kind, after=after)
        found = await rows.list_versions(self._db, which, limit=size + 1)
        more = encode_token({"seq": found[size - 1].seq}, scope=scope) if len(found) > size else ""
        return tracker_pb2.ListVersionsResponse(
            versions=[wire_artifacts.version(item, entries=False) for item in found[:size]],
            next_page_token=more,
        )

    async def GetLatestCheckpoint(
        self, request: tracker_pb2.GetLatestCheckpointRequest, context: Context
    ) -> artifact_pb2.ArtifactVersion:
        """The run's last committed checkpoint."""
        key = run_of(caller(), request.parent, Role.VIEWER)
        found = await rows.latest_checkpoint(self._db, key.team, key.uid, CHECKPOINT)
        if found is None:
            raise NotFound(f"run {key.uid} has no committed checkpoint", reason=Reason.CHECKPOINT_NOT_FOUND)
        return wire_artifacts.version(found)

    async def CreateDownloads(
        self, request: tracker_pb2.CreateDownloadsRequest, context: Context
    ) -> tracker_pb2.CreateDownloadsResponse:
        """URLs to GET blobs from."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        _check_count(len(request.digests), "digests")
        expires = self._expires()
        found = await self._artifacts.downloads(team, list(dict.fromkeys(request.digests)))
        return tracker_pb2.CreateDownloadsResponse(
            downloads=[
                tracker_pb2.CreateDownloadsResponse.Download(digest=digest, url=url, size=size)
                for digest, (url, size) in found.items()
            ],
            expire_time=expires,
        )

    async def SetAlias(
        self, request: tracker_pb2.SetAliasRequest, context: Context
    ) -> artifact_pb2.ArtifactVersion:
        """Moves an alias."""
        who = caller()
        found = await self._version(who, request.name, Role.MEMBER)
        await require_for_aliases(self._db, who, found.team, [request.alias])
        await refuse_without_approval(self._db, found.team, [request.alias])
        return wire_artifacts.version(
            await self._artifacts.set_alias(found, request.alias, actor=who.subject)
        )

    async def GetLineage(
        self, request: tracker_pb2.GetLineageRequest, context: Context
    ) -> artifact_pb2.Lineage:
        """What a version comes from, and who used it."""
        found = await self._version(caller(), request.name, Role.VIEWER)
        run = (
            await runs.get_run(self._db, found.team, found.run_uid, most_metrics=0) if found.run_uid else None
        )
        inputs, used_by = await self._artifacts.lineage(found)
        return artifact_pb2.Lineage(
            version=wire_artifacts.version(found),
            run=wire.run_name(found.team, found.run_uid) if found.run_uid else "",
            code_digest=run.code.digest if run else "",
            git_commit=run.code.git_commit if run else "",
            inputs=inputs,
            used_by=[wire.run_name(found.team, uid) for uid in used_by],
        )

    async def _version(self, who: Principal, name: str, role: Role, *, as_read_by: str = "") -> Version:
        return await version_of(self._artifacts, who, name, role, as_read_by=as_read_by)

    async def _commit_shard(self, draft: Draft, shard: tracker_pb2.Shard) -> artifact_pb2.ArtifactVersion:
        made = await self._shards.commit(
            draft, rank=shard.rank, ranks=shard.ranks, attempt=shard.attempt, round=shard.round
        )
        if made is not None:
            return wire_artifacts.version(made)
        return artifact_pb2.ArtifactVersion(
            kind=artifact_pb2.ArtifactKind.ValueType(draft.kind),
            run=wire.run_name(draft.team, draft.run_uid),
            step=draft.step,
        )

    async def _known_run(self, who: Principal, team: str, uid: str) -> None:
        """Raises NotFound for a run that the team does not have. A run's token vouches for its own, of which
        the first event may not have arrived yet."""
        if uid and not who.is_run and await runs.line_count(self._db, team, uid) is None:
            raise unknown_run(RunKey(team, uid))

    def _expires(self) -> timestamp_pb2.Timestamp | None:
        return wire.stamp(self._clock.now() + timedelta(seconds=URL_SECONDS))


def _draft(
    request: tracker_pb2.CommitVersionRequest, more: Sequence[Entry], team: str, run_uid: str, who: Principal
) -> Draft:
    if request.HasField("step") and not 0 <= request.step <= LAST_STEP:
        raise InvalidArgument(f"step: {request.step} is not in 0 to {LAST_STEP}", field="step")
    if len(request.aliases) > _MOST_ALIASES or len(request.sources) > _MOST_SOURCES:
        raise InvalidArgument(f"at most {_MOST_ALIASES} aliases and {_MOST_SOURCES} sources can be given")
    metadata = plain(request.metadata)
    if len(json.dumps(metadata)) > _LARGEST_METADATA:
        raise InvalidArgument("metadata: more than 64 KiB; add it as a file", field="metadata")
    return Draft(
        team=team,
        artifact=check_id(request.artifact_id, "artifact_id"),
        kind=request.kind or artifact_pb2.ARTIFACT_KIND_FILE,
        creator=who.subject,
        run_uid=run_uid,
        step=request.step if request.HasField("step") else None,
        metadata=metadata,
        entries=[*(wire_artifacts.entry(entry) for entry in request.entries), *more],
        aliases=list(dict.fromkeys(request.aliases)),
        sources=list(dict.fromkeys(request.sources)),
        request_id=request.request_id,
    )


def _check_count(count: int, field: str) -> None:
    if not 1 <= count <= _MOST_PARTS:
        raise InvalidArgument(f"{field}: {count:,} were given; 1 to {_MOST_PARTS:,} can be", field=field)
