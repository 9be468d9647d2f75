"""Many times the load that a caller may bring: ``python -m tests.bench.bench_overload [SECONDS]`` prints one
JSON line.

Threads of one token ask as fast as they can while another token asks now and then. Counted are the answers
by status (a refusal must say when to come back), how long the other one waits meanwhile, the memory of the
gateway and the tracker, and how long after the flood its token is answered again.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.harness.people import secrets_in
from tests.harness.platform import Platform

THREADS = 24
LIMIT, BURST = 50, 100
PATH = "/api/v1/teams/main/runs?page_size=10"


class Caller:
    """One connection of one token."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._http = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
        self._headers = {"Authorization": f"Bearer {token}"}

    def ask(self, method: str = "GET", path: str = PATH, body: str | None = None) -> tuple[int, str, bytes]:
        """Status, Retry-After and body."""
        headers = {**self._headers, **({"Content-Type": "application/json"} if body else {})}
        self._http.request(method, path, body, headers)
        answer = self._http.getresponse()
        return answer.status, answer.headers.get("Retry-After", ""), answer.read()


def flood(url: str, token: str, until: float, seen: Counter[str]) -> None:
    """Asks until then, whatever is answered."""
    caller = Caller(url, token)
    while time.monotonic() < until:
        status, when, _ = caller.ask()
        seen[f"{status}" if status != 429 or when else "429 without Retry-After"] += 1


def measure(url: str, loud: str, quiet: str, pids: dict[str, int], seconds: float) -> dict[str, object]:
    """All figures."""
    sizes = {name: psutil.Process(pid) for name, pid in pids.items()}
    before = {name: one.memory_info().rss >> 20 for name, one in sizes.items()}
    most, seen, waits = dict(before), Counter[str](), list[float]()
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=flood, args=(url, loud, until, seen)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    other = Caller(url, quiet)
    refused = 0
    while time.monotonic() < until:
        begin = time.perf_counter()
        refused += other.ask()[0] != 200
        waits.append((time.perf_counter() - begin) * 1000)
        most = {name: max(most[name], one.memory_info().rss >> 20) for name, one in sizes.items()}
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    ended, back = time.monotonic(), Caller(url, loud)
    while back.ask()[0] != 200:
        time.sleep(0.05)
    waits.sort()
    return {
        "times_the_limit": round(seen.total() / seconds / LIMIT, 1),
        "answers": dict(seen),
        "other_refused": refused,
        "other_p50_ms": round(waits[len(waits) // 2], 1),
        "other_p95_ms": round(waits[len(waits) * 95 // 100], 1),
        "rss_before_mib": before,
        "rss_most_mib": most,
        "answered_again_s": round(time.monotonic() - ended, 2),
    }


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        os.chmod(folder, 0o755)
        limits = {"CAIRN_REQUESTS_PER_SECOND": str(LIMIT), "CAIRN_REQUESTS_BURST": str(BURST)}
        platform = Platform(Path(folder), **limits)
        platform.up("--only", "tracker,gateway,quota")
        try:
            url, loud = platform.status()["url"], secrets_in(platform.data)["admin_token"]
            made = Caller(url, loud).ask("POST", "/api/v1/tokens", json.dumps({"scope": "SCOPE_READ"}))
            quiet = json.loads(made[2])["secret"]
            pids = {name: platform.pid(name) for name in ("gateway", "tracker")}
            result = measure(url, loud, quiet, pids, seconds)
        finally:
            platform.down()
    json.dump({**result, "load": round(os.getloadavg()[0], 1)}, sys.stdout)
    print()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
