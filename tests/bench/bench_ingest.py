"""Metrics on their whole way: ``python -m tests.bench.bench_ingest [PART ...]`` prints one JSON line.

From `Run.log` through the spool and its shipper, over a bus that syncs every message to the disk, through a
tracker in a process of its own into the embedded engine and PostgreSQL, until they can be queried. Parts (all
of them unless told):

- ``one``: one process and run, 1e6 points, ten metrics a step;
- ``many``: 200 runs from 4 processes, 4e6 points;
- ``tiny``: messages of one point each, of 200 runs, in a batch for each run, as a shipper sends what it has;
  `apart`: fewer, each by itself without waiting for each other, so that the bus syncs each of them;
  `drained`: as many as at first for a tracker that was stopped meanwhile, so that it alone sets the pace;
- ``steady``: 100,000 points/s of 10 runs for 15 s: how long from `log` until it can be queried;
- ``trackio``: a fifth of ``one`` and a twentieth of ``many`` with trackio, which pip fetches, in its own
  SQLite file; `times`: our rates of ``one`` and ``many`` over its own.

Points/s count from the first `log` to the commit of the last point. CPU is that of all processes of each
kind, in microseconds a point (in ``tiny``, a message). Bytes a point are those of points and buckets
together. Values are curves with noise, as floats of 32 bits, which a loss on a GPU is.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import asyncpg
import nats
import numpy as np

from cairn._link import MOST_TOGETHER, Link
from cairn_common.ids import new_uid
from cairn_tracker.clickhouse import clickhouse
from tests.bench.bench_sdk import with_trackio
from tests.harness import servers
from tests.harness.tracker import TEAM, Spool, Tracker, start_tracker

METRICS = [f"train/metric{number}" for number in range(10)]
# In `tiny`: messages that may be under way to the bus, and batches.
WINDOW = 2_000
AT_ONCE = 4
TINY = 30_000
TINY_APART = 5_000
STEADY_SECONDS = 15
PARTS = ("one", "many", "tiny", "steady", "trackio")
PEERS_STEPS, PEERS_RUNS = 20_000, 10
PEER = f"""
import json, os, random, sys, time
import trackio
runs, steps = int(sys.argv[1]), int(sys.argv[2])
rows = [{{name: random.gauss(0, 1) for name in {METRICS}}} for _ in range(1000)]
begin = time.time()
for run in range(runs):
    trackio.init(project="bench", name=f"{{os.getpid()}}-{{run}}")
    for step in range(steps):
        trackio.log(rows[step % 1000], step=step)
    trackio.finish()
