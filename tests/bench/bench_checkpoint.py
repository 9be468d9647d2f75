"""A checkpoint to the store and back: ``python -m tests.bench.bench_checkpoint [--gb 2] [--files N]`` prints
one JSON line.

Up and down in MB/s beside plain parallel PUTs and GETs of the same bytes in the same run (eight connections,
no hashing), the client's largest resident memory, what is sent when nothing and when one part of it changed;
and how many small files a second go up for the first time, and when they are known.
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
from urllib.parse import urlsplit

from cairn._transfer import PART
from cairn_common.objects import ObjectStore
from tests.harness.platform import Platform

WORKERS = 8
# A client alone, as a job has it.
WORK = """
import json, re, sys, time
from cairn.client import Client
what, path, name = sys.argv[1:]
client, begin = Client(), time.perf_counter()
if what == "up":
    client.publish(path, name)
else:
    client.download(name, "latest", path)
seconds = time.perf_counter() - begin
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(json.dumps({"seconds": seconds, "rss_mb": int(peak) / 1024}))
"""


def write(path: Path, size: int) -> None:
    """Bytes of which no two parts are the same."""
    block = bytearray(os.urandom(PART))
    with path.open("wb") as file:
        for number in range(0, size, PART):
            block[:16] = number.to_bytes(16, "big")
            file.write(block[: min(PART, size - number)])


def in_parallel(
    size: int, move: Callable[[http.client.HTTPConnection, int, int], None], origin: str
) -> float:
    """Seconds in which eight connections move all parts."""
    own = threading.local()

    def one(start: int) -> None:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPConnection(origin, timeout=120)
        move(own.connection, start, min(PART, size - start))

    begin = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, range(0, size, PART)))
    return time.perf_counter() - begin


def plain(store: ObjectStore, path: Path, size: int, back: Path) -> tuple[float, float]:
    """Seconds of plain PUTs and GETs."""
    origin = urlsplit(store.presign_get("x")).netloc

    def target(url: str) -> str:
        return urlsplit(url).path + "?" + urlsplit(url).query

    with path.open("rb") as source, back.open("wb") as sink:

        def put(connection: http.client.HTTPConnection, start: int, count: int) -> None:
            data = os.pread(source.fileno(), count, start)
            connection.request("PUT", target(store.presign_put(f"bench/{start}")), body=data)
            assert connection.getresponse().read() is not None

        def get(connection: http.client.HTTPConnection, start: int, count: int) -> None:
            connection.request("GET", target(store.presign_get(f"bench/{start}")))
            data = connection.getresponse().read()
            assert len(data) == count
            os.pwrite(sink.fileno(), data, start)

        return in_parallel(size, put, origin), in_parallel(size, get, origin)


def child(platform: Platform, *arguments: str) -> dict[str, float]:
    """What a client in a process of its own took: seconds, and MB of memory."""
    client = platform.client()
    env = {**platform.env, "CAIRN_URL": client.url, "CAIRN_TOKEN": client.token()}
    argv = [sys.executable, "-c", WORK, *arguments]
    done = subprocess.run(argv, env=env, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def stored(platform: Platform) -> int:
    """Bytes of the store's blobs."""
    return sum(path.stat().st_size for path in platform.data.glob("**/t/main/blobs/*/*") if path.is_file())


def large(platform: Platform, store: ObjectStore, folder: Path, size: int) -> dict[str, float]:
    path = folder / "state.bin"
    write(path, size)
    os.sync()
    put, get = plain(store, path, size, folder / "plain.bin")
    # A commit brings its bytes to the disk; plain PUTs alone do not.
    begin = time.perf_counter()
    os.sync()
    sync = time.perf_counter() - begin
    (folder / "plain.bin").unlink()
    before = stored(platform)
    up = child(platform, "up", str(path), "checkpoint")
    first = stored(platform)
    again = child(platform, "up", str(path), "checkpoint")
    second = stored(platform)
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"changed")
    child(platform, "up", str(path), "checkpoint")
    third = stored(platform)
    path.unlink()
    down = child(platform, "down", str(folder / "back"), "checkpoint")
    assert [each.name for each in (folder / "back").iterdir()] == ["state.bin"]
    mb = size / 1e6
    return {
        "size_mb": round(mb),
        "up_mb_s": round(mb / up["seconds"]), "plain_up_mb_s": round(mb / put),
        "up_ratio": round(put / up["seconds"], 2),
        "up_ratio_with_sync": round((put + sync) / up["seconds"], 2),
        "down_mb_s": round(mb / down["seconds"]), "plain_down_mb_s": round(mb / get),
        "down_ratio": round(get / down["seconds"], 2),
        "up_rss_mb": round(up["rss_mb"]), "down_rss_mb": round(down["rss_mb"]),
        "stored_mb": round((first - before) / 1e6),
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
    return {
        "files": count,
        "first_files_s": round(count / first["seconds"]), "known_files_s": round(count / again["seconds"]),
        "down_files_s": round(count / down["seconds"]), "files_rss_mb": round(first["rss_mb"]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=2.0)
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
        found = large(platform, store, folder, int(options.gb * 10**9))
        print(json.dumps({"bench": "checkpoint", **found, **small(platform, folder, options.files)}))
    finally:
        platform.down()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
