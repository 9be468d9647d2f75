"""A place whose jobs end by a timer, so that what is measured are Cairn's own services.

A job of `run: sleep 0.2` is over 0.2 s after it was launched. What happens is written to `timed.jsonl` in the
scheduler's data folder, line by line before it is told: the place outlives the scheduler, and who opens it
again finds jobs whose time has passed meanwhile ended at their time. The file is also what happened, for who
judges a run: see `verdict`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from cairn_scheduler.causes import Evidence
from cairn_scheduler.cluster import Ended, Held, Order, Remains, Report, Started
from cairn_scheduler.infra import Infra, InfraState, Placement, Survey
from cairn_scheduler.leading import Office
from cairn_scheduler.model import Resources, Spec

FILE = "timed.jsonl"
GPUS = "BENCH_GPUS"
# So large that it is taken for a place without bounds.
BOUNDLESS = Resources(cpu_milli=2**41, gpus=2**30, memory_mib=2**40)


@dataclass(slots=True)
class Timed:
    """An attempt here. `end`: when it ends, or ended."""

    uid: str
    start: float
    end: float
    over: bool = False
    stopped: bool = False
    timer: asyncio.TimerHandle | None = None

    def ended(self) -> Ended:
        """What is told of its end."""
        end = {"start_time": self.start, "end_time": self.end}
        if self.stopped:
            return Ended(self.uid, Evidence(signal=15, stopped=True, **end))
        return Ended(self.uid, Evidence(exit_code=0, **end))

    def started(self) -> Started:
        """What is told of its beginning."""
        return Started(self.uid, datetime.fromtimestamp(self.start, UTC), ())


class TimedCluster:
    """See the module."""

    name = "local"

    def __init__(self, file: TextIO, has: Resources) -> None:
        self._file = file
        self._has = has
        self._known: dict[str, Timed] = {}
        self._reports: asyncio.Queue[Report] = asyncio.Queue()

    def capacity(self) -> Resources:
        """What the bench says."""
        return self._has

    async def survey(self, *, refresh: bool) -> Survey:
        """Always there."""
        return Survey((Infra(name=self.name, state=InfraState.ENABLED),))

    async def placements(self, spec: Spec) -> Sequence[Placement]:
        """Here."""
        return [Placement(infra=self.name)]

    async def launch(self, order: Order) -> None:
        """Starts the clock of an attempt, once."""
        if order.attempt_uid in self._known:
            return
        now = time.time()
        made = Timed(order.attempt_uid, now, now + seconds_of(order.spec.run))
        gpus = order.spec.resources.gpus * order.spec.num_nodes
        self._note("launch", made, job=order.run_uid, team=order.team, gpus=gpus)
        self._known[made.uid] = made
        self._follow(made)

    async def stop(self, attempt_uid: str, *, notice: str = "") -> None:
        """Ends it at once: its grace is not used up."""
        found = self._known.get(attempt_uid)
        if found is not None and not found.over:
            found.stopped, found.end = True, time.time()
            self._over(found)

    async def list(self) -> set[str]:
        """All that are not tidied away."""
        return set(self._known)

    async def reports(self) -> AsyncIterator[Report]:
        """As they come."""
        while True:
            yield await self._reports.get()

    async def remains(self, attempt_uid: str) -> Remains:
        """Nothing is ever left."""
        return Remains.SHIPPED

    async def ship(self, attempt_uid: str, *, token: str) -> None:
        """There is nothing."""

    async def tidy(self, attempt_uid: str) -> None:
        """Forgets it."""
        found = self._known.pop(attempt_uid, None)
        if found is not None:
            self._note("tidy", found)

    async def inventory(self) -> Sequence[Held]:
        """What runs."""
        return [Held(uid, uid, "RUNNING") for uid, one in self._known.items() if not one.over]

    async def discard(self, attempt_uid: str) -> None:
        """As `stop`."""
        await self.stop(attempt_uid)

    def adopt(self, lines: Sequence[str]) -> None:
        """Takes up what another process began."""
        for line in lines:
            word, uid, start, end, stopped = _read(line)
            if word == "tidy":
                self._known.pop(uid, None)
            elif word == "launch":
                self._known[uid] = Timed(uid, start, end)
            else:
                known = self._known[uid]
                known.end, known.over, known.stopped = end, True, stopped
        for made in self._known.values():
            if made.over:
                self._reports.put_nowait(made.ended())
            else:
                self._follow(made)

    def detach(self) -> None:
        """Watches no more; the clocks go on."""
        for made in self._known.values():
            if made.timer is not None:
                made.timer.cancel()

    def _follow(self, made: Timed) -> None:
        self._reports.put_nowait(made.started())
        left = max(0.0, made.end - time.time())
        made.timer = asyncio.get_running_loop().call_later(left, self._over, made)

    def _over(self, made: Timed) -> None:
        if made.timer is not None:
            made.timer.cancel()
        made.over = True
        self._note("end", made)
        self._reports.put_nowait(made.ended())

    def _note(self, word: str, made: Timed, **more: object) -> None:
        line = {"word": word, "uid": made.uid, "start": made.start, "end": made.end, "stopped": made.stopped}
        # Unbuffered down to the kernel: a SIGKILL of this process loses nothing.
        self._file.write(json.dumps(line | more) + "\n")
        self._file.flush()


def seconds_of(run: str) -> float:
    """Of `sleep SECONDS`."""
    word, _, seconds = run.strip().partition(" ")
    return float(seconds) if word == "sleep" else 0.0


def _read(line: str) -> tuple[str, str, float, float, bool]:
    one = json.loads(line)
    return one["word"], one["uid"], one["start"], one["end"], one["stopped"]


def whole_lines(path: Path) -> list[str]:
    """What was written whole."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


@asynccontextmanager
async def open_timed(office: Office) -> AsyncIterator[Sequence[TimedCluster]]:
    """The scheduler's only place for the block; BENCH_GPUS: how many it has (absent: no bound)."""
    gpus = int(os.environ.get(GPUS, "0"))
    has = Resources(cpu_milli=2**39, gpus=gpus, memory_mib=2**38) if gpus else BOUNDLESS
    path = office.data_dir / FILE
    lines = whole_lines(path)
    with path.open("a") as file:
        cluster = TimedCluster(file, has)
        cluster.adopt(lines)
        try:
            yield [cluster]
        finally:
            cluster.detach()
