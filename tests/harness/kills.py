"""Runs that are killed by kill -9 while they log, and what may be said of each of them afterwards.

Two threads log rows of changing keys, some wider than a record, and a third writes lines, over many small
segments. After each call that returned, its thread says so in memory that outlives it.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cairn._segments import SegmentReader, segment_path, segments, writers
from cairn.job.v1 import events_pb2

WIDE = 1_100
THREADS = 2

# Forked, not started anew: an interpreter takes longer to start than most of these runs live.
_SOURCE = f"""
import mmap, os, sys, threading
from functools import partial
import cairn
from cairn import _capture, _run, _spool
if sys.argv[1:]:
    import nats.aio.client, nats.js.errors
    from cairn import _batch, _http, _ship, _sync

def training(place, told):
    os.chdir(place)
    sys.stdout = open(os.devnull, "w")
    with open(told, "r+b") as file:
        said = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
    _run.Writer = partial(_spool.Writer, segment_bytes=20_000)
    run = cairn.init(name=os.path.basename(told))

    def log(thread):
        for step in range(10**9):
            values = {{f"{{thread}}/loss": step}}
            if step % 3 == 0:
                values["nested"] = {{f"{{thread}}/a": step}}
            if step % 100 == 99:
                values |= {{f"{{thread}}/wide/{{number}}": number for number in range({WIDE})}}
            cairn.log(values, step=step)
            said[thread] = step + 1

    def print_lines():
        for number in range(10**9):
            cairn.log(f"line {{number}}")
            said[{THREADS}] = number + 1

    threads = [threading.Thread(target=log, args=(n,)) for n in range({THREADS})]
    threads.append(threading.Thread(target=print_lines))
    for thread in threads:
        thread.start()

for order in sys.stdin:
    child = os.fork()
    if not child:
        try:
            training(*order.split())
        except BaseException:
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Killed:
    """What a killed run's calls had returned from: rows of each thread, and lines."""

    name: str
    rows: tuple[int, ...]
    lines: int


@dataclass
class Found:
    """What has been read of a run."""

    points: Counter[tuple[str, int, float]] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def add(self, event: events_pb2.JobEvent) -> None:
        for block in event.points_logged.blocks:
            values = iter(block.values)
            self.points.update((key, step, next(values)) for step in block.steps for key in block.keys)
        self.lines += [line.text for line in event.lines_logged.lines]


class Nursery:
    """Makes runs in `place` that log until they are killed; with `server` they ship while they do."""

    def __init__(self, place: Path, server: Mapping[str, str] | None = None) -> None:
        self.place = place
        place.mkdir()
        env = os.environ | {"CAIRN_CONFIG": str(place / "none"), "CAIRN_URL": "", "CAIRN_TOKEN": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SOURCE, *(["ship"] if server else [])], env=env | dict(server or {}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def kill_one(self, chance: random.Random, *, within: float) -> Killed:
        """Begins a run, and kills it at a moment of its first `within` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        told = self.place / f"told-{chance.getrandbits(64):016x}"
        told.write_bytes(bytes(8 * (THREADS + 1)))
        self._process.stdin.write(f"{self.place} {told}\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        time.sleep(chance.uniform(0, within))
        os.kill(child, signal.SIGKILL)
        assert int(self._process.stdout.readline()) == -signal.SIGKILL, "the run ended by itself"
        with told.open("rb") as file, ExitStack() as stack:
            shared = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            *rows, lines = (int.from_bytes(shared[at : at + 8], "little") for at in range(0, len(shared), 8))
        return Killed(told.name, tuple(rows), lines)


def names(place: Path) -> dict[str, str]:
    """Uids of the runs in a folder, by name. Raises ValueError for a record that is damaged."""
    records = [json.loads(path.read_text()) for path in place.glob(".cairn/runs/*/run.json")]
    return {record["name"]: record["uid"] for record in records}


def once(events: Iterable[events_pb2.JobEvent]) -> dict[str, Found]:
    """As the tracker reads: what lies below a writer's mark has come before. By run.

    Asserts that nothing is skipped and nothing overlaps.
    """
    marks: dict[str, tuple[int, int]] = {}
    found: dict[str, Found] = defaultdict(Found)
    for event in events:
        mark = marks.get(event.writer, (1, 0))
        if (event.segment, event.end_offset) <= mark:
            continue
        assert (event.segment, event.start_offset) in (mark, (mark[0] + 1, 0)), "a gap, or an overlap"
        marks[event.writer] = (event.segment, event.end_offset)
        found[event.run_uid].add(event)
    return found


@dataclass(frozen=True)
class Verdict:
    """Points and lines of a run: `lost` though a call returned from them, or there twice or never logged
    (`wrong`). Calls `parted` were killed in the midst of a row of several records: the first ones are there.
    """

    lost: int = 0
    wrong: int = 0
    parted: int = 0


def verdict(killed: Killed, found: Found) -> Verdict:
    """What has become of what a run logged."""
    lost = wrong = parted = 0
    seen = Counter(found.points)
    for thread, returned in enumerate(killed.rows):
        for step in range(returned + 1):
            row = _row(thread, step)
            there = [times for point in row if (times := seen.pop(point, 0))]
            wrong += sum(there) - len(there)
            if step < returned:
                lost += len(row) - len(there)
            # The call that was killed is there as a whole, or not at all, or is more than a record.
            elif there and len(there) != len(row):
                wrong, parted = wrong + (len(row) < WIDE), parted + (len(row) >= WIDE)
    lost += max(0, killed.lines - len(found.lines))
    wrong += found.lines != [f"line {number}" for number in range(len(found.lines))]
    return Verdict(lost, wrong + sum(seen.values()), parted)


def torn(spool: Path) -> tuple[int, int]:
    """Segments that cannot be read to their end: before a writer's last one, and among the last ones (where
    the kernel may have been in the midst of a large write)."""
    early = late = 0
    for folder in writers(spool):
        for number in (there := segments(folder)):
            reader = SegmentReader(segment_path(folder, number))
            while reader.read():
                pass
            if reader.has_more():
                early, late = early + (number != there[-1]), late + (number == there[-1])
    return early, late


def _row(thread: int, step: int) -> list[tuple[str, int, float]]:
    row = [(f"{thread}/loss", step, float(step))]
    if step % 3 == 0:
        row.append((f"nested/{thread}/a", step, float(step)))
    if step % 100 == 99:
        row += [(f"{thread}/wide/{number}", step, float(number)) for number in range(WIDE)]
    return row
