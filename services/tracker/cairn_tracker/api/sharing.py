"""ShareService."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import events_pb2, share_pb2, sharing_pb2, sharing_pb2_grpc, tracker_pb2
from cairn_common.auth import Access, Role, access, hash_token, new_token, require
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, NotFound, PermissionDenied, Reason, Unauthenticated
from cairn_common.ids import new_uid, parse_name
from cairn_common.once import Once
from cairn_common.paging import decode_token, encode_token, page_size
from cairn_common.rpc import caller
from cairn_tracker import compare, series, wire
from cairn_tracker.api.names import runs_of, team_of, unknown_run
from cairn_tracker.batch import LAST_STEP, RunKey
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.store import runs
from cairn_tracker.store import shares as store
from cairn_tracker.store.shares import Share

NAME: Final = "cairn.tracker.v1.ShareService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/CreateShare": access(Role.MEMBER),
    f"/{NAME}/ListShares": access(Role.VIEWER),
    f"/{NAME}/RevokeShare": access(Role.MEMBER),
    f"/{NAME}/GetSharedRuns": access(Role.SERVICE),
    f"/{NAME}/QuerySharedSeries": access(Role.SERVICE),
}
_MOST_RUNS: Final = 20
_MOST_KEYS: Final = 100
_MOST_METRICS: Final = 1000
_LIFE, _LONGEST = timedelta(days=7), timedelta(days=365)

Context = aio.ServicerContext[Any, Any]


class ShareApi(sharing_pb2_grpc.ShareServiceServicer):
    """Links, and what they show: the runs that they were made for, whatever else is asked."""

    def __init__(self, *, db: Database, store: ClickHouse, clock: Clock) -> None:
        self._db = db
        self._store = store
        self._once = Once(db, clock)
        self._clock = clock

    async def CreateShare(
        self, request: sharing_pb2.CreateShareRequest, context: Context
    ) -> sharing_pb2.CreateShareResponse:
        """A link to runs of one's team."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        return await self._once(request, sharing_pb2.CreateShareResponse, lambda: self._create(team, request))

    async def _create(
        self, team: str, request: sharing_pb2.CreateShareRequest
    ) -> sharing_pb2.CreateShareResponse:
        who, now = caller(), self._clock.now()
        uids = runs_of(who, team, request.runs, most=_MOST_RUNS)
        found = {run.uid for run in await runs.get_runs(self._db, team, uids, most_metrics=0)}
        if missing := [uid for uid in uids if uid not in found]:
            raise unknown_run(RunKey(team, missing[0]))
        made = Share(team, new_uid(), tuple(uids), who.subject, now, now + _life(request))
        secret = new_token("cairn_share")
        async with self._db.transaction() as conn:
            await store.insert(conn, made, hash=hash_token(secret))
            fact = events_pb2.TrackerEvent(share_created=events_pb2.ShareCreated(share=self._message(made)))
            await wire.tell(conn, fact, RunKey(team, made.uid), "share", now, actor=who.subject)
        return sharing_pb2.CreateShareResponse(share=self._message(made), secret=secret)

    async def ListShares(
        self, request: sharing_pb2.ListSharesRequest, context: Context
    ) -> sharing_pb2.ListSharesResponse:
        """A team's links, without their secrets."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        scope, size, token = f"shares/{team}", page_size(request.page_size), request.page_token
        before = decode_token(token, scope=scope, read=lambda at: str(at["before"])) if token else None
        found = await store.page(self._db, team, before=before, size=size + 1)
        return sharing_pb2.ListSharesResponse(
            shares=[self._message(one) for one in found[:size]],
            next_page_token=encode_token({"before": found[size - 1].uid}, scope=scope)
            if len(found) > size
            else "",
        )

    async def RevokeShare(self, request: sharing_pb2.RevokeShareRequest, context: Context) -> share_pb2.Share:
        """The link shows nothing any more."""
        who, now = caller(), self._clock.now()
        name = parse_name("teams/{team}/shares/{share}", request.name)
        require(who, name["team"], Role.MEMBER)
        found = await store.get(self._db, name["team"], name["share"])
        if found is None:
            raise NotFound(
                f"there is no share {name['share']} in team {name['team']}", reason=Reason.SHARE_NOT_FOUND
            )
        if found.creator != who.subject and not who.may(found.team, Role.ADMIN):
            raise PermissionDenied("this link is somebody else's; ask an admin of the team")
        async with self._db.transaction() as conn:
            ended = await store.revoke(conn, found.team, found.uid, now=now)
            if ended is None:
                return self._message(found)
            message = self._message(ended)
            fact = events_pb2.TrackerEvent(share_revoked=events_pb2.ShareRevoked(share=message))
            await wire.tell(conn, fact, RunKey(ended.team, ended.uid), "share", now, actor=who.subject)
        return message

    async def GetSharedRuns(
        self, request: sharing_pb2.GetSharedRunsRequest, context: Context
    ) -> sharing_pb2.SharedRuns:
        """The runs of a link."""
        share = await self._open(request.secret)
        found = await runs.get_runs(self._db, share.team, share.run_uids, most_metrics=_MOST_METRICS)
        table = compare.compare(found, metrics=[], minimize=[], all_params=True, now=self._clock.now())
        return sharing_pb2.SharedRuns(
            share=self._message(share),
            # As in a list: how it was made (diff, packages, machine) is no part of what a link shows.
            runs=[wire.run(run, whole=False) for run in found],
            comparison=wire.comparison(table),
        )

    async def QuerySharedSeries(
        self, request: sharing_pb2.QuerySharedSeriesRequest, context: Context
    ) -> tracker_pb2.QuerySeriesResponse:
        """Curves of the runs of a link."""
        share = await self._open(request.secret)
        if len(request.keys) > _MOST_KEYS or request.max_buckets < 0:
            raise InvalidArgument(f"at most {_MOST_KEYS} keys, and max_buckets not negative", field="keys")
        found = await series.series(
            self._store,
            share.team,
            runs=list(share.run_uids),
            keys=list(request.keys),
            max_buckets=min(request.max_buckets or 1_000, 10_000),
            first=0,
            end=LAST_STEP + 1,
        )
        return tracker_pb2.QuerySeriesResponse(series=[wire.series(share.team, item) for item in found])

    async def _open(self, secret: str) -> Share:
        found = await store.by_hash(self._db, hash_token(secret))
        if found is None or found.revoke_time is not None or found.expire_time <= self._clock.now():
            raise Unauthenticated(
                "this link shows nothing: it was revoked, or its time is over", reason=Reason.SHARE_INVALID
            )
        return found

    def _message(self, share: Share) -> share_pb2.Share:
        state = share_pb2.Share.ACTIVE
        if share.revoke_time is not None:
            state = share_pb2.Share.REVOKED
        elif share.expire_time <= self._clock.now():
            state = share_pb2.Share.EXPIRED
        return share_pb2.Share(
            name=f"teams/{share.team}/shares/{share.uid}",
            uid=share.uid,
            runs=[wire.run_name(share.team, uid) for uid in share.run_uids],
            create_time=wire.stamp(share.create_time),
            expire_time=wire.stamp(share.expire_time),
            state=state,
            creator=share.creator,
        )


def _life(request: sharing_pb2.CreateShareRequest) -> timedelta:
    if not request.HasField("ttl"):
        return _LIFE
    try:
        asked = request.ttl.ToTimedelta()
    except (ValueError, OverflowError):
        asked = timedelta()
    if not timedelta() < asked <= _LONGEST:
        raise InvalidArgument(f"ttl: must be above 0 s and at most {_LONGEST.days} days", field="ttl")
    return asked
