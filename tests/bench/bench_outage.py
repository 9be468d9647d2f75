"""A server away, a full disk: ``python -m tests.bench.bench_outage [ROUNDS]`` prints one JSON line.

The same training (`STEPS` steps of about 20 ms in pure Python, 10 scalars logged at each) runs without a log,
with a server that takes what is logged, and with one that is away for the whole job, its gateway too: each in
a process of its own, `ROUNDS` (7) times in turn, from a while after `init` on (what imports for the first
time does so beside it). How much longer it takes than without a log is told in
processor time of all its threads and by the clock, as the median over the rounds, in percent; `noise` is by
how much the training without a log differs from itself, one half of its steps against the other. Then the
server comes back and `cairn.sync` sends what was kept: `lost` and `doubled` must be 0.

`full_disk`: a spool on a file system of 1 MiB (for root alone), of which a training logs far more, and more
than waits in memory: how many warnings, the longest call, and whether what lies there and what was counted as
lost make up what was logged.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cairn
from cairn._local import local_runs
from tests.bench.bench_sdk_kills import read_spool
from tests.harness import servers, streams

STEPS, WORK, WIDTH = 150, 400_000, 10
CALLS = 400_000
CASES = ("none", "up", "away")

TRAINING = f"""
import json, sys, time
log = sys.argv[1] == "log"
if log:
    import cairn
    cairn.init(capture=False)
values = {{f"metric/{{number}}": float(number) for number in range({WIDTH})}}
time.sleep(1.5)
sum(number * number for number in range({WORK}))
halves = []
for half in range(2):
    before, began = time.process_time(), time.perf_counter()
    for step in range(half * {STEPS} // 2, (half + 1) * {STEPS} // 2):
        sum(number * number for number in range({WORK}))
        if log:
            cairn.log(values, step=step)
    halves.append((time.process_time() - before, time.perf_counter() - began))
begin = time.perf_counter()
if log:
    cairn.finish(timeout=30)
print(json.dumps({{"halves": halves, "finish": time.perf_counter() - begin}}))
"""

FILLING = f"""
import json, sys, time
import cairn
run = cairn.init(capture=False)
values, longest = {{f"metric/{{number}}": float(number) for number in range({WIDTH})}}, 0.0
for step in range({CALLS}):
    begin = time.perf_counter()
    cairn.log(values, step=step)
    longest = max(longest, time.perf_counter() - begin)
begin = time.perf_counter()
cairn.finish(timeout=30)
ended = time.perf_counter() - begin
lost = run.dropped + run._writer.waiting_points
print(json.dumps({{"longest_ms": longest * 1e3, "finish_s": ended, "lost": lost}}))
"""


def child(code: str, *arguments: str, folder: Path, **env: str) -> tuple[dict[str, Any], list[str]]:
    """What it printed, and its warnings. Raises where it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {"CAIRN_CONFIG": str(folder / "none.json"), "CAIRN_URL": "", "CAIRN_TOKEN": "", **env}
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env={**os.environ, **own},
        check=True, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    return json.loads(ended.stdout.splitlines()[-1]), ended.stderr.splitlines()


def trainings(folder: Path, rounds: int, url: str) -> dict[str, Any]:
    """The cases in turn."""
    server = {"CAIRN_URL": "http://127.0.0.1:1", "CAIRN_TOKEN": "t"}
    of_case = {"none": {}, "up": server | {"CAIRN_BUS_URL": url},
               "away": server | {"CAIRN_BUS_URL": "nats://127.0.0.1:1"}}  # fmt: skip
    halves: dict[str, list[list[list[float]]]] = {case: [] for case in CASES}
    finish, warned = [], 0
    for turn in range(rounds):
        # No case always follows the same one.
        for case in CASES[turn % 3 :] + CASES[: turn % 3]:
            log = "bare" if case == "none" else "log"
            made, said = child(TRAINING, log, folder=folder / case, **of_case[case])
            halves[case].append(made["halves"])
            if case == "away":
                finish.append(made["finish"])
                warned = max(warned, len(said))
    told: dict[str, Any] = {}
    for place, kind in enumerate(("cpu", "wall")):
        sums = {case: [sum(half[place] for half in each) for each in halves[case]] for case in CASES}
        bare = sums["none"]
        for case in CASES[1:]:
            ratios = [logged / one for logged, one in zip(sums[case], bare, strict=True)]
            told[f"{case}_{kind}_percent"] = percent(ratios)
        ratios = [logged / one for logged, one in zip(sums["away"], sums["up"], strict=True)]
        told[f"away_to_up_{kind}_percent"] = percent(ratios)
        own = [abs(one[0][place] / one[1][place] - 1) * 100 for one in halves["none"]]
        told[f"noise_{kind}_percent"] = round(statistics.median(own), 2)
    seconds = statistics.median(sum(half[1] for half in each) for each in halves["none"])
    return told | {"training_s": round(seconds, 2), "away_finish_s": round(statistics.median(finish), 2),
                   "away_warnings": warned}  # fmt: skip


def percent(ratios: list[float]) -> float:
    return round((statistics.median(ratios) - 1) * 100, 2)


def afterwards(folder: Path, url: str, rounds: int) -> dict[str, int]:
    """What became of it, once the server is there again."""
    os.environ |= {"CAIRN_URL": "http://127.0.0.1:1", "CAIRN_TOKEN": "t", "CAIRN_BUS_URL": url}
    sent = cairn.sync(folder / "away")
    found: Counter[tuple[str, str, int]] = Counter()
    for event in asyncio.run(streams.read(url)):
        for block in event.points_logged.blocks:
            found.update((event.run_uid, key, step) for key in block.keys for step in block.steps)
    wanted = rounds * 2 * STEPS * WIDTH
    return {"points": wanted, "lost": wanted - len(found), "doubled": found.total() - len(found),
            "unsent": list(sent.values()).count(False)}  # fmt: skip


@contextmanager
def small(folder: Path) -> Iterator[Path | None]:
    """A file system of 1 MiB; None where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M,mode=755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disk(folder: Path) -> dict[str, Any] | None:
    with small(folder / "small") as place:
        if place is None:
            return None
        made, said = child(FILLING, folder=place)
        events = [event for run in local_runs(place) for event in read_spool(run.folder / "spool", run.uid)]
    kept = sum(len(block.values) for event in events for block in event.points_logged.blocks)
    return {
        **{name: round(value, 2) for name, value in made.items()},
        "kept": kept, "logged": CALLS * WIDTH, "unaccounted": CALLS * WIDTH - kept - made["lost"],
        "warnings": said,
    }  # fmt: skip


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as name:
        folder = Path(name)
        server = servers.start_nats(folder / "nats")
        try:
            asyncio.run(streams.make(server.url))
            result = trainings(folder, rounds, server.url) | afterwards(folder, server.url, rounds)
        finally:
            server.stop()
        result["full_disk"] = full_disk(folder)
    result |= {"rounds": rounds, "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["7"])[0]))
