"""Trainings killed at any moment: ``python -m tests.bench.bench_rescue [ROUNDS]`` prints one JSON line.

Of as many rounds (100 unless told) on a platform of its own: how many went on from the last committed
checkpoint, and how many steps were lost at most; a checkpoint is saved every 10 steps.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.harness.platform import Platform
from tests.harness.rescue import INTERVAL, rounds


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        os.chmod(folder, 0o755)
        platform = Platform(Path(folder))
        platform.up()
        try:
            done = list(rounds(platform, Path(folder), count + 1, chance=random.Random()))
        finally:
            platform.down()
    pairs = list(itertools.pairwise(done))
    lost = [before.reached + 1 - after.begun for before, after in pairs]
    json.dump(
        {
            "rounds": len(pairs),
            "resumed": sum(after.begun > before.committed for before, after in pairs),
            "interval": INTERVAL,
            "most_lost": max(lost),
            "steps": done[-1].reached,
        },
        sys.stdout,
    )
    print()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
