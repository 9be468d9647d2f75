"""What a job uses of the machine, every five seconds, as metrics of its own run: ``system/...``.

Of the job's processes: cores, memory, disk traffic; of the machine: network, room on the disk; of the job's
GPUs what NVML tells. Their step is the time in seconds since 1970, so that attempts follow each other.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn._runner.gpu import Gpus
from cairn._runner.memory import memory_limit
from cairn._spool import Writer

_log = logging.getLogger("cairn")

EVERY_SECONDS = 5.0
# Of one core; where a look costs more, looks come less often.
MOST_LOAD = 0.002
_GIB, _MIB = 2**30, 2**20
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# So often a process that was foreign is looked at again: its number may have gone to one of ours.
_RECHECK = 12


@dataclass(frozen=True, slots=True)
class Use:
    """What some processes have used: seconds of CPU and bytes of disk so far, bytes of memory now."""

    cpu: float = 0.0
    memory: int = 0
    read: int = 0
    written: int = 0


class System:
    """A thread that samples until it is stopped. `gpus` per rank; `first` is the number of the first rank."""

    def __init__(
        self, writer: Writer, *, pids: Sequence[int], gpus: Sequence[Sequence[int]], folder: Path,
        ranks: int, first: int = 0, every: float = EVERY_SECONDS,
    ) -> None:  # fmt: skip
        self._writer = writer
        self._pids = list(pids)
        self._folder = folder
        self._every = every
        self._prefixes = [f"system/rank{first + n}/" if ranks > 1 else "system/" for n in range(len(pids))]
        numbers = [*gpus, *[()] * len(pids)][: len(pids)]
        self._gpus = [Gpus(own) if own else None for own in numbers]
        self._processes = Processes()
        self._before: tuple[float, list[Use], tuple[int, int]] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cairn-system", daemon=True)
        # The most that all ranks held together, and what there is, in bytes.
        self.memory_peak = 0
        self.memory_limit = memory_limit()

    def start(self) -> None:
        """Begins; the first sample comes after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what is sampled is written."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _run(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            began = time.thread_time()
            try:
                self._look()
            except Exception:
                _log.exception("cairn: system metrics end here")
                return
            pause = max(self._every, (time.thread_time() - began) / MOST_LOAD)

    def _look(self) -> None:
        now, uses, net = time.monotonic(), self._processes.use(self._pids), _network()
        self.memory_peak = max(self.memory_peak, sum(use.memory for use in uses))
        before, self._before = self._before, (now, uses, net)
        if before is None:
            return
        span = now - before[0]
        values: dict[str, float] = {}
        for prefix, old, use, gpus in zip(self._prefixes, before[1], uses, self._gpus, strict=True):
            found = {**_rates(old, use, span), "memory": use.memory / _GIB,
                     "memory_percent": 100 * use.memory / self.memory_limit}  # fmt: skip
            values |= {prefix + name: value for name, value in found.items()}
            if gpus is not None:
                values |= {prefix + name: value for name, value in gpus.sample().items()}
        values |= {
            self._prefixes[0] + name: value for name, value in self._machine(before[2], net, span).items()
        }
        wall = time.time()
        self._writer.points(tuple(values), values.values(), int(wall), wall)

    def _machine(self, old: tuple[int, int], net: tuple[int, int], span: float) -> Mapping[str, float]:
        disk = os.statvfs(self._folder)
        return {
            "disk_percent": 100 * (1 - disk.f_bavail / disk.f_blocks) if disk.f_blocks else 0.0,
            "net_in": max(0, net[0] - old[0]) / span / _MIB,
            "net_out": max(0, net[1] - old[1]) / span / _MIB,
        }


class Processes:
    """The processes of ranks, by what /proc says; those of others are looked at once."""

    def __init__(self) -> None:
        self._foreign: set[str] = set()
        self._looks = 0

    def use(self, pids: Sequence[int]) -> list[Use]:
        """What each rank and all that it started have used; `pids` lead sessions of their own."""
        self._looks += 1
        if self._looks % _RECHECK == 0:
            self._foreign.clear()
        names = {name for name in os.listdir("/proc") if name.isdigit()}
        self._foreign &= names
        own: dict[int, tuple[int, int, Use]] = {}
        for name in names - self._foreign:
            if (found := _look(name)) is not None:
                own[int(name)] = found
        whose = {pid: _leader(pid, own, frozenset(pids)) for pid in own}
        self._foreign |= {str(pid) for pid, leader in whose.items() if leader is None}
        return [_sum({pid: own[pid][2] for pid, leader in whose.items() if leader == rank}) for rank in pids]


def _look(name: str) -> tuple[int, int, Use] | None:
    """Parent, session and use of a process; None: it is gone."""
    try:
        with open(f"/proc/{name}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # Its own time, and that of its children that have ended.
    ticks = sum(map(int, fields[11:15]))
    return int(fields[1]), int(fields[3]), Use(ticks / _TICKS, int(fields[21]) * _PAGE)


def _traffic(pid: int) -> tuple[int, int]:
    try:
        with open(f"/proc/{pid}/io", "rb", buffering=0) as file:
            found = dict(line.split(b": ") for line in file.read().splitlines())
        return int(found[b"read_bytes"]), int(found[b"write_bytes"])
    except (OSError, KeyError, ValueError):
        return 0, 0


def _leader(pid: int, own: Mapping[int, tuple[int, int, Use]], leaders: frozenset[int]) -> int | None:
    """The rank that a process belongs to: by its session, else by its ancestors."""
    for _ in range(100):
        if pid in leaders:
            return pid
        if pid not in own:
            return None
        parent, session, _use = own[pid]
        if session in leaders:
            return session
        pid = parent
    return None


def _sum(uses: Mapping[int, Use]) -> Use:
    traffic = [_traffic(pid) for pid in uses]
    return Use(
        cpu=sum(use.cpu for use in uses.values()), memory=sum(use.memory for use in uses.values()),
        read=sum(read for read, _ in traffic), written=sum(written for _, written in traffic),
    )  # fmt: skip


def _rates(old: Use, new: Use, span: float) -> dict[str, float]:
    """A process that has ended takes its counters along: never below zero."""
    return {
        "cpu": max(0.0, new.cpu - old.cpu) / span,
        "disk_read": max(0, new.read - old.read) / span / _MIB,
        "disk_write": max(0, new.written - old.written) / span / _MIB,
    }


def _network() -> tuple[int, int]:
    """Bytes received and sent by this machine, but to itself."""
    received = sent = 0
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    except OSError:
        return 0, 0
    for line in lines:
        name, _, rest = line.partition(":")
        fields = rest.split()
        if name.strip() != "lo" and len(fields) > 8:
            received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent
