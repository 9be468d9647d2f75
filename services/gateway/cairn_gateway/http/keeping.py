"""Routes of what stays: deletion of versions, pins, aliases taken away, the team's rules."""

from __future__ import annotations

from cairn_gateway.http.artifacts import ARTIFACT, TEAM, VERSION
from cairn_gateway.http.route import Route

_VERSION = "/teams/{team}/artifacts/{artifact}/versions/{version}"

ROUTES = (
    Route(
        method="POST",
        path=f"{_VERSION}:delete",
        rpc="KeepingService/DeleteVersion",
        summary="Take a version out of sight; refused with who holds it.",
        bind={"name": VERSION},
    ),
    Route(
        method="POST",
        path=f"{_VERSION}:pin",
        rpc="KeepingService/PinVersion",
        summary="Keep a version until it is unpinned.",
        bind={"name": VERSION},
        fixed={"pinned": True},
    ),
    Route(
        method="POST",
        path=f"{_VERSION}:unpin",
        rpc="KeepingService/PinVersion",
        summary="Let a version go again.",
        bind={"name": VERSION},
        fixed={"pinned": False},
        operation="UnpinVersion",
    ),
    Route(
        method="POST",
        path=f"{_VERSION}:unalias",
        rpc="KeepingService/RemoveAlias",
        summary="Take an alias away from this version.",
        bind={"name": VERSION},
    ),
    Route(
        method="GET",
        path="/teams/{team}/artifacts/{artifact}/moves",
        rpc="KeepingService/ListAliasMoves",
        summary="What each alias named, newest first.",
        bind={"artifact": ARTIFACT},
    ),
    Route(
        method="GET",
        path="/teams/{team}/keeping",
        rpc="KeepingService/GetKeeping",
        summary="How the team keeps its artifacts, points and lines.",
        bind={"parent": TEAM},
    ),
    Route(
        method="PATCH",
        path="/teams/{team}/keeping",
        rpc="KeepingService/SetKeeping",
        summary="Replace what the body has of how the team keeps its artifacts, points and lines.",
        resource="keeping",
        bind={"parent": TEAM},
        etag="keeping.etag",
    ),
    Route(
        method="POST",
        path="/teams/{team}/storage:collect",
        rpc="KeepingService/CollectGarbage",
        summary="Delete bytes that nobody keeps, some a call; `validate_only` says what would be deleted.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/keeping:preview",
        rpc="KeepingService/PreviewRetention",
        summary="Versions that would go by these rules, or the team's own, and who keeps them nevertheless.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path="/teams/{team}/keeping:expiry",
        rpc="KeepingService/PreviewExpiry",
        summary="Runs whose points or lines would be dropped by these rules, or the team's own.",
        bind={"parent": TEAM},
    ),
    Route(
        method="GET",
        path="/teams/{team}/storage",
        rpc="KeepingService/GetStorageUsage",
        summary="Bytes of the team's versions, as they count them and as they lie in the store.",
        bind={"parent": TEAM},
    ),
    Route(
        method="POST",
        path=f"{_VERSION}:verify",
        rpc="KeepingService/VerifyVersion",
        summary="Read some of a version's bytes again; says which files are rotten.",
        bind={"name": VERSION},
    ),
)
