"""OrphanService: what exists at the places to run and belongs to no living attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
import structlog

from cairn.scheduler.v1 import orphan_pb2, orphan_pb2_grpc
from cairn_common.auth import Principal, Role, Scope, access
from cairn_common.db import Database
from cairn_common.errors import PermissionDenied, Reason, Unavailable
from cairn_common.rpc import caller
from cairn_scheduler.cluster import Cluster, Held
from cairn_scheduler.model import AttemptState

log = structlog.get_logger(__name__)

NAME = "cairn.scheduler.v1.OrphanService"
# They are the whole platform's, not a team's: the role of an admin, in any team, is held in the handlers.
ACCESS = {
    f"/{NAME}/ListOrphans": access(Role.NONE, scope=Scope.ADMIN),
    f"/{NAME}/RemoveOrphans": access(Role.NONE, scope=Scope.ADMIN),
}
_LOOK_SECONDS = 20.0
_NEVER = datetime.max.replace(tzinfo=UTC)

Context = grpc.aio.ServicerContext[object, object]


@dataclass(frozen=True, slots=True)
class Owner:
    """The job that an attempt is of."""

    team: str
    job_uid: str
    # The attempt has not ended.
    living: bool


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something without a living attempt; `owner` None: no job had that attempt."""

    pool: str
    held: Held
    owner: Owner | None


class OrphanApi(orphan_pb2_grpc.OrphanServiceServicer):
    """Handlers."""

    def __init__(self, db: Database, *, clusters: Mapping[str, Cluster]) -> None:
        self._db = db
        self._clusters = clusters

    async def ListOrphans(
        self, request: orphan_pb2.ListOrphansRequest, context: Context
    ) -> orphan_pb2.ListOrphansResponse:
        """What there is now."""
        _hold_admin(caller())
        found = await find(self._db, self._clusters)
        return orphan_pb2.ListOrphansResponse(orphans=map(_message, found))

    async def RemoveOrphans(
        self, request: orphan_pb2.RemoveOrphansRequest, context: Context
    ) -> orphan_pb2.RemoveOrphansResponse:
        """Begins to take away what nobody takes away yet."""
        _hold_admin(caller())
        found = [orphan for orphan in await find(self._db, self._clusters) if not orphan.held.leaving]
        for orphan in found:
            log.warning("orphan.removing", name=orphan.held.name, by=caller().subject)
            await self._clusters[orphan.pool].discard(orphan.held.attempt_uid)
        return orphan_pb2.RemoveOrphansResponse(orphans=map(_message, found))


def _hold_admin(who: Principal) -> None:
    if not who.is_service and max(who.roles.values(), default=Role.NONE) < Role.ADMIN:
        raise PermissionDenied(
            "needs role admin in a team: what is left of attempts is the whole platform's",
            reason=Reason.ROLE_TOO_LOW,
            needed=Role.ADMIN.name.lower(),
        )


async def find(db: Database, clusters: Mapping[str, Cluster]) -> list[Orphan]:
    """Asks every place. Raises Unavailable where one does not answer, or another scheduler has them."""
    if not clusters:
        raise Unavailable("the scheduler that answers does not decide, so it has no places; ask again")
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            seen = {name: await cluster.inventory() for name, cluster in clusters.items()}
    except TimeoutError:
        raise Unavailable("a place to run has not said in time what there is; ask again") from None
    # Asked after the places: an attempt is written down before anything of it exists.
    owners = await _owners(db, [held.attempt_uid for all_held in seen.values() for held in all_held])
    return orphans(seen, owners)


def orphans(seen: Mapping[str, Sequence[Held]], owners: Mapping[str, Owner]) -> list[Orphan]:
    """What has no living attempt, oldest first."""
    found = [
        Orphan(pool, held, owner)
        for pool, all_held in seen.items()
        for held in all_held
        if (owner := owners.get(held.attempt_uid)) is None or not owner.living
    ]
    return sorted(found, key=lambda orphan: (orphan.held.create_time or _NEVER, orphan.held.name))


async def _owners(db: Database, attempts: Sequence[str]) -> dict[str, Owner]:
    rows = await db.fetch(
        "SELECT a.uid, a.state, j.team, a.job_uid FROM attempts a JOIN jobs j ON j.uid = a.job_uid"
        " WHERE a.uid = ANY($1::text[])",
        list(attempts),
    )
    return {row["uid"]: Owner(row["team"], row["job_uid"], AttemptState(row["state"]).active) for row in rows}


def _message(orphan: Orphan) -> orphan_pb2.Orphan:
    held, owner = orphan.held, orphan.owner
    message = orphan_pb2.Orphan(
        pool=f"pools/{orphan.pool}",
        display_name=held.name,
        attempt_uid=held.attempt_uid,
        job=f"teams/{owner.team}/jobs/{owner.job_uid}" if owner else "",
        status=held.status,
        leaving=held.leaving,
    )
    if held.create_time is not None:
        message.create_time.FromDatetime(held.create_time)
    if held.cost is not None:
        message.cost = held.cost
    return message
