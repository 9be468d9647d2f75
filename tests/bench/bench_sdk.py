"""What the SDK costs a training: ``python -m tests.bench.bench_sdk [PYTHON]`` prints one JSON line.

Import, `init`, `log` of 1, 10, 100 and 10,000 scalars (microseconds a call), `finish` with 100,000 points
just logged: without a server, with a bus that takes them (`sent` is 1 then), with a server that is away.
Between them, from a second after `init` on, two seconds of 1,000 busy steps a second, each with a log of 10
scalars: what `log` takes of the processor, and the share of a core that the threads behind it take. Then by
how much longer the same training takes with that log than without, in processor time of all threads and by
the clock (the median of pairs: with steps of a millisecond a log meets cold caches). Each
case in a process of its own, `TURNS` of them, the median of each figure. Then trackio in the same way, by the
interpreter that is named, else by one of a temporary environment that pip fills.

Times are wall times of a shared machine, so compare within one run; `load` is the machine's meanwhile.
Trackio has no server here; its `finish` writes to its own SQLite file, as ours does to the spool.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cairn_server import ports
from tests.harness import servers, streams

TURNS = 5
PENDING = 100_000
# Steps of a training with a thousand a second.
STEPS = 2_000
# Of a training in pure Python: numbers that a step adds up, steps with and without a log of 10 scalars each
# after one another, and how often. About 1 and 20 ms a step.
TRAININGS = (("1ms", 20_000, 20, 60), ("20ms", 400_000, 2, 40))

CHILD = f"""
import json, sys, time
name, cases = sys.argv[1], json.loads(sys.argv[2])
clock = time.perf_counter
before = clock()
library = __import__(name)
imported = clock()
library.init(**({{}} if name == "cairn" else {{"project": "bench"}}))
ready = clock()
made = {{"import_ms": (imported - before) * 1e3, "init_ms": (ready - imported) * 1e3}}
for count, calls in cases:
    values = {{f"metric/{{number}}": float(number) for number in range(count)}}
    for step in range(min(calls, 100)):
        library.log(values, step=step)
    taken = []
    for step in range(calls):
        begin = time.perf_counter_ns()
        library.log(values, step=step)
        taken.append(time.perf_counter_ns() - begin)
    taken.sort()
    for part, place in (("p50", calls // 2), ("p99", calls * 99 // 100), ("max", calls - 1)):
        made[f"log_{{count}}_{{part}}_us"] = taken[place] / 1e3
values = {{f"metric/{{number}}": float(number) for number in range(10)}}
time.sleep(1.0 if {STEPS} else 0.0)
spent, all_before, main_before, begin = [], time.process_time_ns(), time.thread_time_ns(), clock()
for step in range({STEPS}):
    while clock() < begin + step / 1000:
        pass
    before = time.thread_time_ns()
    library.log(values, step=10**5 + step)
    spent.append(time.thread_time_ns() - before)
main = time.thread_time_ns() - main_before
if {STEPS}:
    made["log_1khz_p50_us"] = sorted(spent)[{STEPS} // 2] / 1e3
    made["log_1khz_mean_us"] = sum(spent) / {STEPS} / 1e3
    made["behind_cpu_percent"] = (time.process_time_ns() - all_before - main) / 1e7 / (clock() - begin)
def train(work, steps, first, log):
    before, began = time.process_time_ns(), time.perf_counter_ns()
    for step in range(first, first + steps):
        sum(number * number for number in range(work))
        if log:
            library.log(values, step=step)
    return time.process_time_ns() - before, time.perf_counter_ns() - began
for name, work, steps, times in {TRAININGS}:
    pairs = [
        (train(work, steps, 0, False), train(work, steps, work * 100 + steps * pair, True))
        for pair in range(times)
    ]
    for place, kind in enumerate(("cpu", "wall")):
        slower = sorted(logged[place] / bare[place] for bare, logged in pairs)
        made[f"training_{{name}}_{{kind}}_percent"] = (slower[times // 2] - 1) * 100
for step in range({PENDING} // 10):
    library.log({{f"metric/{{number}}": 1.0 for number in range(10)}}, step=10**6 + step)
ended = clock()
library.finish()
made["finish_ms"] = (clock() - ended) * 1e3
print(json.dumps(made))
"""
CASES = ((1, 20_000), (10, 20_000), (100, 5_000), (10_000, 100))
# The peer takes long for more.
PEERS_CASES = ((1, 5_000), (10, 5_000))


def median(python: str, library: str, cases: Any, folder: Path, **extra: str) -> dict[str, float]:
    """The figures of `TURNS` processes; one more before them compiles and warms the disk's cache."""
    every = [_measure(python, library, cases, folder, extra) for _ in range(TURNS + 1)][1:]
    return {name: round(statistics.median(each[name] for each in every), 2) for name in every[0]}


def _measure(python: str, library: str, cases: Any, folder: Path, extra: dict[str, str]) -> dict[str, float]:
    own = {
        "CAIRN_CONFIG": str(folder / "none.json"), "CAIRN_URL": "", "CAIRN_TOKEN": "",
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"), "TRACKIO_DIR": str(folder / "trackio"),
    }  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ended = subprocess.run(
            [python, "-c", CHILD, library, json.dumps(cases)], cwd=place, env=env | own | extra,
            check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        records = [json.loads(path.read_text()) for path in Path(place).glob(".cairn/runs/*/run.json")]
    made: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return made | {"sent": sum(bool(record.get("sent")) for record in records)}


@contextmanager
def bus(folder: Path) -> Iterator[str]:
    """The address of a bus that takes what jobs tell."""
    server = servers.start_nats(folder / "nats")
    try:
        asyncio.run(streams.make(server.url))
        yield server.url
    finally:
        server.stop()


def with_trackio(folder: Path) -> str:
    """An interpreter that has trackio, in an environment of its own; empty where that cannot be had."""
    made = subprocess.run([sys.executable, "-m", "venv", folder / "peer"], capture_output=True)
    python = str(folder / "peer" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "trackio"]
    failed = made.returncode or subprocess.run(install, capture_output=True).returncode
    return "" if failed else python


def peer(folder: Path, python: str) -> dict[str, object]:
    if not (python := python or with_trackio(folder)):
        return {"missing": "trackio could not be installed"}
    ask = "import importlib.metadata as m; print(m.version('trackio'))"
    version = subprocess.run([python, "-c", ask], capture_output=True, text=True).stdout.strip()
    return {"version": version, **median(python, "trackio", PEERS_CASES, folder)}


def main(python: str) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as name:
        folder = Path(name)
        away = f"http://127.0.0.1:{ports.free(['gateway'])['gateway']}"
        with bus(folder) as url:
            server = {"CAIRN_URL": away, "CAIRN_TOKEN": "t"}
            result: dict[str, object] = {
                "no server": median(sys.executable, "cairn", CASES, folder),
                "server": median(sys.executable, "cairn", CASES[:2], folder, **server, CAIRN_BUS_URL=url),
                "server away": median(sys.executable, "cairn", CASES[:2], folder, **server),
                "trackio": peer(folder, python),
                "turns": TURNS,
                "load": round(os.getloadavg()[0], 1),
            }
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main(*(sys.argv[1:] or [""]))
