"""What Cairn adds to a plain `sky launch`: prints one JSON line.

``python -m tests.bench.bench_sky_launch [PAIRS]``, as root, with a recipe for Slurm (tests/harness/slurm.py).
The same task goes to the same SkyPilot and the same Slurm by `sky launch` and by `cairn run` in turn, each on
a new cluster. The time is from the start of the command line to the first line of the task's own command.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.harness import slurm
from tests.harness.platform import Platform
from tests.harness.slurm import CLUSTER, Slurm

PATIENCE = 300.0


class Bench:
    """One SkyPilot with Slurm behind it, and a platform before it."""

    def __init__(self, where: Slurm, platform: Platform, folder: Path) -> None:
        self._slurm = where
        self._platform = platform
        self._folder = folder
        self._marks = where.home / "run" / "tmp" / folder.name
        self._marks.mkdir()
        self._marks.chmod(0o777)

    def by_sky(self, number: int) -> float:
        """Seconds by `sky launch`."""
        name = f"bench-{self._folder.name[-8:].lower().replace('_', 'x')}-{number}"
        taken = self._time(f"sky{number}", lambda task: self._sky("launch", "-y", "-d", "-c", name, task))
        self._sky("down", "-y", name)
        self._until(lambda: not self._slurm.allocations(name))
        return taken

    def by_cairn(self, number: int) -> float:
        """Seconds by `cairn run`."""
        taken = self._time(f"cairn{number}", self._cairn)
        self._until(lambda: not self._platform.client().orphans() and not self._slurm.allocations("cairn-"))
        return taken

    def _cairn(self, task: str) -> None:
        done = self._platform.cairn("run", task, "--detach")
        assert done.returncode == 0, done.stderr

    def _sky(self, *arguments: str) -> None:
        script = f'. {self._slurm.home}/run/env.sh; exec sky "$@"'
        done = subprocess.run(
            ["bash", "-c", script, "sky", *arguments], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _time(self, mark: str, launch: Callable[[str], None]) -> float:
        file = self._marks / mark
        task = self._folder / f"{mark}.yaml"
        resources = f"resources: {{infra: slurm/{CLUSTER}, cpus: 1, memory: 1}}\n"
        task.write_text(f"{resources}run: date +%s.%N > {file}.new && mv {file}.new {file}\n")
        begin = time.time()
        launch(str(task))
        self._until(file.exists)
        return float(file.read_text()) - begin

    def _until(self, fact: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not fact():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    where = slurm.up()
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", ignore_cleanup_errors=True) as name:
        platform = Platform(Path(name), CAIRN_SKYPILOT_URL=where.url)
        platform.up()
        try:
            bench = Bench(where, platform, Path(name))
            # Once each, not counted: what is installed once, and workers that start.
            bench.by_sky(0), bench.by_cairn(0)
            times = []
            for number in range(1, pairs + 1):
                times.append((bench.by_sky(number), bench.by_cairn(number)))
                print(times[-1], file=sys.stderr, flush=True)
        finally:
            platform.down()
            slurm.down(where)
    sky, cairn = (statistics.median(column) for column in zip(*times, strict=True))
    result = {
        "sky_launch_s": round(sky, 2),
        "cairn_run_s": round(cairn, 2),
        "overhead_percent": round(100 * (cairn / sky - 1), 1),
        "pairs": [[round(one, 2) for one in pair] for pair in times],
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
