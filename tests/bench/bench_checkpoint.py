"""A checkpoint to the store and back: ``python -m tests.bench.bench_checkpoint [--gb 2] [--rounds 3]
[--files N]`` prints one JSON line.

Up and down beside plain parallel PUTs and GETs of as many bytes (nothing is hashed), in rounds by turns, of
which the medians are told. Before each measurement everything is on the disk. Plain ones send parts of the
size, and as many at once, as was fastest in a trial before. Besides MB/s also the seconds of CPU a GB, of the
client and of the servers: other load disturbs those less. Then the client's largest resident memory, what is
sent when nothing and when one part of it changed; and how many small files a second go up for the first
time, and when they are known.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from cairn._transfer import PART
from cairn_common.objects import ObjectStore
from tests.harness.platform import Platform

# (Bytes of a part, connections) of plain PUTs and GETs.
SHAPES = ((PART, 8), (4 * PART, 8), (4 * PART, 4))
TRIAL = 256 * 10**6
SERVERS = ("s3", "tracker", "gateway")
# A client alone, as a job has it.
WORK = """
import json, re, sys, time
from cairn.client import Client
what, path, name = sys.argv[1:]
client, begin = Client(), time.perf_counter()
used = time.process_time()
if what == "up":
    client.publish(path, name)
else:
    client.download(name, "latest", path)
seconds, used = time.perf_counter() - begin, time.process_time() - used
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(json.dumps({"seconds": seconds, "cpu": used, "rss_mb": int(peak) / 1024}))
"""


def write(path: Path, size: int, seed: int) -> None:
    """Bytes of which no two parts are the same, nor those of two seeds."""
    block = bytearray(os.urandom(PART))
    with path.open("wb") as file:
        for number in range(0, size, PART):
            block[:16] = (number + seed).to_bytes(16, "big")
            file.write(block[: min(PART, size - number)])


class Plain:
    """PUTs and GETs by signed URLs, and nothing else."""

    def __init__(self, store: ObjectStore, shape: tuple[int, int] = SHAPES[0]) -> None:
        self._store = store
        self._part, self._connections = shape
        self._origin = urlsplit(store.presign_get("x")).netloc

    def up(self, path: Path, size: int) -> None:
        with path.open("rb") as source:

            def put(connection: http.client.HTTPConnection, start: int, count: int) -> None:
                data = os.pread(source.fileno(), count, start)
                connection.request("PUT", _target(self._store.presign_put(f"bench/{start}")), body=data)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200

            self._in_parallel(size, put)

    def down(self, path: Path, size: int) -> None:
        with path.open("wb") as sink:

            def get(connection: http.client.HTTPConnection, start: int, count: int) -> None:
                connection.request("GET", _target(self._store.presign_get(f"bench/{start}")))
                data = connection.getresponse().read()
                assert len(data) == count
                os.pwrite(sink.fileno(), data, start)

            self._in_parallel(size, get)

    def _in_parallel(self, size: int, move: Callable[[http.client.HTTPConnection, int, int], None]) -> None:
        own = threading.local()

        def one(start: int) -> None:
            if not hasattr(own, "connection"):
                own.connection = http.client.HTTPConnection(self._origin, timeout=120)
            move(own.connection, start, min(self._part, size - start))

        with ThreadPoolExecutor(self._connections) as pool:
            list(pool.map(one, range(0, size, self._part)))


def _target(url: str) -> str:
    return urlsplit(url).path + "?" + urlsplit(url).query


class Meter:
    """Seconds of CPU that the servers have used."""

    def __init__(self, platform: Platform) -> None:
        found = {each["name"]: each["pid"] for each in platform.status()["processes"]}
        self._pids = {name: int(found[name]) for name in SERVERS}

    def read(self) -> dict[str, float]:
        tick = os.sysconf("SC_CLK_TCK")
        fields = {
            name: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            for name, pid in self._pids.items()
        }
        return {name: (int(each[11]) + int(each[12])) / tick for name, each in fields.items()}


class Measured:
    """What one way of moving bytes took, round after round."""

    def __init__(self, meter: Meter, size: int) -> None:
        self._meter, self._size = meter, size
        self.seconds: list[float] = []
        # With what was then left to be brought to the disk.
        self.synced: list[float] = []
        self.rss: list[float] = []
        self._cpu: list[dict[str, float]] = []

    def add(self, move: Callable[[], dict[str, float] | None]) -> None:
        os.sync()
        before, used, begin = self._meter.read(), time.process_time(), time.perf_counter()
        told = move()
        seconds = time.perf_counter() - begin
        if told is None:
            told = {"seconds": seconds, "cpu": time.process_time() - used, "rss_mb": 0.0}
        begin = time.perf_counter()
        os.sync()
        self.seconds.append(told["seconds"])
        self.synced.append(told["seconds"] + time.perf_counter() - begin)
        self.rss.append(told["rss_mb"])
        after = self._meter.read()
        self._cpu.append({"client": told["cpu"], **{name: after[name] - before[name] for name in after}})

    @property
    def mb_s(self) -> int:
        return round(self._size / 1e6 / median(self.seconds))

    def cpu(self) -> dict[str, float]:
        """Of a GB, by who used it."""
        return {
            name: round(median([each[name] for each in self._cpu]) / (self._size / 1e9), 2)
            for name in self._cpu[0]
        }


def child(platform: Platform, *arguments: str) -> dict[str, float]:
    """What a client in a process of its own took: seconds, of CPU too, and MB of memory."""
    client = platform.client()
    env = {**platform.env, "CAIRN_URL": client.url, "CAIRN_TOKEN": client.token()}
    argv = [sys.executable, "-c", WORK, *arguments]
    done = subprocess.run(argv, env=env, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def blobs(platform: Platform) -> list[Path]:
    return [path for path in platform.data.glob("**/t/main/blobs/*/*") if path.is_file()]


def stored(platform: Platform) -> int:
    """Bytes of the store's blobs."""
    return sum(path.stat().st_size for path in blobs(platform))


