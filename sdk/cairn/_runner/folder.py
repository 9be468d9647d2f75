"""An attempt's folder: what the scheduler ordered, and what is said back."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_log = logging.getLogger("cairn")

# More than an end.json can have.
_ROOM_BYTES = 1024 * 1024


class BadLaunch(ValueError):
    """launch.json cannot be used."""


@dataclass(frozen=True, slots=True)
class Launch:
    """launch.json: what to run and where to tell of it. Times in seconds."""

    team: str
    run_uid: str
    attempt_uid: str
    attempt: int
    run: str
    setup: str = ""
    display_name: str = ""
    envs: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    num_nodes: int = 1
    cpu_milli: int = 1000
    gpu_ids: Sequence[Sequence[int]] = ()
    max_runtime: float | None = None
    grace: float = 10.0
    code: Mapping[str, Any] | None = None
    url: str = ""
    bus_url: str = ""
    notify: str = ""
    path: str = os.defpath
    # What `cairn.env` asks for; the folder of environments of this machine, and its limit in bytes.
    environment: Mapping[str, Any] | None = None
    environments: str = ""
    environments_bytes: int = 0
    # Names of variables that are secret; archives of files, each {target, digest, size, file}.
    secrets: Sequence[str] = ()
    mounts: Sequence[Mapping[str, Any]] = ()
    # The job that this one was made from: {kind: rerun or resume, run, checkpoint}.
    origin: Mapping[str, str] | None = None

    @classmethod
    def parse(cls, text: str) -> Launch:
        """Raises BadLaunch. Fields that a later scheduler may add are passed over."""
        try:
            raw = json.loads(text)
            known = {name: raw[name] for name in cls.__slots__ if raw.get(name) is not None}
            launch = cls(**known)
            if not (launch.team and launch.run_uid and launch.attempt_uid and launch.num_nodes >= 1):
                raise BadLaunch("launch.json names no team, run or attempt")
            return launch
        except (ValueError, TypeError, AttributeError) as error:
            raise BadLaunch(f"launch.json cannot be used: {error}") from error


@dataclass(slots=True)
class End:
    """end.json: how the attempt ended; of the ranks, the one that ended first in error."""

    exit_code: int | None = None
    signal: int = 0
    rank: int = 0
    phase: str = "code"
    oom: bool = False
    timed_out: bool = False
    stopped: bool = False
    message: str = ""
    start_time: float | None = None
    end_time: float = 0.0
    last_lines: list[str] = field(default_factory=list)
    # How many ranks there were, and the further ones that ended in error: {rank, exit_code, signal, asked,
    # last_lines}; `asked`: all were being ended already.
    ranks: int = 1
    others: list[dict[str, Any]] = field(default_factory=list)
    # What the kernel and the sampler saw: kills for want of memory, bytes held at most, bytes there are.
    oom_kills: int = 0
    memory_peak: int = 0
    memory_limit: int = 0
    # Another attempt would meet the same.
    hopeless: bool = False


class Folder:
    """Reads orders from an attempt's folder and writes reports into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool = path / "spool"
        self.work = path / "work"
        # The attempt's own part of its environment.
        self.env = path / "env"
        self.token_file = path / "token"
        # Why it is to end, where there is more to say than that: written before the signal.
        self.notice_file = path / "notice"
        self._room = path / ".room"
        self._notify = ""
        self._uid = ""
        self._lock = -1

    def lock(self) -> bool:
        """Takes the folder for this process; False if another runner has it."""
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            return False
        return True

    @property
    def ended(self) -> bool:
        return (self.path / "end.json").exists()

    def read_launch(self) -> Launch:
        """Raises BadLaunch."""
        try:
            launch = Launch.parse((self.path / "launch.json").read_text())
        except OSError as error:
            raise BadLaunch(f"launch.json cannot be read: {error.strerror}") from error
        self._notify, self._uid = launch.notify, launch.attempt_uid
        return launch

    def token(self) -> str:
        """The run token as it is now. Raises OSError."""
        return self.token_file.read_text().strip()

    def take_secrets(self) -> dict[str, str]:
        """Reads secrets.json and removes it: nothing but this process needs it any more."""
        path = self.path / "secrets.json"
        try:
            values = json.loads(path.read_text())
            path.unlink()
        except FileNotFoundError:
            return {}
        return {str(name): str(value) for name, value in values.items()}

    def write_state(self, phase: str, *, pids: Sequence[int] = (), start_time: float | None = None) -> None:
        """Says what the runner does; a disk that is full does not end the attempt for it."""
        state = {
            "phase": phase, "runner_pid": os.getpid(), "runner_start": _start_ticks(),
            "pids": list(pids), "start_time": start_time,
        }  # fmt: skip
        try:
            self._write("state.json", state)
        except OSError as error:
            _log.warning("state.json could not be written: %s", error)

    def reserve(self) -> None:
        """Takes the room that end.json will need, so that a job which fills the disk can still be told of."""
        try:
            with open(self._room, "wb", opener=_private) as file:
                file.write(bytes(_ROOM_BYTES))
        except OSError as error:
            _log.warning("no room could be kept for the end: %s", error)

    def write_end(self, end: End) -> None:
        """Says how it ended; keeps trying for a minute while the disk is full. Raises OSError after that."""
        deadline = time.monotonic() + 60
        while True:
            self._room.unlink(missing_ok=True)
            try:
                self._write("end.json", asdict(end))
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        temporary = self.path / f".{name}.new"
        with open(temporary, "w", opener=_private) as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path / name)
        self._tell()

    def _tell(self) -> None:
        if not self._notify:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
            telling.setblocking(False)
            try:
                telling.sendto(self._uid.encode(), self._notify)
            except OSError:
                pass  # nobody listens; whoever comes later reads the files


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _start_ticks() -> int:
    """When this process began, in clock ticks since boot: pids are reused, pairs of both are not."""
    try:
        return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
