"""AuditService: who did what, when, from where."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf import json_format

from cairn.quota.v1 import audit_entry_pb2, audit_pb2
from cairn.quota.v1.audit_pb2_grpc import AuditServiceServicer
from cairn_common.auth import Access, Role, access
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_quota import audit, checks, wire
from cairn_quota.audit import Entry, Wanted
from cairn_quota.sight import require_organisation, team_of

AUDIT = "cairn.quota.v1.AuditService"
AUDIT_ACCESS: dict[str, Access] = {f"/{AUDIT}/ListAuditEntries": access(Role.ADMIN)}
EVERY_TEAM = "teams/-"


@dataclass(frozen=True)
class AuditApi(AuditServiceServicer):
    """AuditService over its table."""

    db: Database
    clock: Clock

    async def ListAuditEntries(
        self, request: audit_pb2.ListAuditEntriesRequest, context: object
    ) -> audit_pb2.ListAuditEntriesResponse:
        """A team's entries, or all, newest first."""
        wanted, size = _wanted(request), page_size(request.page_size)
        scope = f"audit/{request.parent}/{request.actor}/{request.action}/{wanted.since}/{wanted.until}"
        token = request.page_token
        before = decode_token(token, scope=scope, read=lambda at: int(at["before"])) if token else None
        found = await audit.entries(self.db, wanted, before=before, size=size + 1)
        more = len(found) > size
        return audit_pb2.ListAuditEntriesResponse(
            entries=[_message(entry) for entry in found[:size]],
            next_page_token=encode_token({"before": found[size - 1].seq}, scope=scope) if more else "",
        )


def _wanted(request: audit_pb2.ListAuditEntriesRequest) -> Wanted:
    if request.parent == EVERY_TEAM:
        require_organisation(caller(), Role.ADMIN)
        team = None
    else:
        team = team_of(request.parent, Role.ADMIN)
    return Wanted(
        team=team,
        actor=checks.text(request.actor, "actor"),
        action=checks.text(request.action, "action"),
        since=checks.time(request.start_time, "start_time") if request.HasField("start_time") else None,
        until=checks.time(request.end_time, "end_time") if request.HasField("end_time") else None,
    )


def _message(entry: Entry) -> audit_entry_pb2.AuditEntry:
    made = audit_entry_pb2.AuditEntry(
        time=wire.timestamp(entry.time),
        actor=entry.actor,
        action=entry.action,
        resource=entry.resource,
        team=entry.team,
        token_uid=entry.token_uid,
        request_id=entry.request_id,
        address=entry.address,
        peer=entry.peer,
    )
    json_format.Parse(entry.detail, made.detail)
    return made
