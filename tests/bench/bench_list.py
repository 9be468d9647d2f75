"""The list of runs over HTTP: ``python -m tests.bench.bench_list`` prints one JSON line.

Milliseconds (p50, p95) of a GET through the gateway of a whole platform on this machine, by one client that
reads all of each answer, with the bar of 300 ms: pages of a team's 10,000 runs with ten metrics each, unless
told.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import asyncpg

from tests.bench.bench_search import fill
from tests.bench.timing import timed
from tests.harness.people import port_of, secrets_in
from tests.harness.platform import Platform
from tests.harness.tracker import TEAM

BAR = 300
TIMES = 40
LISTS: dict[str, dict[str, str | int]] = {
    "newest": {},
    "by metric": {"order_by": "metrics.key1 desc"},
    "by config": {"order_by": "config.lr"},
    "filtered": {"filter": "config.lr < 0.05 and metrics.key1 > 0.5"},
    "newest 1000": {"page_size": 1000},
}


class Caller:
    """One connection that stays open."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._http = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}"}

    def runs(self, **query: str | int) -> list[Any]:
        self._http.request("GET", f"/api/v1/teams/{TEAM}/runs?{urlencode(query)}", headers=self._headers)
        answer = self._http.getresponse()
        told = json.loads(answer.read())
        assert answer.status == 200, told
        return list(told["runs"])


async def put_runs(data: Path, runs: int, keys: int) -> None:
    secret = secrets_in(data)["postgres"]["tracker"]
    url = f"postgresql://tracker:{secret}@127.0.0.1:{port_of(data, 'postgres')}/cairn"
    db = await asyncpg.connect(url, server_settings={"search_path": "tracker"})
    try:
        await fill(db, runs, keys)
        await db.execute("ANALYZE")
    finally:
        await db.close()


async def main(runs: int, keys: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        os.chmod(folder, 0o755)
        platform = Platform(Path(folder))
        await asyncio.to_thread(platform.up, "--only", "tracker,gateway,quota")
        try:
            await put_runs(platform.data, runs, keys)
            status = await asyncio.to_thread(platform.status)
            caller = Caller(status["url"], secrets_in(platform.data)["admin_token"])
            result: dict[str, object] = {}
            for name, query in LISTS.items():

                async def ask(query: dict[str, str | int] = query) -> list[Any]:
                    return await asyncio.to_thread(lambda: caller.runs(**query))

                assert len(await ask()) == query.get("page_size", 100), name
                result[name] = await timed(ask, TIMES, bar=BAR)
        finally:
            await asyncio.to_thread(platform.down)
    load = round(os.getloadavg()[0], 1)
    json.dump({"runs": runs, "keys": keys, **result, "load": load}, sys.stdout)
    print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--keys", type=int, default=10, help="metrics of each run")
    given = parser.parse_args()
    asyncio.run(main(given.runs, given.keys))
