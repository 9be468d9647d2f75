"""OutlookService: why a job waits, what would change it, and the snapshot behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from cairn.scheduler.v1 import outlook_pb2, outlook_pb2_grpc
from cairn_common.auth import Principal, Role, Scope, access, require
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, PermissionDenied, Reason
from cairn_common.ids import check_uid, new_uid, parse_name
from cairn_common.rpc import caller
from cairn_scheduler import queue_store, snapshot, steer, telling
from cairn_scheduler.engine import snapshot_file, whatif
from cairn_scheduler.engine.explain import Change, Explanation, explain
from cairn_scheduler.engine.quota import BadTree
from cairn_scheduler.engine.world import Snapshot
from cairn_scheduler.model import Hold, Job, State
from cairn_scheduler.places import Place
from cairn_scheduler.quota import Quota
from cairn_scheduler.snapshot import Entry
from cairn_scheduler.tree import Tree

NAME = "cairn.scheduler.v1.OutlookService"
# The last two are of the whole platform: the role of an admin, in any team, is held in the handlers.
ACCESS = {
    f"/{NAME}/ExplainJob": access(Role.VIEWER),
    f"/{NAME}/WhatIf": access(Role.NONE, scope=Scope.ADMIN),
    f"/{NAME}/GetSnapshot": access(Role.NONE, scope=Scope.ADMIN),
}

Context = grpc.aio.ServicerContext[Any, Any]


class OutlookApi(outlook_pb2_grpc.OutlookServiceServicer):
    """Handlers: take the snapshot that a decision would be made from now, and ask the engine, in a thread."""

    def __init__(
        self, db: Database, *, quota: Quota, places: Callable[[], Sequence[Place]], clock: Clock
    ) -> None:
        self._db = db
        self._quota = quota
        self._places = places
        self._clock = clock

    async def ExplainJob(
        self, request: outlook_pb2.ExplainJobRequest, context: Context
    ) -> outlook_pb2.Explanation:
        """Why a job waits; of one that does not, what it does."""
        parts = parse_name("teams/{team}/jobs/{job}", request.name)
        team, uid = parts["team"], check_uid(parts["job"], "name")
        require(caller(), team, Role.VIEWER)
        job = await steer.found(self._db, team=team, uid=uid)
        entries, world = await self._world(and_held=uid)
        found = await asyncio.to_thread(explain, world, uid)
        if found is None:
            words = job.reason or f"it does not wait: it is {job.state}"
            return outlook_pb2.Explanation(job=request.name, sentence=words)
        message = _message(request.name, found, world, _names(entries, caller()))
        if job.state is State.HELD and job.hold is not Hold.BUDGET:
            message.code, message.sentence = job.reason.partition(":")[0], job.reason
        return message

    async def forecast(self, job: Job) -> outlook_pb2.Explanation:
        """Why a job would wait, were it submitted now; without a code where it would start."""
        uid = new_uid()
        entries = [*await queue_store.entries(self._db), snapshot.supposed(job, uid)]
        world = self._taken(entries, await self._quota.tree())
        found = await asyncio.to_thread(explain, world, uid)
        if found is None:
            return outlook_pb2.Explanation(sentence="it would start now")
        return _message("", found, world, _names(entries, caller()))

    async def WhatIf(
        self, request: outlook_pb2.WhatIfRequest, context: Context
    ) -> outlook_pb2.WhatIfResponse:
        """Two decisions side by side."""
        _hold_admin(caller())
        if not request.lose_pool and not request.HasField("tree"):
            raise InvalidArgument("nothing is supposed: name lose_pool, tree or both", field="lose_pool")
        entries, world = await self._world()
        then = world
        try:
            if request.HasField("tree"):
                then = self._taken(entries, await self._quota.supposed(request.tree))
            if request.lose_pool:
                then = _without(then, request.lose_pool)
            found = await asyncio.to_thread(whatif.compare, world, then)
        except BadTree as error:
            raise InvalidArgument(f"tree: {error}", reason=Reason.TREE_INVALID, field="tree") from None
        return outlook_pb2.WhatIfResponse(
            starts=found.starts,
            waits=found.waits,
            evicted=[one.uid for one in found.evicted],
            lost=found.lost,
        )

    async def GetSnapshot(
        self, request: outlook_pb2.GetSnapshotRequest, context: Context
    ) -> outlook_pb2.GetSnapshotResponse:
        """What a decision would be made from now."""
        _hold_admin(caller())
        _, world = await self._world()
        return outlook_pb2.GetSnapshotResponse(snapshot=snapshot_file.dump(world))

    async def _world(self, *, and_held: str = "") -> tuple[list[Entry], Snapshot]:
        entries = await queue_store.entries(self._db)
        if and_held:
            entries += await queue_store.held(self._db, and_held)
        return entries, self._taken(entries, await self._quota.tree())

    def _taken(self, entries: Sequence[Entry], tree: Tree) -> Snapshot:
        now = self._clock.now()
        return snapshot.take(entries, tree=tree, places=self._places(), holds=(), now=now)


def _without(world: Snapshot, pool: str) -> Snapshot:
    pools = sorted(one.name for one in world.pools)
    if pool not in pools:
        raise InvalidArgument(f"there is no pool {pool!r}; there is {', '.join(pools)}", field="lose_pool")
    return whatif.without_pool(world, pool)


def _hold_admin(who: Principal) -> None:
    if not who.is_service and max(who.roles.values(), default=Role.NONE) < Role.ADMIN:
        raise PermissionDenied(
            "needs role admin in a team: the queue is the whole platform's",
            reason=Reason.ROLE_TOO_LOW,
            needed=Role.ADMIN.name.lower(),
        )


def _names(entries: Sequence[Entry], who: Principal) -> dict[str, str]:
    """The names of the jobs that a caller may see."""
    return {
        entry.uid: f"teams/{entry.team}/jobs/{entry.uid}"
        for entry in entries
        if who.is_service or entry.team in who.roles
    }


def _message(
    name: str, found: Explanation, world: Snapshot, names: Mapping[str, str]
) -> outlook_pb2.Explanation:
    reason = found.reason
    message = outlook_pb2.Explanation(
        job=name,
        code=reason.code.value,
        sentence=telling.sentence(reason),
        node=reason.node,
        flavor=reason.flavor,
        resource=reason.resource,
        requested=reason.requested,
        limit=reason.limit,
        used=reason.used,
        path=[
            outlook_pb2.Explanation.Level(node=one.node, nominal=one.nominal, limit=one.limit, used=one.used)
            for one in found.path
        ],
        holders=[
            outlook_pb2.Explanation.Holder(job=names.get(one.uid, ""), node=one.node, amount=one.amount)
            for one in found.holders
        ],
        position=found.position,
        waiting=found.waiting,
        changes=[
            outlook_pb2.Explanation.Change(kind=one.kind, words=_words(one, world)) for one in found.changes
        ],
    )
    if found.eta is not None:
        eta = Timestamp()
        eta.FromDatetime(datetime.fromtimestamp(found.eta / 1000, UTC))
        message.eta.CopyFrom(eta)
    return message


def _words(change: Change, world: Snapshot) -> str:
    """Names of others' jobs are nobody else's business."""
    if change.kind != "end":
        return change.words
    ended = len(world.admitted) - len(change.snapshot.admitted)
    return f"if {ended} running job{'' if ended == 1 else 's'} ended"
