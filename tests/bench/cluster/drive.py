"""Submits workloads at their times, each until it is known to be in, and waits for their end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from grpc import StatusCode, aio

from cairn.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from tests.bench.cluster.generators import Workload, task
from tests.bench.cluster.platform import Platform

_AWAY = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
_CHANNELS = 4
_TICK = 0.02


@dataclass
class Submitted:
    """What came of it: seconds of each call, from when it was due; the tries that were one too few."""

    begun: float = 0.0
    over: float = 0.0
    late: list[float] = field(default_factory=list)
    tried_again: int = 0


async def submit(platform: Platform, work: Sequence[Workload], *, prefix: str = "") -> Submitted:
    """Every workload once, at its time, whatever is killed meanwhile."""
    stubs = [await platform.jobs() for _ in range(_CHANNELS)]
    told = Submitted(begun=time.time())
    begun = time.monotonic()
    async with asyncio.TaskGroup() as calls:
        for due, group in _ticks(work):
            await asyncio.sleep(max(0.0, begun + due - time.monotonic()))
            for one in group:
                stub = random.choice(stubs)  # noqa: S311
                calls.create_task(_create(stub, one, told, begun, prefix))
    told.over = time.time()
    return told


def _ticks(work: Sequence[Workload]) -> Iterator[tuple[float, list[Workload]]]:
    """Workloads together that are due within one tick."""
    group: list[Workload] = []
    for one in work:
        if group and one.at - group[0].at > _TICK:
            yield group[-1].at, group
            group = []
        group.append(one)
    if group:
        yield group[-1].at, group


async def _create(
    stub: scheduler_pb2_grpc.SchedulerServiceAsyncStub,
    one: Workload,
    told: Submitted,
    begun: float,
    prefix: str,
) -> None:
    request = scheduler_pb2.CreateJobRequest(
        parent=f"teams/{one.team}",
        task=task(one.kind),
        display_name=one.id,
        request_id=f"{prefix}{one.team}-{one.id}",
    )
    while True:
        try:
            await stub.CreateJob(request, timeout=30)
        except aio.AioRpcError as error:
            if error.code() not in _AWAY:
                raise
            told.tried_again += 1
            await asyncio.sleep(random.uniform(0.1, 0.3))  # noqa: S311
        else:
            told.late.append(time.monotonic() - begun - one.at)
            return


async def all_ended(platform: Platform, count: int, *, timeout: float, since: float = 0.0) -> float:
    """Waits until so many jobs have ended; returns when the last one did."""
    db = await platform.database("scheduler")
    async with asyncio.timeout(timeout):
        while True:
            try:
                row = await db.fetchrow(
                    "SELECT count(end_time) AS ended, extract(epoch FROM max(end_time))::float8 AS last"
                    " FROM jobs WHERE create_time >= to_timestamp($1)",
                    since,
                )
            except Exception as error:
                # The database itself may be the one that was killed.
                if type(error).__name__ != "Unavailable":
                    raise
                row = None
            if row is not None and row["ended"] >= count:
                return float(row["last"])
            await asyncio.sleep(0.25)
