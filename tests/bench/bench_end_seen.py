"""How long after a job's process has ended everybody sees it: prints one JSON line.

``python -m tests.bench.bench_end_seen [local|slurm] [JOBS]``. The job's last act is to write down the time;
that is held against when the live updates tell a caller of the job's final state. For `slurm` as root, with a
recipe (see tests/harness/slurm.py).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import slurm
from tests.harness.platform import Platform

FINAL = ("SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT")


@contextmanager
def place(name: str, folder: Path) -> Iterator[tuple[Platform, str, Path]]:
    """A platform, the infra to name, and a folder that its jobs can write to."""
    if name == "local":
        platform, infra, shared = Platform(folder, CAIRN_LOCAL_CPUS="4"), "local", folder
        where = None
    else:
        where = slurm.up()
        platform, infra = Platform(folder, CAIRN_SKYPILOT_URL=where.url), f"slurm/{slurm.CLUSTER}"
        shared = where.home / "run" / "tmp" / folder.name
        shared.mkdir()
        shared.chmod(0o777)
    platform.up()
    try:
        yield platform, infra, shared
    finally:
        platform.down()
        if where is not None:
            slurm.down(where)


def measure(platform: Platform, infra: str, shared: Path, count: int) -> list[float]:
    """Seconds from each job's end to the sight of it."""
    client = platform.client(patience=600)
    uids: set[str] = set()
    seen: dict[str, float] = {}
    for event in client.events():
        if event.type == "open" and not uids:
            # Slurm takes four at a time in any case; here, one after the other.
            for _ in range(count):
                run = f"run: sleep 3; date +%s.%N > {shared}/$CAIRN_RUN\n"
                task = f"resources: {{infra: {infra}, cpus: 1, memory: 1}}\n{run}"
                uids.add(str(client.submit(task)["uid"]))
        uid, state = str(event.data.get("uid", "")), event.data.get("state")
        if uid in uids and state in FINAL and event.data.get("spec") is not None:
            assert state == "SUCCEEDED", event.data
            seen.setdefault(uid, time.time())
        if len(seen) == count:
            break
    return [seen[uid] - float((shared / uid).read_text()) for uid in seen]


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "local"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    with (
        tempfile.TemporaryDirectory(prefix="cairn-bench-", ignore_cleanup_errors=True) as folder,
        place(name, Path(folder)) as (platform, infra, shared),
    ):
        took = measure(platform, infra, shared, count)
    result = {
        "where": name,
        "jobs": count,
        "median_ms": round(1000 * statistics.median(took)),
        "most_ms": round(1000 * max(took)),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
