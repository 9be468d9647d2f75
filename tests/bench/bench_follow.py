"""How long after a job has written a line somebody who follows its log sees it: prints one JSON line.

``python -m tests.bench.bench_follow [local|slurm] [LINES]``. The job writes the time every 100 ms, and its
log is followed by `cairn logs -f` as a person would. For `slurm` as root, with a recipe (see
tests/harness/slurm.py).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.bench_end_seen import place
from tests.harness.platform import Platform


def delays(platform: Platform, infra: str, count: int) -> list[float]:
    """Seconds from each line's writing to its sight."""
    loop = f"for i in $(seq {count}); do echo at $(date +%s.%N); sleep 0.1; done"
    job = platform.client(patience=600).submit(
        f"resources: {{infra: {infra}, cpus: 1, memory: 1}}\nrun: {loop}\n"
    )
    found: list[float] = []
    with subprocess.Popen(
        [platform.program, "logs", "-f", str(job["uid"])], env=platform.env, text=True, stdout=subprocess.PIPE
    ) as following:
        assert following.stdout is not None
        for line in following.stdout:
            if " at " in f" {line}":
                found.append(time.time() - float(line.split(" at ")[-1].split()[-1]))
    assert len(found) == count, f"{len(found)} of {count} lines were seen"
    return found


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "local"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    with (
        tempfile.TemporaryDirectory(prefix="cairn-bench-", ignore_cleanup_errors=True) as folder,
        place(name, Path(folder)) as (platform, infra, _),
    ):
        took = sorted(delays(platform, infra, count))
    result = {
        "where": name,
        "lines": count,
        "p50_ms": round(1000 * statistics.median(took)),
        "p99_ms": round(1000 * took[int(0.99 * (count - 1))]),
        "most_ms": round(1000 * took[-1]),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