print(json.dumps([begin, time.time(), sum(os.times()[:2])]))
"""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SIZES = """
SELECT sum(bytes_on_disk), sumIf(rows, table = 'points') FROM system.parts
WHERE active AND database = currentDatabase() AND table IN ('points', 'rollups')
"""


@dataclass
class Platform:
    """The servers, each a process."""

    bus: servers.Nats
    postgres: servers.Postgres
    tracker: Tracker
    database: str

    def cpu(self) -> dict[str, float]:
        """Seconds of each so far."""
        return {
            "tracker": _cpu(self.tracker.pid),
            "bus": _cpu(self.bus.pid),
            "postgres": _cpu(self.postgres.pid),
        }


@contextmanager
def platform(folder: Path) -> Iterator[Platform]:
    bus = servers.start_nats(folder / "nats")
    postgres = servers.start_postgres(folder / "pg")
    s3 = servers.start_s3(folder / "s3")
    postgres.create_database("bench")
    url = postgres.create_schema("bench", "tracker")
    tracker = start_tracker(folder / "tracker", nats_url=bus.url, postgres_url=url, s3=s3, interval=0.5)
    try:
        yield Platform(bus, postgres, tracker, url)
    finally:
        for server in (tracker, bus, s3, postgres):
            server.stop()


def log_runs(url: str, folder: str, uids: list[str], steps: int, told: Connection) -> None:
    """A process with some runs: logs `steps` steps of each as fast as it can, and ships them."""
    runs = [_open(Path(folder), uid, url) for uid in uids]
    rows = [dict(zip(METRICS, row, strict=True)) for row in _values(min(steps, 10_000))]
    told.send("ready")
    told.recv()
    begin = time.process_time()
    for run, shipper in runs:
        shipper.start()
        for step in range(steps):
            run.log(rows[step % len(rows)], step)
    logged = time.time()
    for run, shipper in runs:
        run._writer.close()
        assert shipper.wait_empty(300)
        shipper.stop()
    told.send((logged, time.process_time() - begin))
    told.recv()


def log_steadily(url: str, folder: str, uids: list[str], seconds: float, told: Connection) -> None:
    """Runs that log 1,000 steps of ten metrics a second each; the first metric is the time of its logging."""
    runs = [_open(Path(folder), uid, url) for uid in uids]
    rows = _values(1_000)
    told.send("ready")
    told.recv()
    for _, shipper in runs:
        shipper.start()
    cpu, begin, step = time.process_time(), time.time(), 0
    while (now := time.time()) < begin + seconds:
        while step < (now - begin) * 1000:
            for run, _ in runs:
                values = dict(zip(METRICS, rows[step % 1000], strict=True))
                values[METRICS[0]] = time.time()
                run.log(values, step)
            step += 1
        time.sleep(0.002)
    logged = time.time()
    for run, shipper in runs:
        run._writer.close()
        assert shipper.wait_empty(300)
        shipper.stop()
    told.send((logged, time.process_time() - cpu, step))
    told.recv()


def _open(folder: Path, uid: str, url: str):  # type: ignore[no-untyped-def]
    from cairn._batch import Identity
    from cairn._run import Run
    from cairn._ship import Shipper

    spool = folder / uid
    run = Run(uid=uid, team=TEAM, name="", spool=spool, directory=folder, strict=True)
    return run, Shipper(spool, Identity(TEAM, uid), bus_url=lambda: url, token=lambda: "")


def _values(steps: int) -> list[list[float]]:
    """Curves with noise, as floats of 32 bits."""
    chance = np.random.default_rng(1)
    curve = np.exp(-np.arange(steps)[:, None] / steps) * np.arange(1, len(METRICS) + 1)[None, :]
    found: list[list[float]] = (
        (curve + chance.normal(scale=0.05, size=curve.shape)).astype(np.float32).tolist()
    )
    return found


async def publish_tiny(url: str, events: list[tuple[str, bytes]]) -> None:
    """As the shippers of 200 runs do it: what one of them has is a batch."""
    by_run: dict[str, list[tuple[str, bytes]]] = {}
    for event in events:
        by_run.setdefault(event[0], []).append(event)
    link = await Link.open(url, "")
    free = asyncio.Semaphore(AT_ONCE)

    async def ship(batch: list[tuple[str, bytes]]) -> None:
        async with free:
            for start in range(0, len(batch), MOST_TOGETHER):
                await link.publish_together(batch[start : start + MOST_TOGETHER])

    await asyncio.gather(*map(ship, by_run.values()))
    await link.close()


async def publish_apart(url: str, events: list[tuple[str, bytes]]) -> None:
    """As many clients at once would: nobody waits for the answer to one before the next goes out."""
    client = await nats.connect(url)
    free, failed = asyncio.Semaphore(WINDOW), 0
    inbox = client.new_inbox()

    async def answered(message) -> None:  # type: ignore[no-untyped-def]
        nonlocal failed
        failed += b'"error"' in message.data
        free.release()

    await client.subscribe(f"{inbox}.*", cb=answered)
    for number, (subject, data) in enumerate(events):
        await free.acquire()
        await client.publish(subject, data, reply=f"{inbox}.{number}")
    for _ in range(WINDOW):
        await free.acquire()
    assert not failed, f"the bus refused {failed} messages"
    await client.close()


def tiny_events(uids: list[str], count: int) -> list[tuple[str, bytes]]:
    spools = [Spool(uid, attempt=0) for uid in uids]
    made = []
    for number in range(count):
        spool = spools[number % len(spools)]
        event = spool.points([number // len(spools)], loss=[float(np.float32(random.random()))])
        made.append((f"cairn.v1.job.run.points-logged.{TEAM}.{spool.run}", event.SerializeToString()))
    return made


def run_tiny(url: str, uids: list[str], count: int, apart: bool, told: Connection) -> None:
    events = tiny_events(uids, count)
    begin = time.process_time()
    told.send("ready")
    told.recv()
    asyncio.run((publish_apart if apart else publish_tiny)(url, events))
    told.send((time.time(), time.process_time() - begin))
    told.recv()


async def count_points(postgres: asyncpg.Connection, uids: list[str]) -> int:
    found: int | None = await postgres.fetchval(
        "SELECT sum(count) FROM summaries WHERE run_uid = ANY($1)", uids
    )
    return int(found or 0)


async def drive(
    on: Platform, work: Callable[..., None], tasks: list[tuple[object, ...]], uids: list[str], points: int
) -> dict[str, object]:
    """Starts a process for each of `tasks`, waits until all points can be queried."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for arguments in tasks:
        mine, theirs = context.Pipe()
        process = context.Process(target=work, args=(*arguments, theirs), daemon=True)
        process.start()
        pipes.append(mine)
        processes.append(process)
    for pipe in pipes:
        assert await asyncio.to_thread(pipe.recv) == "ready"
    postgres = await asyncpg.connect(on.database)
    before, memory = on.cpu(), _memory(on.tracker.pid)
    begin = time.time()
    for pipe in pipes:
        pipe.send("go")
    sent = [asyncio.create_task(asyncio.to_thread(pipe.recv)) for pipe in pipes]
    highest = memory
    async with asyncio.timeout(600):
        while await count_points(postgres, uids) < points:
            # A process that failed raises here.
            _ = [task.result() for task in sent if task.done()]
            highest = max(highest, _memory(on.tracker.pid))
            await asyncio.sleep(0.05)
    end = time.time()
    told = await asyncio.gather(*sent)
    after = on.cpu()
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("end")
        process.join(30)
    await postgres.close()
    cpu = {name: after[name] - before[name] for name in after} | {"client": sum(item[1] for item in told)}
    return {
        "points": points,
        "per_s": round(points / (end - begin)),
        "logged_s": round(max(item[0] for item in told) - begin, 2),
        "queryable_s": round(end - begin, 2),
        "cpu_us": {name: round(seconds * 1e6 / points, 2) for name, seconds in cpu.items()},
        "cpu_us_client_and_tracker": round((cpu["client"] + cpu["tracker"]) * 1e6 / points, 2),
        "tracker_mb": [round(memory / 1e6), round(highest / 1e6), round(_memory(on.tracker.pid) / 1e6)],
    }


