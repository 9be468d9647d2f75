"""MlflowService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from grpc import aio

from cairn.tracker.v1 import mlflow_pb2 as pb
from cairn.tracker.v1 import mlflow_pb2_grpc
from cairn_common.auth import Access, Role, access
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import InvalidArgument, PermissionDenied, Reason
from cairn_common.rpc import caller
from cairn_tracker.api.names import team_of
from cairn_tracker.batch import RunKey
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.mlflow import grammar, wire
from cairn_tracker.mlflow.errors import unknown_run
from cairn_tracker.mlflow.experiments import Experiments
from cairn_tracker.mlflow.history import History, Range
from cairn_tracker.mlflow.runs import Batch, Runs
from cairn_tracker.mlflow.search import experiment_number
from cairn_tracker.mlflow.vocabulary import EXPERIMENTS, RUNS
from cairn_tracker.pending import Pending
from cairn_tracker.store import mlflow_experiments, mlflow_runs

NAME: Final = "cairn.tracker.v1.MlflowService"
ACCESS: Mapping[str, Access] = {
    f"/{NAME}/CreateMlflowExperiment": access(Role.MEMBER),
    f"/{NAME}/GetMlflowExperiment": access(Role.VIEWER, run_token=True),
    f"/{NAME}/SearchMlflowExperiments": access(Role.VIEWER),
    f"/{NAME}/UpdateMlflowExperiment": access(Role.MEMBER),
    f"/{NAME}/CreateMlflowRun": access(Role.MEMBER),
    f"/{NAME}/GetMlflowRun": access(Role.VIEWER, run_token=True),
    f"/{NAME}/SearchMlflowRuns": access(Role.VIEWER),
    f"/{NAME}/UpdateMlflowRun": access(Role.MEMBER, run_token=True),
    f"/{NAME}/LogMlflowBatch": access(Role.MEMBER, run_token=True),
    f"/{NAME}/LogMlflowInputs": access(Role.MEMBER, run_token=True),
    f"/{NAME}/ListMlflowPoints": access(Role.VIEWER, run_token=True),
}
_MOST: Final = 50_000
_MOST_POINTS: Final = 100_000
_MOST_RUNS: Final = 100
# Under the 4 MB of a message, with room for the last run of a page.
_PAGE_BYTES: Final = 2_500_000

Context = aio.ServicerContext[Any, Any]


class MlflowApi(mlflow_pb2_grpc.MlflowServiceServicer):
    """Experiments and runs in the words of MLflow's clients."""

    def __init__(self, *, db: Database, store: ClickHouse, pending: Pending, clock: Clock) -> None:
        self._db = db
        self._experiments = Experiments(db=db, clock=clock)
        self._runs = Runs(db=db, pending=pending, clock=clock, experiments=self._experiments)
        self._history = History(db=db, store=store, pending=pending)

    async def CreateMlflowExperiment(
        self, request: pb.CreateMlflowExperimentRequest, context: Context
    ) -> pb.MlflowExperiment:
        """Makes an experiment of this name."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        made = await self._experiments.create(team, request.name, dict(request.tags))
        return wire.experiment(team, made)

    async def GetMlflowExperiment(
        self, request: pb.GetMlflowExperimentRequest, context: Context
    ) -> pb.MlflowExperiment:
        """One experiment, deleted or not."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        if request.name:
            return wire.experiment(team, await self._experiments.named(team, request.name))
        return wire.experiment(team, await self._experiments.get(team, request.experiment_id))

    async def SearchMlflowExperiments(
        self, request: pb.SearchMlflowExperimentsRequest, context: Context
    ) -> pb.SearchMlflowExperimentsResponse:
        """Experiments for which a filter holds, newest first or as asked."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        await self._experiments.ensure_default(team)
        limit = _limit(request.limit)
        found = await mlflow_experiments.find(
            self._db,
            team,
            clauses=grammar.parse(request.filter, EXPERIMENTS),
            order=grammar.parse_order(request.order_by, EXPERIMENTS),
            view=request.view,
            offset=_offset(request.offset),
            limit=limit + 1,
        )
        page = [wire.experiment(team, item) for item in found[:limit]]
        fitting = _fitting(page)
        return pb.SearchMlflowExperimentsResponse(experiments=page[:fitting], more=fitting < len(found))

    async def UpdateMlflowExperiment(
        self, request: pb.UpdateMlflowExperimentRequest, context: Context
    ) -> pb.MlflowExperiment:
        """Renames, tags, deletes or restores."""
        team = team_of(caller(), request.parent, Role.MEMBER)
        changed = await self._experiments.update(
            team,
            request.experiment_id,
            name=request.name if request.HasField("name") else None,
            deleted=request.deleted if request.HasField("deleted") else None,
            set_tags=dict(request.set_tags),
            delete_tags=list(request.delete_tags),
        )
        return wire.experiment(team, changed)

    async def CreateMlflowRun(self, request: pb.CreateMlflowRunRequest, context: Context) -> pb.MlflowRun:
        """Makes a run without a job."""
        who = caller()
        team = team_of(who, request.parent, Role.MEMBER)
        made = await self._runs.create(
            team,
            request.experiment_id,
            creator=who.subject,
            name=request.run_name,
            user_id=request.user_id,
            start_time=(
                wire.moment(request.start_time, "start_time") if request.HasField("start_time") else None
            ),
            tags=dict(request.tags),
        )
        return await self._told(made, as_json=request.as_json)

    async def GetMlflowRun(self, request: pb.GetMlflowRunRequest, context: Context) -> pb.MlflowRun:
        """One run, deleted or not."""
        key = _own(request.parent, request.run_id, Role.VIEWER)
        return await self._told(key, as_json=request.as_json)

    async def SearchMlflowRuns(
        self, request: pb.SearchMlflowRunsRequest, context: Context
    ) -> pb.SearchMlflowRunsResponse:
        """Runs of some experiments for which a filter holds, newest first or as asked."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        numbers = [experiment_number(text) for text in request.experiment_ids]
        limit = _limit(request.limit)
        wanted = mlflow_runs.Search(
            team=team,
            experiments=await mlflow_experiments.numbers(self._db, team, numbers),
            clauses=grammar.parse(request.filter, RUNS),
            order=grammar.parse_order(request.order_by, RUNS),
            view=request.view,
            offset=_offset(request.offset),
            limit=limit + 1,
        )
        found = await self._runs.find(wanted, written=request.as_json)
        page = [wire.run(item, as_json=request.as_json) for item in found[:limit]]
        fitting = _fitting(page)
        return pb.SearchMlflowRunsResponse(runs=page[:fitting], more=fitting < len(found))

    async def UpdateMlflowRun(self, request: pb.UpdateMlflowRunRequest, context: Context) -> pb.MlflowRun:
        """Ends a run, lets it go on, renames, deletes or restores it, or takes tags away."""
        key = _own(request.parent, request.run_id, Role.MEMBER)
        if caller().is_run and request.HasField("deleted"):
            raise PermissionDenied("a run's token does not delete", reason=Reason.SCOPE_TOO_LOW)
        if request.status and request.status not in wire.STATUSES:
            raise InvalidArgument(
                f"status: '{request.status[:40]}' is none of {', '.join(wire.STATUSES)}", field="status"
            )
        await self._runs.update(
            key,
            state=wire.STATUSES[request.status] if request.status else None,
            end_time=wire.moment(request.end_time, "end_time") if request.HasField("end_time") else None,
            name=request.run_name,
            deleted=request.deleted if request.HasField("deleted") else None,
            delete_tags=list(request.delete_tags),
        )
        return await self._told(key, as_json=request.as_json)

    async def _told(self, key: RunKey, *, as_json: bool) -> pb.MlflowRun:
        return wire.run(await self._runs.get(key, written=as_json), as_json=as_json)

    async def LogMlflowBatch(
        self, request: pb.LogMlflowBatchRequest, context: Context
    ) -> pb.LogMlflowBatchResponse:
        """Metrics, params and tags of a run, all or nothing."""
        key = _own(request.parent, request.run_id, Role.MEMBER)
        batch = Batch(
            keys=list(request.metric_keys),
            values=list(request.metric_values),
            times=list(request.metric_times),
            steps=list(request.metric_steps),
            params=dict(request.params),
            tags=dict(request.tags),
        )
        await self._runs.log(key, batch)
        return pb.LogMlflowBatchResponse()

    async def LogMlflowInputs(
        self, request: pb.LogMlflowInputsRequest, context: Context
    ) -> pb.LogMlflowInputsResponse:
        """Datasets and models that a run read, models that it made."""
        key = _own(request.parent, request.run_id, Role.MEMBER)
        uses = [
            mlflow_runs.ModelUse(item.model_id, item.step, made)
            for items, made in ((request.model_inputs, False), (request.model_outputs, True))
            for item in items
        ]
        await self._runs.log_inputs(key, wire.inputs(request.datasets), uses)
        return pb.LogMlflowInputsResponse()

    async def ListMlflowPoints(
        self, request: pb.ListMlflowPointsRequest, context: Context
    ) -> pb.ListMlflowPointsResponse:
        """All points of one metric of some runs."""
        team = team_of(caller(), request.parent, Role.VIEWER)
        if not 1 <= len(request.run_ids) <= _MOST_RUNS:
            raise InvalidArgument(
                f"run_ids: {len(request.run_ids)} were given; 1 to {_MOST_RUNS} can be asked for at once",
                field="run_ids",
            )
        for uid in request.run_ids:
            _own(request.parent, uid, Role.VIEWER)
        limit = min(request.limit or _MOST_POINTS, _MOST_POINTS)
        wanted = Range(
            key=request.metric_key,
            offset=_offset(request.offset),
            limit=limit + 1,
            first=request.start_step if request.HasField("start_step") else None,
            last=request.end_step if request.HasField("end_step") else None,
        )
        runs, steps, times, values = await self._history.read(team, list(request.run_ids), wanted)
        places = {uid: place for place, uid in enumerate(request.run_ids)}
        return pb.ListMlflowPointsResponse(
            runs=[places[uid] for uid in runs[:limit]],
            steps=steps[:limit],
            times=times[:limit],
            values=[wire.finite(value) for value in values[:limit]],
            more=len(runs) > limit,
        )


def _own(parent: str, uid: str, role: Role) -> RunKey:
    """The run of a team in which the caller has this role; a run's token only for itself."""
    who = caller()
    key = RunKey(team_of(who, parent, role), uid)
    if who.is_run and who.run_uid != uid:
        raise unknown_run(uid)
    return key


def _limit(limit: int) -> int:
    if not 1 <= limit <= _MOST:
        raise InvalidArgument(f"limit: {limit}; 1 to {_MOST:,} can be asked for at once", field="limit")
    return limit


def _offset(offset: int) -> int:
    if offset < 0:
        raise InvalidArgument(f"offset: {offset} is negative", field="offset")
    return offset


def _fitting(page: list[Any]) -> int:
    """How many fit into one answer; at least one."""
    size = 0
    for place, item in enumerate(page):
        size += item.ByteSize()
        if size > _PAGE_BYTES and place:
            return place
    return len(page)
