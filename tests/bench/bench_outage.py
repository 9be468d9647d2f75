"""A server away, a full disk: ``python -m tests.bench.bench_outage [ROUNDS] [PAIRS]`` prints one JSON line.

The same training (`STEPS` steps of about 20 ms in pure Python, 10 scalars logged at each) runs without a log,
with a server that takes what is logged, and with one that is away for the whole job, its gateway too: each in
a process of its own, `ROUNDS` (7) times in turn, from a while after `init` on (what imports for the first
time does so beside it). How much longer it takes than without a log is told in
processor time of all its threads and by the clock, as the median over the rounds, in percent; `noise` is by
how much the training without a log differs from itself, one half of its steps against the other. Then the
server comes back and `cairn.sync` sends what was kept: `lost` and `doubled` must be 0.

That noise is several percent on a machine that is shared, and two processes of one program differ by as much.
So `paired` takes one training whose server is away through many short rounds (`ROUND` steps), in every second
of which it logs: `main` is by how much more processor time its own thread takes, in percent, with the 95 %
interval (bootstrap over blocks of neighbours, of the ratio of sums), `of_itself` the same of rounds without a
log. `others` is the processor time of all other threads of the process against that of its own one in all
rounds, `log` what goes by within `log` (with two readings of the clock, and cold caches) against the steps.
These two are told apart from the steps, whose noise is not in them, and their sum is what an outage costs.

`full_disk`: a spool on a file system of 1 MiB (for root alone), of which a training logs far more, and more
than waits in memory: how many warnings, the longest call, and whether what lies there and what was counted as
lost make up what was logged.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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

# Does so many steps whenever it is told to, with a log where it is told that. Says what they took: seconds
# of processor time of the process, of its main thread, of that within `log`, and by the clock.
ROUND, BLOCK, RESAMPLES = 5, 10, 2_000
IN_ROUNDS = f"""
import json, sys, time
import cairn
cairn.init(capture=False)
values, step = {{f"metric/{{number}}": float(number) for number in range({WIDTH})}}, 0
own, whole, clock = time.thread_time, time.process_time, time.perf_counter
time.sleep(3)
for word in sys.stdin:
    log, logging, before, main, began = word == "log\\n", 0.0, whole(), own(), clock()
    for step in range(step, step + {ROUND}):
        sum(number * number for number in range({WORK}))
        at = own()
        if log:
            cairn.log(values, step=step)
        logging += own() - at
    step += 1
    print(json.dumps([whole() - before, own() - main, logging, clock() - began]), flush=True)
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


def paired(folder: Path, pairs: int) -> dict[str, Any]:
    """Many short rounds of one training, with a log and without in turn."""
    with in_rounds(folder) as go:
        for _ in range(20):
            go(log=True)
        found = []
        for turn in range(pairs):
            # In turn, so that neither always comes first.
            one, two = go(log=turn % 2 == 1), go(log=turn % 2 == 0)
            found.append((two, one) if turn % 2 else (one, two))
    steps = sum(logs.main for _, logs in found)
    main = interval([(bare.main, logs.main) for bare, logs in found])
    halves = zip(found[::2], found[1::2], strict=False)
    # The other threads do what they do by the clock, whether or not something was logged in this round.
    others = [(sum(one.main for one in pair), sum(one.process for one in pair)) for pair in found]
    return {
        "pairs": pairs, "main": main, "others": interval(others),
        "log": interval([(logs.main - logs.logging, logs.main) for _, logs in found]),
        "log_us": round(sum(logs.logging for _, logs in found) / pairs / ROUND * 1e6, 1),
        "wall": interval([(bare.wall, logs.wall) for bare, logs in found]),
        "of_itself": interval([(one.main, two.main) for (one, _), (two, _) in halves]),
        "steps_s": round(steps, 1),
    }  # fmt: skip


class Took(NamedTuple):
    """Seconds that a round took."""

    process: float
    main: float
    logging: float
    wall: float


class Go(Protocol):
    """Does a round."""

    def __call__(self, *, log: bool) -> Took: ...


@contextmanager
def in_rounds(folder: Path) -> Iterator[Go]:
    """A training that does a round with each call, and whose server is away."""
    folder.mkdir(parents=True)
    own = {"CAIRN_CONFIG": str(folder / "none.json"), "CAIRN_URL": "http://127.0.0.1:1", "CAIRN_TOKEN": "t",
           "CAIRN_BUS_URL": "nats://127.0.0.1:1"}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", IN_ROUNDS], cwd=folder, env={**os.environ, **own}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    send, heard = process.stdin, process.stdout

    def go(*, log: bool) -> Took:
        send.write("log\n" if log else "bare\n")
        send.flush()
        return Took(*json.loads(heard.readline()))

    try:
        yield go
    finally:
        send.close()
        process.wait(60)


def interval(found: list[tuple[float, float]]) -> dict[str, float]:
    """By how many percent the second ones are more, with its 95 % interval."""
    blocks = [found[place : place + BLOCK] for place in range(0, len(found), BLOCK)]
    sums = [(sum(one for one, _ in block), sum(two for _, two in block)) for block in blocks]
    chance = random.Random(1)

    def more(of: list[tuple[float, float]]) -> float:
        return (sum(two for _, two in of) / sum(one for one, _ in of) - 1) * 100

    drawn = sorted(more(chance.choices(sums, k=len(sums))) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]
    return {"percent": round(more(sums), 2), "low": round(low, 2), "high": round(high, 2)}


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


def main(rounds: int, pairs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as name:
        folder = Path(name)
        server = servers.start_nats(folder / "nats")
        try:
            asyncio.run(streams.make(server.url))
            result: dict[str, Any] = {"paired": paired(folder / "paired", pairs)}
            if rounds:
                result |= trainings(folder, rounds, server.url) | afterwards(folder, server.url, rounds)
        finally:
            server.stop()
        result["full_disk"] = full_disk(folder) if rounds else None
    result |= {"rounds": rounds, "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(result))


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    main(*[*given, *(7, 300)[len(given) :]])
