"""A hundred random stops and crashes on a real Slurm, and what they leave: prints one JSON line.

``python -m tests.bench.soak_slurm [STOPS] [SEED]``, as root, with a recipe (see tests/harness/slurm.py).
Three jobs at a time are stopped at a random moment, one half on the way to their machine and the other
while they run; meanwhile scheduler, SkyPilot's API server and nats-server are killed with SIGKILL, and
allocations are taken from jobs as when their node dies. Every job has to end CANCELLED, never run twice at
once, and leave neither a cluster at SkyPilot nor an allocation at Slurm. About a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness import slurm
from tests.harness.platform import Platform
from tests.harness.slurm import Slurm
from tests.harness.told import new_folder, said, submit
from tests.harness.waiting import ended, until

LANES = 3
LONGEST = 45.0  # seconds that a job is left alone before it is stopped on its way
RUNS = 20.0  # seconds at most that one runs before it is stopped
BETWEEN = (15.0, 45.0)  # seconds between two crashes
PATIENCE = 900.0
CRASHES = ("scheduler", "skypilot", "nats", "allocation", "allocation")


@contextmanager
def world(folder: Path) -> Iterator[tuple[Slurm, Platform]]:
    """A Slurm, and a platform with a SkyPilot of its own in front of it."""
    where = slurm.up()
    platform = Platform(folder, CAIRN_LOCAL_CPUS="2", **where.equip(folder / "data"))
    platform.up("--skypilot")
    try:
        yield where, platform
    finally:
        platform.down()
        slurm.down(where)


class Soak:
    """The stops, and the crashes beside them."""

    def __init__(self, where: Slurm, platform: Platform, seed: int) -> None:
        self._slurm, self._platform, self._seed = where, platform, seed
        self._told = new_folder(where)
        self._over = threading.Event()
        self._ended = 0
        self.crashes: Counter[str] = Counter()

    def stops(self, count: int) -> list[dict[str, Any]]:
        """Submits and stops so many jobs; each as it ended."""
        crasher = threading.Thread(target=self._crash)
        crasher.start()
        try:
            with ThreadPoolExecutor(LANES) as lanes:
                return list(lanes.map(self._stop_one, range(count)))
        finally:
            self._over.set()
            crasher.join()

    def faults(self, jobs: list[dict[str, Any]]) -> list[str]:
        """Everything that is not as it must be, in words."""
        client = self._platform.client(patience=300)
        others = [job for job in jobs if job["state"] != "CANCELLED"]
        found = [f"{job['uid']} is {job['state']}: {client.timeline(job['uid'])}" for job in others]
        lines = said(self._told)
        found += [line for line in lines if line.endswith(("at once", "done"))]
        begun = Counter(line.split()[0] for line in lines if line.endswith("began"))
        found += [
            f"{job['uid']} began {begun[job['uid']]} times in {len(job['attempts'])} attempts"
            for job in jobs
            if begun[job["uid"]] > len(job.get("attempts", []))
        ]
        found += self._left("orphan", client.orphans)
        return found + self._left("allocation", lambda: self._slurm.allocations("cairn-"))

    def _stop_one(self, number: int) -> dict[str, Any]:
        chance = random.Random(self._seed * 1000 + number)
        client = self._platform.client(patience=300)
        # As often as its allocation is taken away, and oftener.
        uid = submit(client, self._told, steps=10_000, retries=50)
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, LONGEST))
        else:
            try:
                until(lambda: client.job(uid)["state"] == "RUNNING", PATIENCE)
            except AssertionError:
                return client.job(uid) | {"stopped_in": "never"}
            time.sleep(chance.uniform(0, RUNS))
        stopped_in = client.job(uid)["state"]
        client.cancel(uid)
        job = ended(client, uid, PATIENCE)
        self._ended += 1
        print(f"{self._ended:3} stopped while {stopped_in}: {job['state']}", file=sys.stderr)
        return {**job, "stopped_in": stopped_in}

    def _crash(self) -> None:
        chance = random.Random(self._seed)
        while not self._over.wait(chance.uniform(*BETWEEN)):
            kind = chance.choice(CRASHES)
            if kind != "allocation":
                self._platform.kill(kind)
            elif there := self._slurm.allocations("cairn-"):
                self._slurm.run("scancel", chance.choice(there)[0])
            else:
                continue
            self.crashes[kind] += 1
            print(f"    crash: {kind}", file=sys.stderr)

    @staticmethod
    def _left(kind: str, look: Any) -> list[str]:
        try:
            until(lambda: not look(), 180)
        except AssertionError:
            return [f"{kind} left: {one}" for one in look()]
        return []


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with (
        tempfile.TemporaryDirectory(prefix="cairn-soak-", ignore_cleanup_errors=True) as folder,
        world(Path(folder)) as (where, platform),
    ):
        soak = Soak(where, platform, seed)
        begin = time.monotonic()
        jobs = soak.stops(count)
        faults = soak.faults(jobs)
    result = {
        "stops": dict(Counter(job["stopped_in"] for job in jobs)),
        "crashes": dict(soak.crashes),
        "attempts": sum(len(job.get("attempts", [])) for job in jobs),
        "faults": faults,
        "seconds": round(time.monotonic() - begin),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
