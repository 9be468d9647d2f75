"""Live updates to many at once: ``python -m tests.bench.bench_sse [LISTENERS] [FACTS]``, one JSON line.

500 listeners of 25 people in five teams on a real gateway and a real bus. Facts are committed to the bus one
after the other, each heard by the 100 listeners of its team; then to one team that all of them listen to. How
many milliseconds passed from a fact's commit until a listener had it (p50, p99, worst), and how long it took
until all were back, by id, after the gateway was gone. The bar is 1,000 ms.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cairn.scheduler.v1 import events_pb2
from cairn_common import subjects
from cairn_common.bus import Bus, connect
from cairn_common.ids import new_uid
from tests.harness import servers
from tests.harness.gateway import Neighbours, gateway, neighbours

EACH = 25
ALL = "all"


class Listener:
    """One client, by plain sockets: what is measured is the gateway, not an HTTP library."""

    def __init__(self, token: str, team: str) -> None:
        self.team = team
        self.last = ""
        # How often it was refused, or cut.
        self.again = 0
        self.lines = [f"GET /api/v1/teams/{team}/events HTTP/1.1", "Host: localhost"]
        self.lines += [f"Authorization: Bearer {token}", "Connection: close"]
        # Of each fact: when it was here.
        self.seen: dict[str, float] = {}
        self.ready = asyncio.Event()
        self.news = asyncio.Event()

    async def listen(self, port: int) -> None:
        """For ever; comes back by id, as clients of such streams do."""
        while True:
            await self._once(port)
            self.again += 1
            await asyncio.sleep(1.0)

    async def _once(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        back = [f"Last-Event-ID: {self.last}"] if self.last else []
        writer.write("\r\n".join([*self.lines, *back, "", ""]).encode())
        try:
            while line := await reader.readline():
                now = time.perf_counter()
                if line.startswith(b"id: "):
                    self.last = line[4:].strip().decode()
                elif line.startswith(b"event: ready"):
                    self.ready.set()
                elif line.startswith(b"data: ") and len(line) > 10:
                    self.seen.setdefault(json.loads(line[6:])["uid"], now)
                    self.news.set()
        finally:
            writer.close()

    async def has(self, uid: str) -> None:
        """Returns once it has this fact."""
        while uid not in self.seen:
            self.news.clear()
            await self.news.wait()


async def tell(bus: Bus, team: str) -> tuple[str, float]:
    """Commits a fact; its uid, and when."""
    uid = new_uid()
    fact = events_pb2.SchedulerEvent(id=new_uid())
    fact.job_finished.job.uid = uid
    fact.job_finished.job.display_name = "x" * 300
    await bus.publish(
        subjects.subject("scheduler", "job", "finished", team, uid), fact.SerializeToString(), fact.id
    )
    return uid, time.perf_counter()


@asynccontextmanager
async def open_all(listeners: list[Listener], port: int) -> AsyncIterator[None]:
    """All of them, for the block."""
    tasks = [asyncio.create_task(listener.listen(port)) for listener in listeners]
    for listener in listeners:
        await asyncio.wait_for(listener.ready.wait(), 60)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def measure(bus: Bus, listeners: list[Listener], teams: list[str], facts: int) -> dict[str, float]:
    """Facts one after the other, each awaited at all who are to hear it."""
    late: list[float] = []
    for number in range(facts):
        team = teams[number % len(teams)]
        uid, committed = await tell(bus, team)
        hearing = [listener for listener in listeners if listener.team == team]
        await asyncio.wait_for(asyncio.gather(*(listener.has(uid) for listener in hearing)), 60)
        late += [(listener.seen[uid] - committed) * 1000 for listener in hearing]
    late.sort()
    return {
        "heard": len(late),
        "p50_ms": round(late[len(late) // 2], 1),
        "p99_ms": round(late[len(late) * 99 // 100], 1),
        "worst_ms": round(late[-1], 1),
    }


def people(behind: Neighbours, listeners: int) -> list[tuple[str, list[str]]]:
    """Tokens with their teams: five small ones and one that all are in."""
    made = []
    for number in range(-(-listeners // EACH)):
        teams = [f"team{number % 5}", ALL]
        made.append((behind.caller(f"cairn_0123456789abcdef-{number:04}", *teams), teams))
    return made


async def main(listeners: int, facts: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as folder:
        server = await asyncio.to_thread(servers.start_nats, Path(folder))
        try:
            async with AsyncExitStack() as stack:
                behind = await stack.enter_async_context(neighbours())
                bus = await stack.enter_async_context(connect(server.url, name="bench"))
                for name in ("SCHEDULER", "TRACKER", "QUOTA"):
                    await bus.ensure_stream(name, subjects.STREAMS[name])
                known = people(behind, listeners)
                result: dict[str, object] = {}
                for what, which in (("five teams", 0), ("one team", 1)):
                    some = [Listener(token, teams[which]) for token, teams in known for _ in range(EACH)][
                        :listeners
                    ]
                    async with gateway(server.url, behind.address) as client:
                        port = client.base_url.port or 0
                        begin = time.perf_counter()
                        async with open_all(some, port):
                            opened = time.perf_counter() - begin
                            each = await measure(bus, some, sorted({one.team for one in some}), facts)
                    missed, _ = await tell(bus, some[0].team)
                    for one in some:
                        one.ready.clear()
                    begin = time.perf_counter()
                    async with (
                        gateway(server.url, behind.address) as client,
                        open_all(some, client.base_url.port or 0),
                    ):
                        hearing = [one for one in some if one.team == some[0].team]
                        await asyncio.wait_for(asyncio.gather(*(one.has(missed) for one in hearing)), 60)
                        back = time.perf_counter() - begin
                    again = sum(one.again for one in some)
                    result[what] = {
                        "again": again,
                        "opened_s": round(opened, 2),
                        **each,
                        "back_s": round(back, 2),
                    }
        finally:
            await asyncio.to_thread(server.stop)
    json.dump({"listeners": listeners, **result, "load": round(os.getloadavg()[0], 1)}, sys.stdout)
    print()


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]]
    asyncio.run(main(*(given + [500, 40][len(given) :])))
