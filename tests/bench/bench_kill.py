"""kill -9 while Kueue's baseline runs: ``python -m tests.bench.bench_kill [TIMES [SHARE]]``, one JSON line.

Scheduler, quota, PostgreSQL and NATS are killed TIMES (2) times each at random points of the run, and started
again at once, as their supervisor does. Each time a probe is submitted to a team of its own, again and again
until it is in; `launched_s`: from the SIGKILL until it runs, `metered_s`: until quota has heard of its end
over the bus. Afterwards nothing may be lost, doubled or over its quota, by what the place itself has noted.
SHARE of each class's workloads is enough (1: all). Whatever does not come back within a minute ends the run
with an error that names it, and the ends of the services' logs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import random
import sys
import time

import structlog
from grpc import aio

from cairn.scheduler.v1 import job_pb2, scheduler_pb2
from cairn_common.errors import Unavailable
from tests.bench.bench_kueue import judge
from tests.bench.cluster import parks, verdict
from tests.bench.cluster.drive import all_ended, submit
from tests.bench.cluster.generators import BASELINE, Shape, creators, tree
from tests.bench.cluster.platform import Platform, running

VICTIMS = ("scheduler", "quota", "postgres", "nats")
BAR = 5.0
TIMEOUT = 600.0
_BACK_WITHIN = 60.0
_APART = (4.0, 9.0)
_QUIET = 90.0
_STARTED = "SELECT 1 FROM jobs WHERE uid = $1 AND start_time IS NOT NULL"


@dataclasses.dataclass
class Kill:
    """One of them, and how long it took to be back."""

    victim: str
    launched: float
    metered: float


async def restart(platform: Platform, victim: str) -> None:
    """kill -9, and a new process at once."""
    if victim == "postgres":
        await asyncio.to_thread(platform.postgres.restart)
    elif victim == "nats":
        await asyncio.to_thread(platform.nats.restart)
    else:
        platform.services[victim].kill()
        platform.services[victim].start()


async def probe(platform: Platform, number: int) -> job_pb2.Job:
    """A job of the team `probe`, once it is in."""
    stub = await platform.jobs()
    request = scheduler_pb2.CreateJobRequest(
        parent="teams/probe", task=parks.task(seconds=0.01), request_id=f"probe-{number}"
    )
    while True:
        try:
            return await stub.CreateJob(request, timeout=10)
        except aio.AioRpcError:
            await asyncio.sleep(0.02)


async def seen(platform: Platform, schema: str, query: str, uid: str) -> None:
    """Waits until the query has a row."""
    db = await platform.database(schema)
    while True:
        try:
            if await db.fetchval(query, uid):
                return
        except Unavailable:
            pass
        await asyncio.sleep(0.02)


async def kill(platform: Platform, victim: str, number: int) -> Kill:
    """Kills one, and waits until the platform does all of its work again. Raises TimeoutError where it does
    not, and whatever keeps the victim from being started again."""
    begun, missing = time.monotonic(), "a probe that is taken"
    try:
        async with asyncio.timeout(_BACK_WITHIN), asyncio.TaskGroup() as work:
            work.create_task(restart(platform, victim))
            job = await probe(platform, number)
            missing = f"that job {job.uid} runs"
            await seen(platform, "scheduler", _STARTED, job.uid)
            launched = time.monotonic() - begun
            missing = f"that quota hears of job {job.uid}"
            await seen(platform, "quota", "SELECT 1 FROM usage_entries WHERE job_uid = $1", job.uid)
            metered = time.monotonic() - begun
    except TimeoutError:
        raise TimeoutError(
            f"{_BACK_WITHIN:.0f} s after kill -9 of {victim} there is still missing: {missing}"
        ) from None
    return Kill(victim, launched, metered)


async def killing(platform: Platform, times: int) -> list[Kill]:
    """All of them, in a random order, at random moments."""
    order = [victim for victim in VICTIMS for _ in range(times)]
    random.shuffle(order)
    done = []
    for number, victim in enumerate(order):
        await asyncio.sleep(random.uniform(*_APART))
        done.append(await kill(platform, victim, number))
    return done


async def quiet(platform: Platform) -> dict[str, int]:
    """What quota says once it has heard everything: nothing is held any more."""
    db = await platform.database("quota")
    try:
        async with asyncio.timeout(_QUIET):
            while (found := await verdict.settled(db))["held"]:
                await asyncio.sleep(0.5)
    except TimeoutError:
        pass
    return found


def with_probe(shape: Shape) -> str:
    """The tree with one more team, which nobody is in the way of."""
    quota = "{rf: {gpu: {nominal: 4, borrow_limit: 0, lend_limit: 0}}}"
    return tree(shape).removesuffix("]}}") + f", {{team: probe, quotas: {quota}}}]}}}}"


async def main(times: int, share: float) -> None:
    """Runs it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    classes = tuple(dataclasses.replace(k, count=max(1, int(k.count * share))) for k in BASELINE.classes)
    shape = dataclasses.replace(BASELINE, classes=classes)
    async with running(with_probe(shape)) as platform:
        load = os.getloadavg()[0]
        # Submitting goes on for as long as somebody is away: who fails ends the other.
        async with asyncio.TaskGroup() as work:
            kills = work.create_task(killing(platform, times))
            told = await submit(platform, creators(shape))
        done = kills.result()
        last = await all_ended(platform, shape.jobs + len(done), timeout=TIMEOUT)
        figures = {
            "bench": "kill",
            "jobs": shape.jobs,
            "seconds": round(last - told.begun, 1),
            "kills": len(done),
            **await judge(platform, shape, besides=("probe",)),
            **await quiet(platform),
            "launched_s": {v: round(max(k.launched for k in done if k.victim == v), 2) for v in VICTIMS},
            "metered_s": {v: round(max(k.metered for k in done if k.victim == v), 2) for v in VICTIMS},
            "bar_seconds": BAR,
            "load_before": round(load, 1),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    numbers = sys.argv[1:]
    asyncio.run(main(int(numbers[0]) if numbers else 2, float(numbers[1]) if len(numbers) > 1 else 1.0))