async def one(
    on: Platform, folder: Path, *, processes: int = 1, runs: int = 1, steps: int = 100_000
) -> object:
    uids = [new_uid() for _ in range(runs)]
    tasks = [(on.bus.url, str(folder), uids[number::processes], steps) for number in range(processes)]
    return await drive(on, log_runs, list(tasks), uids, runs * steps * len(METRICS))


async def many(on: Platform, folder: Path) -> object:
    return await one(on, folder, processes=4, runs=200, steps=2_000)


async def tiny(on: Platform, folder: Path) -> object:
    found = await tiny_points(on, TINY, apart=False)
    return found | {"apart": await tiny_points(on, TINY_APART, apart=True), "drained": await drained(on)}


async def tiny_points(on: Platform, count: int, *, apart: bool) -> dict[str, object]:
    uids = [new_uid() for _ in range(200)]
    return await drive(on, run_tiny, [(on.bus.url, uids, count, apart)], uids, count)


async def drained(on: Platform) -> dict[str, object]:
    """How fast the tracker alone is: what it takes in was there before it goes on."""
    uids = [new_uid() for _ in range(200)]
    os.kill(on.tracker.pid, signal.SIGSTOP)
    await publish_tiny(on.bus.url, tiny_events(uids, TINY))
    postgres, before, begin = await asyncpg.connect(on.database), on.cpu(), time.time()
    os.kill(on.tracker.pid, signal.SIGCONT)
    async with asyncio.timeout(600):
        while await count_points(postgres, uids) < TINY:
            await asyncio.sleep(0.05)
    taken, after = time.time() - begin, on.cpu()
    await postgres.close()
    cpu = {name: round((after[name] - before[name]) * 1e6 / TINY, 2) for name in after}
    return {"per_s": round(TINY / taken), "cpu_us": cpu}


