"""Submits workloads as Kueue's creators do, each until it is known to be in, and waits for their end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from grpc import StatusCode, aio

from cairn.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from cairn_common.errors import Unavailable
from tests.bench.cluster.generators import Creator, task
from tests.bench.cluster.platform import Platform

# CANCELLED: the server saw the deadline first.
_AWAY = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED)
_CHANNELS = 4
# A service answers 250 calls of one caller at a time (the guard of `cairn_common`).
_IN_FLIGHT = 200


@dataclass
class Submitted:
    """What came of it: seconds of each call, and how often one had to be made again."""

    begun: float = 0.0
    over: float = 0.0
    took: list[float] = field(default_factory=list)
    tried_again: int = 0


@dataclass
class _Creators:
    """Those of one run, with the connections that they share."""

    stubs: Sequence[scheduler_pb2_grpc.SchedulerServiceAsyncStub]
    told: Submitted
    gate: asyncio.Semaphore

    async def create(self, creator: Creator) -> None:
        """All of one creator's, each its interval after the last one was in."""
        stub = random.choice(self.stubs)
        for number in range(creator.kind.count):
            await asyncio.sleep(creator.kind.interval)
            request = scheduler_pb2.CreateJobRequest(
                parent=f"teams/{creator.team}",
                task=task(creator.kind),
                display_name=f"{creator.kind.name}-{number}",
                request_id=f"{creator.team}-{creator.kind.name}-{number}",
            )
            begun = time.monotonic()
            async with self.gate:
                await self._insist(stub, request)
            self.told.took.append(time.monotonic() - begun)

    async def _insist(
        self,
        stub: scheduler_pb2_grpc.SchedulerServiceAsyncStub,
        request: scheduler_pb2.CreateJobRequest,
    ) -> None:
        while True:
            try:
                await stub.CreateJob(request, timeout=30)
            except aio.AioRpcError as error:
                if error.code() not in _AWAY:
                    raise
                self.told.tried_again += 1
                await asyncio.sleep(random.uniform(0.1, 0.3))
            else:
                return


async def submit(platform: Platform, creators: Sequence[Creator]) -> Submitted:
    """Every workload once, whatever is killed meanwhile."""
    told = Submitted(begun=time.time())
    made = _Creators([await platform.jobs() for _ in range(_CHANNELS)], told, asyncio.Semaphore(_IN_FLIGHT))
    async with asyncio.TaskGroup() as work:
        for creator in creators:
            work.create_task(made.create(creator))
    told.over = time.time()
    return told


async def all_ended(platform: Platform, count: int, *, timeout: float, since: float = 0.0) -> float:
    """Waits until so many jobs have ended; returns when the last one did."""
    db = await platform.database("scheduler")
    row, end = None, time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            row = await db.fetchrow(
                "SELECT count(end_time) AS ended, extract(epoch FROM max(end_time))::float8 AS last"
                " FROM jobs WHERE create_time >= to_timestamp($1)",
                since,
            )
        except Unavailable:
            # The database itself may be the one that was killed.
            row = None
        if row is not None and row["ended"] >= count:
            return float(row["last"])
        await asyncio.sleep(0.25)
    ended = "the database does not tell how many" if row is None else row["ended"]
    raise TimeoutError(f"of {count} jobs {ended} have ended after {timeout:.0f} s")
