"""KeepingService."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import artifact_pb2, keeping_pb2, keeping_pb2_grpc
from cairn_common.auth import Access, Principal, Role, access, require
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, Reason
from cairn_common.ids import parse_name
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_tracker import expiry, retention, wire, wire_artifacts
from cairn_tracker.api.names import team_of, unknown_run
from cairn_tracker.artifacts import VERSION_NAME, Artifacts, known_kind
from cairn_tracker.batch import RunKey
from cairn_tracker.collection import Collected, Collector
from cairn_tracker.expiry import Expiry
from cairn_tracker.keeping import Keeping
from cairn_tracker.retention import Retention
from cairn_tracker.scrub import Scrub
from cairn_tracker.store import keeping as store
from cairn_tracker.store import usage as sums
from cairn_tracker.store.artifacts import Version

NAME: Final = "cairn.tracker.v1.KeepingService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/DeleteVersion": access(Role.MEMBER),
    f"/{NAME}/PinVersion": access(Role.MEMBER),
    f"/{NAME}/RemoveAlias": access(Role.MEMBER),
    f"/{NAME}/ListAliasMoves": access(Role.VIEWER),
    f"/{NAME}/GetKeeping": access(Role.VIEWER),
    f"/{NAME}/SetKeeping": access(Role.ADMIN),
    f"/{NAME}/CollectGarbage": access(Role.ADMIN),
    f"/{NAME}/PreviewRetention": access(Role.VIEWER),
    f"/{NAME}/PreviewExpiry": access(Role.VIEWER),
    f"/{NAME}/GetStorageUsage": access(Role.VIEWER),
    f"/{NAME}/VerifyVersion": access(Role.MEMBER),
}

_FIELDS: Final = {"protected_aliases", "records", "retention"}
# Who holds each is looked up.
_MOST_PREVIEWED: Final = 100

Context = aio.ServicerContext[Any, Any]


class KeepingApi(keeping_pb2_grpc.KeepingServiceServicer):
    """What of the artifacts stays."""

    def __init__(
        self,
        *,
        db: Database,
        artifacts: Artifacts,
        keeping: Keeping,
        collector: Collector,
        retention: Retention,
        expiry: Expiry,
        scrub: Scrub,
    ) -> None:
        self._db = db
        self._artifacts = artifacts
        self._keeping = keeping
        self._collector = collector
        self._retention = retention
        self._expiry = expiry
        self._scrub = scrub

    async def DeleteVersion(
        self, request: keeping_pb2.DeleteVersionRequest, context: Context
    ) -> artifact_pb2.ArtifactVersion:
        """Takes a version out of sight."""
        who = caller()
        found = await version_of(self._artifacts, who, request.name, Role.MEMBER)
        return wire_artifacts.version(await self._keeping.delete(found, actor=who.subject), entries=False)

    async def PinVersion(
        self, request: keeping_pb2.PinVersionRequest, context: Context
    ) -> artifact_pb2.ArtifactVersion:
        """Keeps a version, or lets it go."""
        who = caller()
        found = await version_of(self._artifacts, who, request.name, Role.MEMBER)
        pinner = who.subject if request.pinned else ""
        return wire_artifacts.version(await self._keeping.pin(found, pinner=pinner), entries=False)

    async def RemoveAlias(
        self, request: keeping_pb2.RemoveAliasRequest, context: Context
    ) -> artifact_pb2.ArtifactVersion:
        """Takes an alias from a version."""
        who = caller()
        found = await version_of(self._artifacts, who, request.name, Role.MEMBER)
        await require_for_aliases(self._db, who, found.team, [request.alias])
        left = await self._keeping.remove_alias(found, request.alias, actor=who.subject)
        return wire_artifacts.version(left, entries=False)

    async def ListAliasMoves(
        self, request: keeping_pb2.ListAliasMovesRequest, context: Context
    ) -> keeping_pb2.ListAliasMovesResponse:
        """What each alias named, newest first."""
        parts = parse_name("teams/{team}/artifacts/{artifact}", request.artifact)
        team, artifact = parts["team"], parts["artifact"]
        require(caller(), team, Role.VIEWER)
        await known_kind(self._db, team, artifact)
        scope = f"moves/{team}/{artifact}"
        size = page_size(request.page_size)
        token = request.page_token
        before = decode_token(token, scope=scope, read=lambda at: int(at["seq"])) if token else None
        found = await store.moves(self._db, team, artifact, before=before, limit=size + 1)
        more = encode_token({"seq": found[size - 1].seq}, scope=scope) if len(found) > size else ""
        return keeping_pb2.ListAliasMovesResponse(
            moves=[
                keeping_pb2.AliasMove(
                    alias=move.alias,
                    version=move.number or 0,
                    actor=move.actor,
                    time=wire.stamp(move.time),
                    approver=move.approver,
                )
                for move in found[:size]
            ],
            next_page_token=more,
        )

    async def GetKeeping(
        self, request: keeping_pb2.GetKeepingRequest, context: Context
    ) -> keeping_pb2.Keeping:
        """The team's rules."""
        return await self._rules(team_of(caller(), request.parent, Role.VIEWER))

    async def SetKeeping(
        self, request: keeping_pb2.SetKeepingRequest, context: Context
    ) -> keeping_pb2.Keeping:
        """Replaces some of the team's rules."""
        team = team_of(caller(), request.parent, Role.ADMIN)
        fields = set(request.update_mask.paths)
        if not fields or fields - _FIELDS:
            raise InvalidArgument(
                "update_mask: protected_aliases, records and retention can be changed, and one must be named",
                reason=Reason.MASK_INVALID,
            )
        wanted = wire_artifacts.rules(request.keeping)
        retention.check(wanted.retention)
        expiry.check(wanted.records)
        etag = request.keeping.etag
        # One that never was one matches nothing.
        revision = (
            (int(etag) if etag.isascii() and etag.isdigit() and len(etag) < 19 else -1) if etag else None
        )
        await self._keeping.set_rules(team, wanted, fields=fields, revision=revision)
        return await self._rules(team)

    async def PreviewRetention(
        self, request: keeping_pb2.PreviewRetentionRequest, context: Context
    ) -> keeping_pb2.PreviewRetentionResponse:
        """What would go."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        rules = [wire_artifacts.rule(item) for item in request.retention] or None
        retention.check(rules or [])
        scope = f"retention/{team}"
        token = request.page_token
        after = decode_token(token, scope=scope, read=lambda at: int(at["seq"])) if token else 0
        size = min(page_size(request.page_size), _MOST_PREVIEWED)
        found, more = await self._retention.look(team, rules, after=after, limit=size)
        return keeping_pb2.PreviewRetentionResponse(
            outlived=[
                keeping_pb2.Outlived(
                    version=wire_artifacts.version(item.version, entries=False), held_by=item.held
                )
                for item in found
            ],
            next_page_token="" if more is None else encode_token({"seq": more}, scope=scope),
        )

    async def PreviewExpiry(
        self, request: keeping_pb2.PreviewExpiryRequest, context: Context
    ) -> keeping_pb2.PreviewExpiryResponse:
        """Whose points and lines would go."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        rules = [wire_artifacts.record_rule(item) for item in request.records] or None
        expiry.check(rules or [])
        scope = f"expiry/{team}"
        token = request.page_token
        after = decode_token(token, scope=scope, read=lambda at: str(at["uid"])) if token else ""
        found, more = await self._expiry.look(team, rules, after=after, limit=page_size(request.page_size))
        return keeping_pb2.PreviewExpiryResponse(
            expiring=[wire_artifacts.expiring(team, item) for item in found],
            next_page_token="" if more is None else encode_token({"uid": more}, scope=scope),
        )

    async def CollectGarbage(
        self, request: keeping_pb2.CollectGarbageRequest, context: Context
    ) -> keeping_pb2.CollectGarbageResponse:
        """Deletes what nobody keeps."""
        team = team_of(caller(), request.parent, Role.ADMIN)
        done = Collected() if request.validate_only else await self._collector.step(team)
        left = await self._collector.look(team)
        if request.validate_only:
            done = Collected(left.due, left.due_bytes)
        return keeping_pb2.CollectGarbageResponse(
            blobs=done.blobs,
            size=done.bytes,
            due_blobs=left.due,
            due_size=left.due_bytes,
            given_up_blobs=left.given_up,
            given_up_size=left.given_up_bytes,
            waiting_blobs=left.waiting,
            waiting_size=left.waiting_bytes,
        )

    async def GetStorageUsage(
        self, request: keeping_pb2.GetStorageUsageRequest, context: Context
    ) -> keeping_pb2.StorageUsage:
        """How much lies in the store, and whose."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        by = request.group_by or "kind"
        if by not in sums.BY:
            raise InvalidArgument(
                f"group_by: {by[:80]!r} is not one of {', '.join(sums.BY)}", field="group_by"
            )
        idle = await self._collector.look(team)
        total = await sums.usage(self._db, team, "")
        return keeping_pb2.StorageUsage(
            rows=[wire_artifacts.usage(item, by) for item in await sums.usage(self._db, team, by)],
            total=wire_artifacts.usage(total[0], "") if total else None,
            code_size=await sums.code_bytes(self._db, team),
            idle_size=idle.due_bytes + idle.waiting_bytes,
        )

    async def VerifyVersion(
        self, request: keeping_pb2.VerifyVersionRequest, context: Context
    ) -> keeping_pb2.VerifyVersionResponse:
        """Reads some of a version's bytes again."""
        found = await version_of(self._artifacts, caller(), request.name, Role.MEMBER)
        scope = f"verify/{found.uid}"
        token = request.page_token
        after = decode_token(token, scope=scope, read=lambda at: int(at["part"])) if token else 0
        checked = await self._scrub.verify(found, after=after)
        return keeping_pb2.VerifyVersionResponse(
            version=wire_artifacts.version(found, entries=False),
            size=checked.bytes,
            rotten=wire_artifacts.rotten(found, checked.rotten),
            next_page_token=""
            if checked.after is None
            else encode_token({"part": checked.after}, scope=scope),
        )

    async def _rules(self, team: str) -> keeping_pb2.Keeping:
        return wire_artifacts.keeping(await store.rules(self._db, team))


async def version_of(
    artifacts: Artifacts,
    who: Principal,
    name: str,
    role: Role,
    *,
    as_read_by: str = "",
    entries: bool = True,
) -> Version:
    """The version of a name, in whose team the caller has this role; `as_read_by`: a run of it."""
    team = parse_name(VERSION_NAME, name)["team"]
    require(who, team, role)
    reader = parse_name("teams/{team}/runs/{run}", as_read_by) if as_read_by else {"team": team, "run": ""}
    if reader["team"] != team:
        raise unknown_run(RunKey(reader["team"], reader["run"]))
    return await artifacts.version(name, team=team, as_read_by=reader["run"], entries=entries)


async def require_for_aliases(db: Database, who: Principal, team: str, aliases: Collection[str]) -> None:
    """Raises PermissionDenied (ROLE_TOO_LOW) for a protected alias, of whoever is no admin."""
    if aliases and set(aliases) & set(await store.protected_aliases(db, team)):
        require(who, team, Role.ADMIN)
