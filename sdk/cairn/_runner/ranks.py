"""A gang of processes: started together, watched together, ended together."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cairn._runner import guard
from cairn._runner.console import STDERR, STDOUT, Console
from cairn._runner.signals import Signals
from cairn._runner.terminate import terminate
from cairn._runner.visits import NoVisits, Visits

_READ_BYTES = 256 * 1024
# How long what was printed before the end may take to be read, when something keeps the pipe open.
_LAST_WORDS_SECONDS = 1.0
_SHOWN = 5
_PIPE_BYTES = 1024 * 1024


class CannotStart(Exception):
    """The command could not even be started. The message is for people."""


@dataclass(frozen=True, slots=True)
class RankEnd:
    """How one rank ended; `exit_code` is None after a signal. `asked`: all were being ended already."""

    rank: int
    exit_code: int | None
    signal: int
    asked: bool = False


@dataclass(frozen=True, slots=True)
class GangEnd:
    """How a gang ended: of its ranks, the first that ended in error; `exit_code` is None after a signal.

    `others` are the further ones that ended in error, in their order.
    """

    rank: int
    exit_code: int | None
    signal: int
    stopped: bool = False
    timed_out: bool = False
    others: tuple[RankEnd, ...] = ()

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and not self.stopped and not self.timed_out


class Gang:
    """Runs one shell script per rank. For the main thread; used once.

    `deadline` is a time.monotonic() or None; between SIGTERM and SIGKILL `grace` seconds pass. `mark` is the
    runner's, `spare` a child that is not the gang's. With the `last` gang people's `visits` end, too.
    """

    def __init__(
        self, *, console: Console, signals: Signals, grace: float, deadline: float | None,
        mark: str, spare: int, visits: Visits | None = None, last: bool = False,
    ) -> None:  # fmt: skip
        self._console = console
        self._signals = signals
        self._grace = grace
        self._deadline = deadline
        self._mark = mark
        self._spare = spare
        self._visits = visits or NoVisits()
        self._last = last
        self._running: dict[int, int] = {}
        self._groups: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._kill_at: float | None = None
        self._told: set[int] = set()
        self._failed: list[RankEnd] = []
        self._ending = self._stopped = self._timed_out = False

    @property
    def pids(self) -> list[int]:
        return list(self._groups)

    def start(self, script: str, *, environments: Sequence[Mapping[str, str]], folder: Path) -> None:
        """Starts a rank per environment. Raises CannotStart, with nothing left running."""
        in_child = guard.die_with_parent()
        for rank, environment in enumerate(environments):
            try:
                process = subprocess.Popen(
                    ["/bin/bash", "-c", script], cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                    start_new_session=True, preexec_fn=in_child,
                )  # fmt: skip
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                self._end_all()
                raise CannotStart(f"Rank {rank} could not be started: {error}.") from error
            self._processes.append(process)
            self._groups.append(process.pid)
            self._running[process.pid] = rank
            for stream, pipe in ((STDOUT, process.stdout), (STDERR, process.stderr)):
                assert pipe is not None
                _widen(pipe.fileno())
                self._selector.register(pipe, selectors.EVENT_READ, (rank, stream))

    def wait(self) -> GangEnd:
        """Watches until every rank has ended and nothing that they started is left."""
        self._selector.register(self._signals.file, selectors.EVENT_READ)
        while self._running or self._finishing():
            self._turn()
        if self._last:
            self._visits.end(self._mark)
        self._end_all()
        self._read_last_words()
        first, *others = self._failed or [RankEnd(0, 0, 0)]
        return GangEnd(
            first.rank, first.exit_code, first.signal,
            stopped=self._stopped, timed_out=self._timed_out, others=tuple(others),
        )  # fmt: skip

    def _finishing(self) -> bool:
        """Whether the gang was told to end and something of it still uses its grace: bash dies at once of the
        SIGTERM that lets its child save a last checkpoint."""
        if self._kill_at is None:
            return False
        left = [pid for pid in self._left() if _session(pid) in self._groups]
        self._told |= terminate([pid for pid in left if pid not in self._told])
        return bool(left)

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.data is None:
                self._signals.clear()
            else:
                self._read(key)
        self._reap()
        self._visits.turn()
        now = time.monotonic()
        if self._signals.stop_asked and not self._stopped and not self._timed_out:
            self._stopped = True
            self._ask_to_end(now)
        elif self._deadline is not None and now >= self._deadline and not self._stopped | self._timed_out:
            self._timed_out = True
            self._ask_to_end(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._kill_groups()

    def _patience(self) -> float | None:
        ends = [self._kill_at]
        if not self._stopped and not self._timed_out:
            ends.append(self._deadline)
        known = [end for end in ends if end is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def _read(self, key: selectors.SelectorKey) -> None:
        rank, stream = key.data
        data = os.read(key.fd, _READ_BYTES)
        self._console.feed(rank, stream, data)
        if not data:
            self._selector.unregister(key.fileobj)

    def _reap(self) -> None:
        """Takes the ends of ranks, and of orphans that came to this process."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            rank = self._running.pop(pid, None)
            if rank is None:
                continue
            if status == 0:
                continue
            self._failed.append(RankEnd(rank, *_told(status), asked=self._ending))
            if self._running and not self._ending:
                self._console.say(f"rank {rank} {describe(status)}: ending the others")
                self._ask_to_end(time.monotonic())

    def _ask_to_end(self, now: float) -> None:
        self._ending = True
        self._told |= terminate(self._running)
        self._kill_at = now + self._grace

    def _kill_groups(self) -> None:
        """The groups of ranks that are still there: their pids cannot have been reused."""
        for pid in list(self._running):
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue

    def _left(self) -> list[int]:
        """What is here of the gang: ranks, and the orphans of those that have ended."""
        return [pid for pid in guard.children() if pid not in (self._spare, self._visits.pid)]

    def _end_all(self) -> None:
        """Ends whatever the ranks started and left, and says so."""
        self._kill_groups()
        names: list[str] = []
        for _ in range(50):
            left = self._left()
            if not left:
                break
            names += map(_name, left)
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self._signals.clear()
            _wait_for_ends(left)
        count = len(names) + guard.sweep(self._mark, sessions=False)
        if count and not self._ending:
            shown = ", ".join(sorted({name for name in names if name})[:_SHOWN]) or "detached"
            what = "1 process that was" if count == 1 else f"{count} processes that were"
            self._console.say(f"ended {what} left running: {shown}")
        for process in self._processes:
            process.returncode = process.returncode if process.returncode is not None else 0

    def _read_last_words(self) -> None:
        self._selector.unregister(self._signals.file)
        deadline = time.monotonic() + _LAST_WORDS_SECONDS
        while self._selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self._read(key)
        for key in list(self._selector.get_map().values()):
            rank, stream = key.data
            self._console.feed(rank, stream, b"")
        self._selector.close()
        for process in self._processes:
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def describe(status: int) -> str:
    """A wait status, for people."""
    code, number = _told(status)
    return f"was ended by signal {number}" if number else f"ended with exit code {code}"


def _told(status: int) -> tuple[int | None, int]:
    """Exit code and signal of a wait status; bash tells of a signal that ended its child as 128 + n."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return None, -code
    return code, code - 128 if 128 < code <= 128 + signal.SIGRTMAX else 0


def _widen(pipe: int) -> None:
    """More room, so that a rank that prints much waits less often for its reader."""
    with contextlib.suppress(OSError, AttributeError):  # over the user's limit, or not Linux
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _wait_for_ends(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            continue
