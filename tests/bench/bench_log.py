"""What `cairn.log` costs its caller: ``python tests/bench/bench_log.py`` prints one JSON line."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

# Metrics in one call, and how many calls.
CASES = ((1, 50_000), (10, 50_000), (100, 10_000), (10_000, 200))


def measure(count: int, calls: int) -> dict[str, float]:
    import cairn

    values = {f"metric/{number}": float(number) for number in range(count)}
    for step in range(min(calls, 100)):
        cairn.log(values, step=step)
    taken = []
    for step in range(calls):
        begin = time.perf_counter_ns()
        cairn.log(values, step=step)
        taken.append(time.perf_counter_ns() - begin)
    taken.sort()
    return {
        "p50": taken[calls // 2] / 1000,
        "p99": taken[calls * 99 // 100] / 1000,
        "max": taken[-1] / 1000,
    }


def main() -> None:
    os.chdir(tempfile.mkdtemp(prefix="cairn-bench-"))
    os.environ.update(CAIRN_CONFIG=os.path.abspath("none.json"), CAIRN_URL="", CAIRN_TOKEN="")
    begin = time.perf_counter()
    import cairn

    imported = time.perf_counter()
    cairn.init()
    ready = time.perf_counter()
    result: dict[str, object] = {
        "import_ms": round((imported - begin) * 1000, 1),
        "init_ms": round((ready - imported) * 1000, 1),
        "log_us": {str(count): measure(count, calls) for count, calls in CASES},
    }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