async def steady(on: Platform, folder: Path) -> object:
    """Follows the newest value of one metric that can be queried: it is the time when it was logged."""
    uids = [new_uid() for _ in range(10)]
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(
        target=log_steadily, args=(on.bus.url, str(folder), uids, STEADY_SECONDS, theirs), daemon=True
    )
    process.start()
    assert await asyncio.to_thread(pipe.recv) == "ready"
    postgres = await asyncpg.connect(on.database)
    before, begin = on.cpu(), time.time()
    pipe.send("go")
    told = asyncio.create_task(asyncio.to_thread(pipe.recv))
    seen: float | None = None
    latencies: list[float] = []
    while True:
        last = await postgres.fetchval(
            "SELECT last FROM summaries WHERE run_uid = $1 AND key = $2", uids[0], METRICS[0]
        )
        now = time.time()
        if last is not None and last != seen:
            # All that was logged since the last look that showed something: a step is a millisecond.
            latencies += [now - at for at in np.arange(seen or begin, last, 0.001)]
            seen = last
        if told.done() and seen is not None and await count_points(postgres, uids) == told.result()[2] * 100:
            break
        await asyncio.sleep(0.01)
    points = told.result()[2] * 100
    cpu = {name: value - before[name] for name, value in on.cpu().items()} | {"client": told.result()[1]}
    pipe.send("end")
    process.join(30)
    await postgres.close()
    latencies.sort()
    return {
        "points_per_s": round(points / (told.result()[0] - begin)),
        "p50_s": round(latencies[len(latencies) // 2], 2),
        "p99_s": round(latencies[len(latencies) * 99 // 100], 2),
        "cpu_us": {name: round(seconds * 1e6 / points, 2) for name, seconds in cpu.items()},
    }


def trackio(folder: Path, mine: dict[str, object]) -> object:
    """The same by a peer; `mine` are our own figures of this run."""
    if not (python := with_trackio(folder)):
        return {"missing": "trackio could not be installed"}
    env = {**os.environ, "TRACKIO_DIR": str(folder / "trackio")}
    found: dict[str, object] = {}
    shapes = {"one": (1, 1, PEERS_STEPS), "many": (4, PEERS_RUNS, PEERS_STEPS // 4 // PEERS_RUNS)}
    for name, (processes, runs, steps) in shapes.items():
        command = [python, "-c", PEER, str(runs), str(steps)]
        running = [
            subprocess.Popen(
                command, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            for _ in range(processes)
        ]
        told = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
        points = processes * runs * steps * len(METRICS)
        rate = points / (max(one[1] for one in told) - min(one[0] for one in told))
        found[name] = {"per_s": round(rate), "cpu_us": round(sum(one[2] for one in told) * 1e6 / points, 2)}
        if isinstance(own := mine.get(name), dict):
            found[name]["times"] = round(own["per_s"] / rate, 1)  # type: ignore[index]
    return found


async def sizes(folder: Path) -> dict[str, float]:
    """Bytes a point of what the tracker (stopped by now) has written, as it lies and once it is merged."""
    made = {}
    async with clickhouse(f"chdb://{folder}/tracker/points", readers=1) as store:
        for name in ("as_written", "merged"):
            ((size,), (rows,)) = await store.query(_SIZES, {})
            made[name] = round(size / max(rows, 1), 2)
            await store.query("OPTIMIZE TABLE points FINAL", {})
    return made


def _cpu(pid: int) -> float:
    """Seconds of processor time of a process and all below it, those that have ended too."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in found.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    total, waiting = 0.0, [pid]
    while waiting:
        one_pid = waiting.pop()
        waiting += children.get(one_pid, [])
        try:
            parts = Path(f"/proc/{one_pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(map(int, parts[11:15])) / _TICKS
    return total


def _memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


async def main(parts: list[str]) -> None:
    result: dict[str, object] = {}
    works = {"one": one, "many": many, "tiny": tiny, "steady": steady}
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as name:
        folder = Path(name)
        with platform(folder) as on:
            for part in parts:
                if part == "trackio":
                    continue
                result[part] = await works[part](on, folder)
                print(part, json.dumps(result[part]), file=sys.stderr)
        if "trackio" in parts:
            result["trackio"] = trackio(folder, result)
        result["bytes_per_point"] = await sizes(folder)
    result["load"] = round(os.getloadavg()[0], 1)
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or list(PARTS)))
