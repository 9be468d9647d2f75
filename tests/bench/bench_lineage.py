"""Lineage over many edges: ``python -m tests.bench.bench_lineage [EDGES]`` prints one JSON line.

Of each shape the milliseconds (least, p50, most) from the call to the answer's bytes, on real PostgreSQL,
among as many versions that have nothing to do with it: 10,000 edges unless told.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from cairn_common.db import Database, pool
from cairn_common.migrate import migrate
from cairn_tracker.api.lineage import _message
from cairn_tracker.lineage import trace
from cairn_tracker.store.lineage import RUN, VERSION, Key
from tests.harness import servers

TIMES = 20

_RUNS = """
INSERT INTO runs (team, uid, display_name, create_time, update_time, state, experiment, has_job)
SELECT 'main', $1 || n, 'run-' || n, now(), now(), 4, 'default', false
FROM generate_series(1, $2::integer) AS n
"""
_ARTIFACT = """
INSERT INTO artifacts (team, id, uid, kind, create_time, latest_version)
VALUES ('main', $1, $1, 3, now(), $2::integer)
"""
_VERSIONS = """
INSERT INTO versions (team, artifact, number, uid, kind, create_time, creator, run_uid, size, digest)
SELECT 'main', $1, n, $1 || n, 3, now(), 'users/ada', CASE WHEN $3 = '' THEN '' ELSE $3 || n END, 1, 'x'
FROM generate_series(1, $2::integer) AS n
"""
_USES = """
INSERT INTO uses (team, run_uid, version_uid, create_time)
SELECT 'main', $1 || n, $2 || greatest(CASE WHEN $3 THEN 1 ELSE n - 1 END, 1), now()
FROM generate_series(2, $4::integer) AS n
"""
_SOURCES = """
INSERT INTO sources (version_uid, position, source_uid)
SELECT 'layer' || n, k, 'layer' || (n - 50 - (n * 7 + k * 13) % 50)
FROM generate_series(101, $1::integer) AS n, generate_series(0, 1) AS k
"""


async def fill(db: Database, edges: int) -> dict[str, Key]:
    """A chain of runs and versions, many runs of one dataset, layers of versions; and what to ask of."""
    half = edges // 2
    async with db.dedicated() as conn:
        for shape, fan in (("chain", False), ("fan", True)):
            await conn.execute(_RUNS, f"{shape}run", half)
            await conn.execute(_ARTIFACT, shape, half)
            await conn.execute(_VERSIONS, shape, half, f"{shape}run")
            await conn.execute(_USES, f"{shape}run", shape, fan, half)
        for alone in ("layer", "other"):
            await conn.execute(_ARTIFACT, alone, half)
            await conn.execute(_VERSIONS, alone, half, "")
        await conn.execute(_SOURCES, half)
        for table in ("runs", "versions", "uses", "sources"):
            await conn.execute(f"VACUUM ANALYZE {table}")
    return {
        "chain, up": (VERSION, f"chain{half}"),
        "chain, down": (RUN, "chainrun1"),
        "fan, down": (VERSION, "fan1"),
        "layers, up": (VERSION, f"layer{half}"),
        "layers, both": (VERSION, f"layer{half // 2}"),
    }


async def measure(db: Database, root: Key, shape: str) -> dict[str, float]:
    up, down = not shape.endswith("down"), not shape.endswith("up")
    taken, found = [], 0
    for _ in range(TIMES):
        begin = time.perf_counter()
        graph = await trace(db, "main", root, up=up, down=down, most=20_000)
        answer = _message("main", graph).SerializeToString()
        taken.append((time.perf_counter() - begin) * 1000)
        found = len(graph.edges)
    taken.sort()
    return {
        "edges": found,
        "least_ms": round(taken[0], 1),
        "p50_ms": round(taken[TIMES // 2], 1),
        "most_ms": round(taken[-1], 1),
        "bytes": len(answer),
    }


async def main(edges: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        os.chmod(folder, 0o755)
        server = await asyncio.to_thread(servers.start_postgres, Path(folder))
        try:
            await asyncio.to_thread(server.create_database, "bench")
            url = await asyncio.to_thread(server.create_schema, "bench", "tracker")
            await migrate(url, "tracker", files("cairn_tracker") / "migrations" / "postgres")
            async with pool(url, schema="tracker", size=4) as db:
                roots = await fill(db, edges)
                result = {shape: await measure(db, root, shape) for shape, root in roots.items()}
        finally:
            await asyncio.to_thread(server.stop)
    json.dump({"shapes": result, "load": round(os.getloadavg()[0], 1)}, sys.stdout)
    print()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
