"""What runs on a data folder, as anybody may ask; and how to stop it."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from cairn._http import Api, ApiError, Unreachable
from cairn_server import credentials, processes
from cairn_server import home as homes
from cairn_server.backends import skypilot
from cairn_server.backends.program import SetupError
from cairn_server.home import Home

_DOWN_WITHIN = 60.0
_ASK_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process. `memory` is in bytes, shared pages counted once where the system tells."""

    name: str
    pid: int | None
    state: str
    port: int | None
    restarts: int
    memory: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the bus has and the tracker has not taken in: messages, and the age of the oldest in seconds."""

    messages: int
    oldest_seconds: float
    # Of the team whose stream is fullest: what it holds, and what it may hold (0: not known).
    bytes: int = 0
    limit_bytes: int = 0

    @property
    def full(self) -> bool:
        """Whether the bus takes no more, or soon will not."""
        return 0 < self.limit_bytes * 0.9 <= self.bytes

    def words(self) -> list[str]:
        """What `cairn status` says of it, in lines."""
        if not self.messages:
            return ["all that was logged is stored"]
        told = [
            f"logged, and not stored yet: {self.messages:,} messages, the oldest since"
            f" {self.oldest_seconds:.0f} s; the fullest team's stream holds {self.bytes / 2**20:.0f} of"
            f" {self.limit_bytes / 2**20:.0f} MiB"
        ]
        if self.full:
            told.append(
                "it is full: what that team's jobs log waits on their disks until the tracker takes in more"
                " (does it run? `logs/tracker.log` says why not; CAIRN_JOB_STREAM_BYTES is the limit)"
            )
        return told


@dataclass(frozen=True, slots=True)
class Status:
    """The platform on one data folder. `state` is stopped, starting, ready or stopping."""

    data: Path
    state: str
    pid: int | None
    url: str
    processes: tuple[ProcessStatus, ...]
    # SkyPilot's API server, where it is one elsewhere (CAIRN_SKYPILOT_URL), and whether it answers.
    skypilot: str = ""
    skypilot_answers: bool = False
    # What jobs logged that is not stored yet; None where the gateway does not say.
    backlog: Backlog | None = None

    @property
    def ready(self) -> bool:
        """True while it answers."""
        return self.state == "ready"

    def as_json(self) -> dict[str, Any]:
        """The same facts for `--json`."""
        return {**asdict(self), "data": str(self.data)}


def read(root: Path) -> Status:
    """The status of the platform on `root`; a folder that is not there is one where nothing runs."""
    home = Home(root)
    if not homes.is_locked(home):
        return Status(root, "stopped", None, "", ())
    state = homes.read_json(home.state)
    children = tuple(_child(entry) for entry in state.get("children", ()))
    pid = state.get("pid")
    memory = _memory(pid, with_children=False) if isinstance(pid, int) else 0
    own = ProcessStatus("cairn up", pid, state.get("state", "starting"), None, 0, memory)
    there = state.get("skypilot", "")
    found = Status(root, own.state, pid, state.get("url", ""), (own, *children), there)
    return replace(found, skypilot_answers=skypilot.answers(there)) if there else found


def backlog(found: Status) -> Backlog | None:
    """How far the tracker is behind, as the gateway of a running platform says."""
    if not found.ready or not found.url:
        return None
    try:
        api = Api(found.url, credentials.load(Home(found.data)).admin_token, timeout=_ASK_SECONDS)
        told = api.get("/api/v1/platform", patience=0).get("backlog")
    except (ApiError, Unreachable, SetupError):
        return None
    if not told:
        return None
    messages, size, limit = (int(told.get(name) or 0) for name in ("messages", "bytes", "limit_bytes"))
    return Backlog(messages, float(told.get("oldest_seconds") or 0), size, limit)


def down(root: Path) -> bool:
    """Stops the platform on `root` and waits until it is down; False where none ran.

    Raises `SetupError` where it does not stop within 60 s.
    """
    home = Home(root)
    if not homes.is_locked(home):
        return False
    state = homes.read_json(home.state)
    pid, began = state.get("pid"), state.get("began")
    if not (isinstance(pid, int) and isinstance(began, int) and processes.is_same(pid, began)):
        raise SetupError(f"Cairn on {root} is just starting; try again in a moment")
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError:
        raise SetupError(f"Cairn on {root} (pid {pid}) belongs to another user") from None
    if not processes.wait(pid, began, timeout=_DOWN_WITHIN):
        raise SetupError(f"Cairn on {root} (pid {pid}) did not stop within {_DOWN_WITHIN:.0f} s")
    return True


def _child(entry: dict[str, Any]) -> ProcessStatus:
    pid = entry.get("pid")
    alive = isinstance(pid, int) and processes.is_same(pid, entry.get("began") or -1)
    return ProcessStatus(
        name=entry["name"],
        pid=pid if alive else None,
        state=entry["state"] if alive or entry["state"] == "waiting" else "ended",
        port=entry["port"],
        restarts=entry["restarts"],
        # PostgreSQL is many processes; a service's children are jobs, which are not the platform.
        memory=_memory(pid, with_children=entry["name"] == "postgres")
        if alive and isinstance(pid, int)
        else 0,
    )


def _memory(pid: int, *, with_children: bool) -> int:
    try:
        process = psutil.Process(pid)
        family = [process, *process.children()] if with_children else [process]
    except psutil.Error:
        return 0
    return sum(_resident(member) for member in family)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.AccessDenied:
        pass
    except psutil.Error:
        return 0
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