def fastest(store: ObjectStore, path: Path, size: int) -> tuple[int, int]:
    """The shape in which plain PUTs go fastest."""
    taken: dict[tuple[int, int], list[float]] = {shape: [] for shape in SHAPES}
    for shape in [*SHAPES, *reversed(SHAPES)]:
        os.sync()
        begin = time.perf_counter()
        Plain(store, shape).up(path, min(size, TRIAL))
        taken[shape].append(time.perf_counter() - begin)
    return min(taken, key=lambda shape: sum(taken[shape]))


def large(platform: Platform, store: ObjectStore, folder: Path, size: int, rounds: int) -> dict[str, Any]:
    path, plain_back, back = folder / "state.bin", folder / "plain.bin", folder / "back"
    write(path, size, 0)
    shape = fastest(store, path, size)
    plain, meter = Plain(store, shape), Meter(platform)
    ways = {name: Measured(meter, size) for name in ("up", "plain_up", "down", "plain_down")}
    moves = {
        "up": lambda: child(platform, "up", str(path), "checkpoint"),
        "plain_up": lambda: plain.up(path, size),
        "down": lambda: child(platform, "down", str(back), "checkpoint"),
        "plain_down": lambda: plain.down(plain_back, size),
    }
    for number in range(rounds):
        for blob in blobs(platform):  # of the round before: its bytes are not needed again
            blob.unlink()
        write(path, size, number + 1)
        # By turns: whoever comes second finds another machine.
        for name in (
            ("plain_up", "up", "plain_down", "down")
            if number % 2
            else ("up", "plain_up", "down", "plain_down")
        ):
            ways[name].add(moves[name])
            # At once: ten GB lie here often enough.
            if name == "plain_down":
                plain_back.unlink()
            elif name == "down":
                assert [each.name for each in back.iterdir()] == ["state.bin"]
                shutil.rmtree(back)
    first = stored(platform)
    again = child(platform, "up", str(path), "checkpoint")
    second = stored(platform)
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"changed")
    child(platform, "up", str(path), "checkpoint")
    third = stored(platform)
    path.unlink()
    mb = size / 1e6
    found: dict[str, Any] = {
        "size_mb": round(mb), "rounds": rounds,
        "plain_part_mb": shape[0] >> 20, "plain_connections": shape[1],
    }  # fmt: skip
    for way in ("up", "down"):
        ours, theirs = ways[way], ways[f"plain_{way}"]
        found |= {
            f"{way}_mb_s": ours.mb_s, f"plain_{way}_mb_s": theirs.mb_s,
            f"{way}_ratio": round(median(theirs.seconds) / median(ours.seconds), 2),
            f"{way}_ratio_with_sync": round(median(theirs.synced) / median(ours.synced), 2),
            f"{way}_ratios": [
                round(b / a, 2) for a, b in zip(ours.seconds, theirs.seconds, strict=True)
            ],
            f"{way}_rss_mb": round(max(ours.rss)),
            f"{way}_cpu_s_gb": ours.cpu(), f"plain_{way}_cpu_s_gb": theirs.cpu(),
        }  # fmt: skip
    return {
        **found, "stored_mb": round(first / 1e6),
        "again_sent_bytes": second - first, "again_s": round(again["seconds"], 2),
        "one_part_changed_sent_bytes": third - second,
    }  # fmt: skip


def small(platform: Platform, folder: Path, count: int) -> dict[str, float]:
    source = folder / "small"
    for number in range(count):
        path = source / f"{number % 100}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 100)
    first = child(platform, "up", str(source), "small")
    again = child(platform, "up", str(source), "small")
    down = child(platform, "down", str(folder / "small-back"), "small")
    back = {path: path.read_bytes() for path in (folder / "small-back").rglob("*") if path.is_file()}
    assert len(back) == count
    assert all(data == path.name.encode() * 100 for path, data in back.items())
    return {
        "files": count,
        "first_files_s": round(count / first["seconds"]), "known_files_s": round(count / again["seconds"]),
        "down_files_s": round(count / down["seconds"]), "files_rss_mb": round(first["rss_mb"]),
        "known_files_rss_mb": round(again["rss_mb"]), "down_files_rss_mb": round(down["rss_mb"]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=10_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cairn-bench-"))
    platform = Platform(folder / "platform")
    (folder / "platform").mkdir()
    try:
        platform.up("--only", "tracker,gateway")
        secrets = json.loads((platform.data / "secrets.json").read_text())
        port = next(each["port"] for each in platform.status()["processes"] if each["name"] == "s3")
        s3 = secrets["s3"]
        store = ObjectStore(f"http://127.0.0.1:{port}", s3["access"], s3["secret"], "cairn")
        found = large(platform, store, folder, int(options.gb * 10**9), options.rounds)
        if options.files:
            found |= small(platform, folder, options.files)
        print(json.dumps({"bench": "checkpoint", **found}))
    finally:
        platform.down()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
