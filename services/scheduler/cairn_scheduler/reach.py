"""InfraService: where jobs can run, and where a task would go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from cairn.scheduler.v1 import infra_pb2, infra_pb2_grpc, outlook_pb2, scheduler_pb2
from cairn_common.auth import Role, access, require
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import FailedPrecondition, InvalidArgument, Reason, Unavailable
from cairn_common.rpc import caller
from cairn_scheduler import circuits, submit, ways, wire
from cairn_scheduler.circuits import Circuit
from cairn_scheduler.cluster import Cluster
from cairn_scheduler.infra import Accelerator, Infra, InfraState, NoPlacement, Placement, Survey
from cairn_scheduler.model import Job, pool_of
from cairn_scheduler.places import Place
from cairn_scheduler.quota import Quota
from cairn_scheduler.terms import Reading

NAME = "cairn.scheduler.v1.InfraService"
ACCESS = {
    f"/{NAME}/ListInfras": access(Role.VIEWER),
    f"/{NAME}/PlanJob": access(Role.MEMBER),
}

Context = grpc.aio.ServicerContext[Any, Any]


class InfraApi(infra_pb2_grpc.InfraServiceServicer):
    """Handlers: ask the clusters, and put together what they say."""

    def __init__(
        self,
        db: Database,
        *,
        clusters: Mapping[str, Cluster],
        clock: Clock,
        forecast: Callable[[Job], Awaitable[outlook_pb2.Explanation]],
        quota: Quota,
    ) -> None:
        """`forecast`: why a job would wait, were it submitted now."""
        self._db = db
        self._clusters = clusters
        self._clock = clock
        self._forecast = forecast
        self._reading = Reading(quota, places=self._places, clock=clock)

    def _known(self) -> Mapping[str, Cluster]:
        if not self._clusters:
            raise Unavailable("the scheduler that answers does not decide, so it has no places; ask again")
        return self._clusters

    async def ListInfras(
        self, request: infra_pb2.ListInfrasRequest, context: Context
    ) -> infra_pb2.ListInfrasResponse:
        """This machine, and what SkyPilot reaches."""
        self._check_deciding()
        clusters = [cluster for _, cluster in sorted(self._known().items())]
        surveys = await asyncio.gather(*(one.survey(refresh=request.refresh) for one in clusters))
        if pool_of("any") not in self._known():
            surveys.append(Survey((_no_skypilot(),)))
        shut = circuits.derive(await ways.tries(self._db, now=self._clock.now()))
        return infra_pb2.ListInfrasResponse(
            infras=[_infra_message(infra, shut) for survey in surveys for infra in survey.infras],
            complete=all(survey.complete for survey in surveys),
        )

    async def PlanJob(self, request: infra_pb2.PlanJobRequest, context: Context) -> infra_pb2.PlanJobResponse:
        """Where a task would go, and whether it would start now."""
        require(caller(), submit.team_of(request.parent), Role.MEMBER)
        self._check_deciding()
        draft = await self._draft(request)
        spec = draft.jobs[0].spec
        try:
            placements = await self._known()[spec.pool].placements(spec)
        except NoPlacement as error:
            if error.passing:
                raise Unavailable(str(error), neighbour=spec.infra) from None
            raise FailedPrecondition(
                f"the job could never run there: {error}",
                reason=Reason.CAPACITY_IMPOSSIBLE,
                path="resources",
            ) from None
        messages = [_placement_message(one, nodes=spec.num_nodes) for one in placements]
        outlook = await self._forecast(draft.jobs[0])
        return infra_pb2.PlanJobResponse(placements=messages, jobs=len(draft.jobs), outlook=outlook)

    def _check_deciding(self) -> None:
        """Raises Unavailable in a replica that waits: the places to run are the other's."""
        if not self._clusters:
            raise Unavailable("this scheduler waits while another one decides; ask again")

    async def _draft(self, request: infra_pb2.PlanJobRequest) -> submit.Draft:
        """As CreateJob or CreateSweep would make it. Raises what they would."""
        fields: dict[str, Any] = {
            "parent": request.parent, "task": request.task, "code": request.code, "secrets": request.secrets,
            "mounts": request.mounts, "validate_only": True,
        }  # fmt: skip
        job = scheduler_pb2.CreateJobRequest(**fields)
        terms = await self._reading.terms(submit.team_of(request.parent), job)
        try:
            return submit.draft_job(job, terms)
        except InvalidArgument as error:
            if error.metadata.get("path") != "cairn.sweep":
                raise
        return submit.draft_sweep(scheduler_pb2.CreateSweepRequest(**fields), terms)

    def _places(self) -> list[Place]:
        return [Place(name, cluster.capacity()) for name, cluster in sorted(self._known().items())]


def _infra_message(infra: Infra, shut: Mapping[str, Circuit]) -> infra_pb2.Infra:
    return infra_pb2.Infra(
        name=f"infras/{infra.name}",
        state=infra_pb2.Infra.State.Value(infra.state.value),
        problem=infra.problem,
        remedy=infra.remedy,
        accelerators=[_accelerator_message(one) for one in infra.accelerators],
        nodes=infra.nodes,
        cpu_milli=infra.cpu_milli,
        free_cpu_milli=infra.free_cpu_milli,
        circuits=[
            infra_pb2.Circuit(
                name=one.name, failures=one.failures, next_try_time=wire.timestamp(one.probe_at)
            )
            for one in shut.values()
            if _is_of(one.name, infra.name)
        ],
    )


def _is_of(circuit: str, infra: str) -> bool:
    place = circuit.partition(" ")[0]
    return place == infra or place.startswith(f"{infra}/")


def _accelerator_message(one: Accelerator) -> infra_pb2.Accelerator:
    return infra_pb2.Accelerator(
        kind=one.kind,
        counts=one.counts,
        total=one.total,
        free=one.free,
        price=one.price,
        spot_price=one.spot_price,
    )


def _placement_message(one: Placement, *, nodes: int) -> infra_pb2.Placement:
    return infra_pb2.Placement(
        infra=one.infra,
        instance=one.instance,
        accelerators=one.accelerators,
        cpu_milli=None if one.cpus is None else round(one.cpus * 1000),
        memory_gib=one.memory_gib,
        num_nodes=nodes,
        price=one.price,
        spot=one.spot,
    )


def _no_skypilot() -> Infra:
    return Infra(
        pool_of("any"),
        InfraState.DISABLED,
        "SkyPilot is not started: jobs run on this machine alone",
        "start by `cairn up --skypilot`, or name its API server by CAIRN_SKYPILOT_URL",
    )
