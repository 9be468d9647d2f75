"""kill -9 of processes that log: ``python -m tests.bench.bench_sdk_kills [KILLS]`` prints one JSON line.

Half of KILLS (1,000) runs have no server, and are read as `cairn.sync` reads them. The other half ships to a
bus while it logs; what is left goes there by `cairn.sync`, and the stream is read as the tracker reads it.
Each run dies at a random moment of its first fifth (two, with a bus) of a second, `init` included. `lost`:
what a call returned from and is not there; `wrong`: what is there twice, or never was logged; `corrupt`:
segments that end in the midst of a record though another one follows. `torn`: last segments that end so; a
record that wide takes the kernel long enough to be killed in, and its call had not returned. `parted`: such
calls whose row takes several records, of which the first ones are there.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cairn
from cairn._batch import Identity
from cairn._local import local_runs
from cairn._segments import writers
from cairn._tail import Tail
from cairn.job.v1 import events_pb2
from tests.bench.bench_sdk import bus
from tests.harness import kills, streams

WITHIN = 0.2
# To connect takes a while.
WITHIN_SERVER = 0.4


def read_spool(spool: Path, uid: str) -> Iterator[events_pb2.JobEvent]:
    """The events that a shipper would send."""
    for folder in writers(spool):
        tail = Tail(folder)
        while messages := tail.next():
            for message in messages:
                data = message.encode(Identity("main", uid), writer=folder.name, segment=tail.segment)
                yield events_pb2.JobEvent.FromString(data)
                tail.taken(message)


def without_server(place: Path, count: int, chance: random.Random) -> dict[str, int]:
    with kills.Nursery(place) as nursery:
        killed = [nursery.kill_one(chance, within=WITHIN) for _ in range(count)]
    ends = [kills.torn(run.folder / "spool") for run in local_runs(place)]
    events = (event for run in local_runs(place) for event in read_spool(run.folder / "spool", run.uid))
    result = judge(place, killed, kills.once(events))
    return result | {"corrupt": sum(early for early, _ in ends), "torn": sum(late for _, late in ends)}


def with_server(place: Path, count: int, chance: random.Random, url: str) -> dict[str, int]:
    server = {"CAIRN_URL": "http://127.0.0.1:1", "CAIRN_TOKEN": "t", "CAIRN_BUS_URL": url}
    with kills.Nursery(place, server) as nursery:
        killed = [nursery.kill_one(chance, within=WITHIN_SERVER) for _ in range(count)]
    before = len(asyncio.run(streams.read(url)))
    os.environ |= server
    sent = cairn.sync(place)
    events = asyncio.run(streams.read(url))
    result = judge(place, killed, kills.once(events))
    return result | {"unsent": list(sent.values()).count(False), "messages_before_sync": before}


def judge(place: Path, killed: list[kills.Killed], found: dict[str, kills.Found]) -> dict[str, int]:
    names = kills.names(place)
    verdicts = [kills.verdict(run, found.get(names.get(run.name, ""), kills.Found())) for run in killed]
    return {
        "kills": len(killed),
        "rows": sum(sum(run.rows) for run in killed),
        "points": sum(each.points.total() for each in found.values()),
        "lines": sum(run.lines for run in killed),
        "lost": sum(each.lost for each in verdicts),
        "wrong": sum(each.wrong for each in verdicts),
        "parted": sum(each.parted for each in verdicts),
    }


def main(count: int) -> None:
    chance = random.Random(1)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as name:
        folder = Path(name)
        result: dict[str, object] = {"no server": without_server(folder / "alone", count // 2, chance)}
        with bus(folder) as url:
            result["server"] = with_server(folder / "sent", count - count // 2, chance, url)
    result |= {"seconds": round(time.monotonic() - begin), "load": round(os.getloadavg()[0], 1)}
    json.dump(result, sys.stdout)
    print()


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["1000"])[0]))
