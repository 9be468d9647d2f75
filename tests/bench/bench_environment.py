"""How long a job waits for its environment, the first time and the second: prints one JSON line.

``python tests/bench/bench_environment.py [REQUIREMENT ...]``; without any, an environment of pip alone. The
time is the runner's whole, from its start to the end of `true`, and the same without an environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cairn._ids import new_uid

REPEATS = 5


def attempt(root: Path, environment: dict[str, Any] | None) -> float:
    """Seconds until end.json is there."""
    folder = root / new_uid()
    folder.mkdir(mode=0o700)
    (folder / "token").write_text("none")
    launch = {
        "team": "main", "run_uid": new_uid(), "attempt_uid": folder.name, "attempt": 1, "run": "true",
        "path": os.environ["PATH"], "environment": environment, "environments": str(root / "environments"),
    }  # fmt: skip
    (folder / "launch.json").write_text(json.dumps(launch))
    begin = time.perf_counter()
    runner = subprocess.Popen(
        [sys.executable, "-P", "-m", "cairn._runner", str(folder)], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (folder / "end.json").exists():
        if runner.poll() is not None:
            raise SystemExit(f"the runner ended without a word: {folder}")
        time.sleep(0.002)
    taken = time.perf_counter() - begin
    end = json.loads((folder / "end.json").read_text())
    runner.terminate()
    runner.wait()
    if end["exit_code"] != 0:
        raise SystemExit(f"{end['message']} {end['last_lines']}")
    return taken


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        root = Path(folder)
        environment = {"requirements": sys.argv[1:]}
        built = attempt(root, environment)
        again = sorted(attempt(root, environment) for _ in range(REPEATS))
        without = sorted(attempt(root, None) for _ in range(REPEATS))
    middle = REPEATS // 2
    result = {
        "built_s": round(built, 2),
        "again_s": round(again[middle], 2),
        "again_most_s": round(again[-1], 2),
        "without_s": round(without[middle], 2),
    }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main()
