"""Parks of GPUs with teams, jobs for them, and waiting for what becomes of these."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cairn.scheduler.v1 import scheduler_pb2
from cairn_common.db import Database
from tests.bench.cluster.platform import Platform

_BATCH = 500


def tree(quotas: Sequence[tuple[str, int, int]], *, held: Sequence[str] = ()) -> str:
    """Teams with nominal GPUs and how many they may borrow; those that are `held` admit nothing."""
    teams = ", ".join(
        f"{{team: {team}, stop: {'hold' if team in held else 'none'},"
        f" quotas: {{h100: {{gpu: {{nominal: {nominal}, borrow_limit: {borrow}}}}}}}}}"
        for team, nominal, borrow in quotas
    )
    return (
        "{flavors: {h100: {}}, tree: {organisation: acme, preemption: {within: lower, reclaim: any},"
        f" children: [{teams}]}}}}"
    )


def task(*, gpus: int = 1, seconds: float = 3600) -> str:
    """Of one job."""
    return f"run: sleep {seconds}\nresources: {{accelerators: 'GPU:{gpus}', cpus: 1}}\n"


async def submit(platform: Platform, team: str, count: int, *, text: str = task(), name: str = "") -> None:
    """So many jobs, in batches."""
    stub = await platform.jobs()
    for at in range(0, count, _BATCH):
        requests = [
            scheduler_pb2.CreateJobRequest(task=text, request_id=f"{name}-{n}" if name else "")
            for n in range(at, min(at + _BATCH, count))
        ]
        batch = scheduler_pb2.BatchCreateJobsRequest(parent=f"teams/{team}", requests=requests)
        await stub.BatchCreateJobs(batch, timeout=60)


async def until(db: Database, true: str, count: int, *, timeout: float = 300) -> None:
    """Waits until as many jobs are as the condition says."""
    async with asyncio.timeout(timeout):
        while await db.fetchval(f"SELECT count(*) FROM jobs WHERE {true}") < count:
            await asyncio.sleep(0.02)
