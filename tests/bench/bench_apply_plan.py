"""How fast a plan of 4,000 admissions becomes durable, over gRPC, with PostgreSQL that waits for the disk.

    python -m tests.bench.bench_apply_plan [holds]

Prints one JSON line: seconds of the best and the median of five plans, and of ending all of one again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import structlog

from cairn.quota.v1 import allocation_pb2, plan_pb2
from cairn_common.ids import new_uid
from tests.harness import servers
from tests.harness.quota import running

TEAMS = 100
ROUNDS = 5
BUDGET = "{node: acme, unit: gpu-hours, amount: 100000000, window: {calendar: month}}"


def tree(holds: int) -> str:
    """As many nominal GPUs as are asked for in all rounds, and a budget that pays for all."""
    each = holds * (ROUNDS + 1) // TEAMS + 1
    teams = ", ".join(f"{{team: t{n}, quotas: {{h100: {{gpu: {each}}}}}}}" for n in range(TEAMS))
    return (
        f"{{flavors: {{h100: {{price: 2.5}}}}, tree: {{organisation: acme, children: [{teams}]}},"
        f" budgets: {{all: {BUDGET}}}}}"
    )


async def measure(
    holds: int, postgres: servers.Postgres, nats: servers.Nats, folder: Path
) -> dict[str, float]:
    """The figures."""
    postgres.create_database("bench")
    url = postgres.create_schema("bench", "quota")
    async with running(postgres_url=url, nats_url=nats.url, folder=folder) as quota:
        await (await quota.allocation()).ApplyTree(allocation_pb2.ApplyTreeRequest(document=tree(holds)))
        scheduler = await quota.allocation(quota.tokens.services["scheduler"])
        taken, ended, worked = [], [], []
        for _ in range(ROUNDS):
            asked = [
                plan_pb2.Hold(
                    name=f"teams/t{n % TEAMS}/reservations/{new_uid()}-1",
                    flavor="h100",
                    amounts={"gpu": 1000, "cpu": 4000, "jobs": 1000},
                    user="users/ada",
                )
                for n in range(holds)
            ]
            begun, busy = time.perf_counter(), time.process_time()
            answer = await scheduler.ApplyPlan(allocation_pb2.ApplyPlanRequest(holds=asked))
            taken.append(time.perf_counter() - begun)
            worked.append(time.process_time() - busy)
            if any(one.code != plan_pb2.Verdict.HELD for one in answer.verdicts):
                raise SystemExit(f"not all were held: {answer.verdicts[0]}")
            begun = time.perf_counter()
            await scheduler.ApplyPlan(allocation_pb2.ApplyPlanRequest(ends=[one.name for one in asked]))
            ended.append(time.perf_counter() - begun)
    return {
        "holds": holds,
        "seconds_best": round(min(taken), 3),
        "seconds_median": round(statistics.median(taken), 3),
        # Of Python, client and service together: what is left on a machine that does nothing else.
        "cpu_seconds_median": round(statistics.median(worked), 3),
        "ends_seconds_median": round(statistics.median(ended), 3),
        "bar_seconds": 1.0,
    }


def main() -> None:
    """Starts the servers, measures, prints."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres, nats = servers.start_postgres(folder / "pg"), servers.start_nats(folder / "nats")
        try:
            holds = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
            print(json.dumps(asyncio.run(measure(holds, postgres, nats, folder / "quota"))))
        finally:
            nats.stop()
            postgres.stop()


if __name__ == "__main__":
    main()
