"""MLflow's REST API through the gateway: ``python -m tests.bench.bench_mlflow [RUNS]`` prints one JSON line.

Milliseconds (p50, p95) of one client that waits for each answer: `log-metric`, `log-batch` of 1,000 points,
reading at once what was logged, and first pages of searches over 10,000 runs with 10 metrics and params each
unless told. A whole platform on this machine; what the client itself costs is in it.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tests.harness.people import port_of, secrets_in
from tests.harness.platform import Platform

TIMES = 200
SEARCHES = {
    "newest 100": {"max_results": 100},
    "metric": {"filter": "metrics.key1 > 0.99", "max_results": 1000},
    "metric and param": {"filter": "metrics.key1 > 0.9 AND params.opt = 'adam'", "max_results": 100},
    "tag like": {"filter": "tags.note LIKE '%7'", "max_results": 100},
    "by metric": {"order_by": ["metrics.key1 DESC"], "max_results": 100},
    "by param": {"order_by": ["params.lr ASC"], "max_results": 100},
    "none": {"filter": "metrics.key1 > 2", "max_results": 100},
    "newest 1000": {"max_results": 1000},
}

_RUNS = """
INSERT INTO runs (team, uid, display_name, create_time, update_time, state, creator, experiment, has_job,
    start_time, params, labels)
SELECT 'main', 'r' || n, 'run-' || n, now(), now(), 4, 'users/ada', $2, false,
    now() - n * interval '1 minute',
    jsonb_build_object('lr', random()::text, 'opt', (ARRAY['adam', 'sgd'])[1 + n % 2])
        || (SELECT jsonb_object_agg('p' || k, k::text) FROM generate_series(1, 8) k),
    jsonb_build_object('note', 'n' || n, 'mlflow.user', 'ada')
FROM generate_series(1, $1::integer) AS n
"""
_SUMMARIES = """
INSERT INTO summaries (team, run_uid, key, last, last_step, count, last_time)
SELECT 'main', 'r' || n, 'key' || k, random(), 100, 100, 1700000000000000
FROM generate_series(1, $1::integer) AS n, generate_series(1, 10) AS k
"""


class Caller:
    """One connection that stays open."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._http = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(self, path: str, **body: Any) -> Any:
        """What a POST answers."""
        text = json.dumps(body).encode()
        self._http.request("POST", f"/mlflow/api/2.0/mlflow/{path}", text, self._headers)
        return self._answer()

    def get(self, path: str) -> Any:
        """What a GET answers."""
        self._http.request("GET", f"/mlflow/api/2.0/mlflow/{path}", headers=self._headers)
        return self._answer()

    def _answer(self) -> Any:
        answer = self._http.getresponse()
        told = json.loads(answer.read())
        assert answer.status == 200, told
        return told


def timed(work: Callable[[int], Any], times: int) -> dict[str, float]:
    """Milliseconds of one call after the other."""
    taken = []
    for number in range(times):
        begin = time.perf_counter()
        work(number)
        taken.append((time.perf_counter() - begin) * 1000)
    taken.sort()
    return {"p50_ms": round(taken[times // 2], 2), "p95_ms": round(taken[times * 95 // 100], 2)}


async def fill(data: Path, runs: int, experiment: str) -> None:
    """Runs that are there already."""
    secret = secrets_in(data)["postgres"]["tracker"]
    url = f"postgresql://tracker:{secret}@127.0.0.1:{port_of(data, 'postgres')}/cairn"
    db = await asyncpg.connect(url)
    try:
        id = await db.fetchval("SELECT id FROM experiments WHERE number = $1", int(experiment))
        await db.execute(_RUNS, runs, id)
        await db.execute(_SUMMARIES, runs)
        await db.execute("ANALYZE runs")
        await db.execute("ANALYZE summaries")
    finally:
        await db.close()


def measure(caller: Caller, data: Path, runs: int) -> dict[str, Any]:
    """All figures."""
    result: dict[str, Any] = {}
    run_id = caller.post("runs/create", experiment_id="0")["run"]["info"]["run_id"]

    def log(number: int) -> None:
        caller.post("runs/log-metric", run_id=run_id, key="m", value=0.5, timestamp=number, step=number)

    timed(log, 20)
    result["log_metric"] = timed(log, TIMES)

    def batch(number: int) -> None:
        metrics = [
            {"key": f"k{place % 10}", "value": place / 3, "timestamp": 1_700_000_000_000 + number,
             "step": number * 100 + place // 10}
            for place in range(1000)
        ]  # fmt: skip
        caller.post("runs/log-batch", run_id=run_id, metrics=metrics)

    result["log_batch_1000"] = timed(batch, 50)
    result["log_batch_1000"]["points_per_s"] = round(1e6 / result["log_batch_1000"]["p50_ms"])
    result["read_after_write"] = timed(
        lambda number: (log(number), caller.get(f"metrics/get-history?run_id={run_id}&metric_key=m")), 20
    )
    result["get_run"] = timed(lambda _: caller.get(f"runs/get?run_id={run_id}"), 50)
    experiment = caller.post("experiments/create", name="searched")["experiment_id"]
    asyncio.run(fill(data, runs, experiment))
    for name, search in SEARCHES.items():
        result[f"search {name}"] = timed(
            lambda _, search=search: caller.post("runs/search", experiment_ids=[experiment], **search), 15
        )
    return result


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        os.chmod(folder, 0o755)
        platform = Platform(Path(folder))
        platform.up("--only", "tracker,gateway,quota")
        try:
            token = secrets_in(platform.data)["admin_token"]
            result = measure(Caller(platform.status()["url"], token), platform.data, runs)
        finally:
            platform.down()
    json.dump({"runs": runs, **result, "load": round(os.getloadavg()[0], 1)}, sys.stdout)
    print()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
