"""An attempt's folder: what the scheduler writes into it, and what the runner says there.

The files and their fields are the contract with `cairn._runner`; see this service's README.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn_scheduler import processes
from cairn_scheduler.causes import Evidence
from cairn_scheduler.cluster import Order

KEPT = 200
# What stays of a tidied attempt, for people: small files, no bytes of the job's, no secret. `lock` keeps its
# inode, as whoever locks another one is not kept out.
_KEPT_FILES = frozenset({"launch.json", "state.json", "end.json", "runner.log", "lock", "drained", "closed"})
_LARGEST = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RunnerState:
    """state.json: what the runner does. `start_time` in seconds since 1970."""

    phase: str
    runner_pid: int
    runner_start: int
    pids: tuple[int, ...]
    start_time: float | None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What launch.json says of the place, beside the order itself."""

    url: str
    bus_url: str
    notify: str
    path: str
    # Where environments are kept for the attempts of this machine, and how much of them, in bytes.
    environments: str = ""
    environments_bytes: int = 0


class Folder:
    """One attempt's folder."""

    def __init__(self, root: Path, attempt_uid: str) -> None:
        self.uid = attempt_uid
        self.path = root / attempt_uid

    @property
    def ordered(self) -> bool:
        """Whether launch.json is there, whole."""
        return (self.path / "launch.json").exists()

    @property
    def closed(self) -> bool:
        """Whether it was tidied: only small files for people are left."""
        return (self.path / "closed").exists()

    @property
    def spool_left(self) -> bool:
        """Whether something was logged that is not shipped, or not yet said to be all (`drained`)."""
        return not (self.path / "drained").exists() or any((self.path / "spool").rglob("*.seg"))

    def write_order(self, order: Order, around: Surroundings, gpu_ids: Sequence[Sequence[int]]) -> None:
        """Writes `token` and `secrets.json`, then launch.json: the order stands when this returns.

        The runner removes secrets.json once it has read it. Raises OSError.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.path / "spool").mkdir(mode=0o700, exist_ok=True)
        self.write_token(order.token)
        if order.secrets:
            self._write("secrets.json", json.dumps(dict(order.secrets)))
        self._write("launch.json", json.dumps(_launch(order, around, gpu_ids)))

    def write_notice(self, notice: str) -> None:
        """Writes why it is to end, for the runner to hand on. Raises OSError."""
        self._write("notice", notice)

    def write_token(self, token: str) -> None:
        """Writes the run token, for its owner alone."""
        self._write("token", token)

    def gpu_ids(self) -> list[int]:
        """The GPUs that this attempt was given."""
        launch = self._read("launch.json") or {}
        return [number for rank in launch.get("gpu_ids", []) for number in rank]

    def grace(self) -> float:
        """Seconds between SIGTERM and SIGKILL."""
        return float((self._read("launch.json") or {}).get("grace", 10.0))

    def state(self) -> RunnerState | None:
        """What the runner does; None: it has not begun, or its words cannot be read."""
        raw = self._read("state.json")
        if raw is None:
            return None
        try:
            start = raw.get("start_time")
            return RunnerState(
                phase=str(raw["phase"]),
                runner_pid=int(raw["runner_pid"]),
                runner_start=int(raw["runner_start"]),
                pids=tuple(int(pid) for pid in raw.get("pids") or ()),
                start_time=None if start is None else float(start),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def end(self) -> Evidence | None:
        """How it ended; None: it has not, or nobody has written it down."""
        raw = self._read("end.json")
        return None if raw is None else _evidence(raw)

    def begun_in_this_boot(self) -> bool:
        """Whether pids that are recorded here can mean anything."""
        return (self._read("launch.json") or {}).get("boot") == processes.boot()

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Tries to hold the runner's lock: True while no runner has it, and then none can begin."""
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)

    def write_lost(self, message: str, *, now: float) -> None:
        """Writes the end in the runner's place, so that one that comes late does nothing. Raises OSError."""
        state = self.state()
        end: dict[str, object] = {
            "exit_code": None, "signal": 0, "rank": 0, "phase": "run", "oom": False, "timed_out": False,
            "stopped": False, "lost": True, "message": message, "end_time": now, "last_lines": [],
            "start_time": state.start_time if state else None,
        }  # fmt: skip
        self._write("end.json", json.dumps(end))

    def last_words(self) -> str:
        """The last line that the runner itself wrote to its stderr."""
        try:
            with open(self.path / "runner.log", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
                lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            return ""
        return lines[-1][:300] if lines else ""

    def tidy(self) -> None:
        """Removes all that is large or secret, and marks the folder. Raises OSError where it cannot."""
        if not self.path.exists():
            return
        for entry in list(os.scandir(self.path)):
            if entry.is_dir(follow_symlinks=False):
                _remove_tree(self.path / entry.name)
            elif entry.name not in _KEPT_FILES:
                (self.path / entry.name).unlink(missing_ok=True)
        self._write("closed", "")

    def _write(self, name: str, text: str) -> None:
        hidden = self.path / f".{name}.new"
        handle = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(hidden, self.path / name)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            with open(self.path / name, "rb") as file:
                raw = json.loads(file.read(_LARGEST))
        except (OSError, ValueError, RecursionError):
            return None
        return raw if isinstance(raw, dict) else None


def open_folders(root: Path) -> list[Folder]:
    """The folders of all attempts that are not tidied, oldest first; a half-written one is left out."""
    folders = [Folder(root, name) for name in sorted(os.listdir(root))]
    return [folder for folder in folders if folder.ordered and not folder.closed]


def prune(root: Path) -> None:
    """Keeps the newest `KEPT` tidied folders."""
    closed = [folder for name in sorted(os.listdir(root)) if (folder := Folder(root, name)).closed]
    for folder in closed[:-KEPT]:
        _remove_tree(folder.path)


def _launch(order: Order, around: Surroundings, gpu_ids: Sequence[Sequence[int]]) -> dict[str, object]:
    return {
        **order.launch(url=around.url, bus_url=around.bus_url),
        "gpu_ids": [list(rank) for rank in gpu_ids],
        "environments": around.environments,
        "environments_bytes": around.environments_bytes,
        "notify": around.notify,
        "path": around.path,
        "boot": processes.boot(),
    }


def _evidence(raw: dict[str, Any]) -> Evidence:
    """Tolerant: a field that is missing or odd must not hide that the attempt ended."""
    code, start, lines = raw.get("exit_code"), raw.get("start_time"), raw.get("last_lines")
    return Evidence(
        exit_code=code if isinstance(code, int) else None,
        signal=int(raw.get("signal") or 0),
        rank=int(raw.get("rank") or 0),
        phase=str(raw.get("phase") or "run"),
        oom=bool(raw.get("oom")),
        timed_out=bool(raw.get("timed_out")),
        stopped=bool(raw.get("stopped")),
        lost=bool(raw.get("lost")),
        message=str(raw.get("message") or "")[:1000],
        start_time=float(start) if isinstance(start, int | float) else None,
        end_time=float(raw.get("end_time") or 0.0),
        last_lines=tuple(str(line) for line in lines) if isinstance(lines, list) else (),
        ranks=int(raw.get("ranks") or 1),
        others=tuple(_evidence(one) for one in raw.get("others") or () if isinstance(one, dict)),
        asked=bool(raw.get("asked")),
        oom_kills=int(raw.get("oom_kills") or 0),
        memory_peak=int(raw.get("memory_peak") or 0),
        memory_limit=int(raw.get("memory_limit") or 0),
        hopeless=bool(raw.get("hopeless")),
    )


def _remove_tree(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except PermissionError:
        # A job may have taken its own rights away from its folders.
        for folder, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                os.chmod(folder, 0o700)
            for name in os.listdir(folder):
                child = os.path.join(folder, name)
                if os.path.isdir(child) and not os.path.islink(child):
                    os.chmod(child, 0o700)
        shutil.rmtree(path)
