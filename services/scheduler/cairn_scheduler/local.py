"""This machine as a cluster: attempts are detached runners, known by their folders.

Nothing of an attempt lives in the scheduler's memory alone: a new scheduler finds the folders, the runners'
pids and what they wrote, and goes on. A runner is watched by a pidfd; a datagram from it is only a hint to
look at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from cairn_common import variables
from cairn_common.ids import is_uid
from cairn_scheduler import folders, processes
from cairn_scheduler.cluster import Ended, Held, LaunchFailed, Order, Quiet, Remains, Report, Started
from cairn_scheduler.folders import Folder, Surroundings
from cairn_scheduler.infra import Accelerator, Infra, InfraState, Placement, Survey
from cairn_scheduler.model import Resources, Spec

log = structlog.get_logger(__name__)

# Of an attempt's processes so many are named.
_SHOWN = 4
_LOOK_SECONDS = 15.0
_STOP_MARGIN = 15.0
# sun_path holds 108 bytes.
_LONGEST_SOCKET = 100


@dataclass(slots=True)
class _Watched:
    """What this process knows of an attempt that is not tidied away."""

    folder: Folder
    gpu_ids: tuple[int, ...] = ()
    # A process at work for it, runner or drainer: an open handle, and the child where it is ours.
    pidfd: int | None = None
    child: subprocess.Popen[bytes] | None = None
    started: bool = False
    ended: bool = False
    killer: asyncio.TimerHandle | None = None


@asynccontextmanager
async def open_local(
    data_dir: Path, *, capacity: Resources, url: str, bus_url: str, environments_bytes: int = 0
) -> AsyncIterator[LocalCluster]:
    """This machine as a cluster for the block, its attempts' folders under `data_dir`/attempts.

    Python environments are kept under `data_dir`/environments, `environments_bytes` of them (0: 50 GiB).

    At the end the attempts go on by themselves.
    """
    root = data_dir / "attempts"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    notify = _socket_path(data_dir)
    around = Surroundings(
        url=url, bus_url=bus_url, notify=str(notify), path=_search_path(),
        environments=_environments(data_dir), environments_bytes=environments_bytes,
    )  # fmt: skip
    cluster = LocalCluster(root, capacity=capacity, around=around)
    notify.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as hints:
        hints.bind(str(notify))
        notify.chmod(0o600)
        ours = notify.stat().st_ino
        loop = asyncio.get_running_loop()
        loop.add_reader(hints.fileno(), cluster.hear, hints)
        try:
            cluster.adopt()
            yield cluster
        finally:
            loop.remove_reader(hints.fileno())
            cluster.detach()
            # Another scheduler may have taken over, and made its own.
            if notify.exists() and notify.stat().st_ino == ours:
                notify.unlink(missing_ok=True)


class LocalCluster:
    """See `open_local`; everything runs on the event loop that opened it."""

    def __init__(self, root: Path, *, capacity: Resources, around: Surroundings) -> None:
        self._root = root
        self._capacity = capacity
        self._around = around
        self._watched: dict[str, _Watched] = {}
        self._reports: asyncio.Queue[Report] = asyncio.Queue()
        self._burials: set[asyncio.Task[None]] = set()
        self._launching = asyncio.Lock()

    @property
    def name(self) -> str:
        """The pool's id."""
        return "local"

    def capacity(self) -> Resources:
        """What this machine has, or was told to offer."""
        return self._capacity

    async def survey(self, *, refresh: bool) -> Survey:
        """This machine, always enabled."""
        has, taken = self._capacity, self._taken()
        gpus = Accelerator(
            kind=has.accelerator or "GPU",
            counts=tuple(range(1, has.gpus + 1)),
            total=has.gpus,
            free=has.gpus - len(taken),
        )
        machine = Infra(
            name=self.name,
            state=InfraState.ENABLED,
            accelerators=(gpus,) if has.gpus else (),
            nodes=1,
            cpu_milli=has.cpu_milli,
        )
        return Survey((machine,))

    async def placements(self, spec: Spec) -> Sequence[Placement]:
        """Here; whether it is too large is the plan's to say."""
        each = spec.resources
        kind = each.accelerator or self._capacity.accelerator or "GPU"
        return [
            Placement(
                infra=self.name,
                accelerators=f"{kind}:{each.gpus}" if each.gpus else "",
                cpus=each.cpu_milli / 1000,
                memory_gib=each.memory_mib / 1024 if each.memory_mib else None,
            )
        ]

    async def launch(self, order: Order) -> None:
        """Writes the folder, then starts a runner, unless one has begun already. Raises LaunchFailed."""
        # One at a time: which GPUs are free must not change before they are taken.
        async with self._launching:
            if order.attempt_uid in self._watched:
                return
            folder = Folder(self._root, order.attempt_uid)
            watched = _Watched(folder)
            try:
                gpu_ids = self._choose_gpus(order)
                await asyncio.to_thread(folder.write_order, order, self._around, gpu_ids)
                watched.gpu_ids = tuple(number for rank in gpu_ids for number in rank)
                self._watched[folder.uid] = watched
                self._start(watched)
            except OSError as error:
                self._watched.pop(folder.uid, None)
                raise LaunchFailed(
                    f"The attempt could not be set up on this machine: {error.strerror}."
                ) from error

    async def stop(self, attempt_uid: str, *, notice: str = "") -> None:
        """Tells the runner to stop its ranks; kills it where it has not done so in time."""
        watched = self._watched.get(attempt_uid)
        if watched is None or watched.ended or watched.killer is not None or watched.pidfd is None:
            return
        if notice:
            try:
                watched.folder.write_notice(notice)
            except OSError as error:
                log.warning("attempt.notice_untold", attempt=attempt_uid, error=str(error))
        _signal(watched.pidfd, signal.SIGTERM)
        watched.killer = asyncio.get_running_loop().call_later(
            watched.folder.grace() + _STOP_MARGIN, _signal, watched.pidfd, signal.SIGKILL
        )

    async def list(self) -> set[str]:
        """The attempts whose runner has begun, those included that end just now."""
        return set(self._watched)

    async def reports(self) -> AsyncIterator[Report]:
        """What happens; now and then everything is looked at in any case, however busy it is."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _LOOK_SECONDS
        while True:
            if loop.time() >= due:
                for uid in list(self._watched):
                    self._look(uid)
                due = loop.time() + _LOOK_SECONDS
            try:
                async with asyncio.timeout_at(due):
                    report = await self._reports.get()
            except TimeoutError:
                continue
            yield report

    async def remains(self, attempt_uid: str) -> Remains:
        """Whether its spool is shipped."""
        watched = self._watched.get(attempt_uid)
        if watched is None:
            return Remains.SHIPPED
        if watched.pidfd is not None:
            return Remains.BUSY
        left = await asyncio.to_thread(lambda: watched.folder.spool_left)
        return Remains.UNSHIPPED if left else Remains.SHIPPED

    async def ship(self, attempt_uid: str, *, token: str) -> None:
        """Starts a runner that only drains. Raises LaunchFailed."""
        watched = self._watched.get(attempt_uid)
        if watched is None or watched.pidfd is not None or not watched.ended:
            return
        try:
            await asyncio.to_thread(watched.folder.write_token, token)
            self._start(watched, "--drain")
        except OSError as error:
            raise LaunchFailed(f"What the attempt left cannot be shipped: {error.strerror}.") from error

    async def tidy(self, attempt_uid: str) -> None:
        """Empties the folder, and keeps the newest of the emptied ones."""
        watched = self._watched.get(attempt_uid)
        folder = watched.folder if watched else Folder(self._root, attempt_uid)
        if watched is not None and watched.pidfd is not None:
            return
        try:
            await asyncio.to_thread(folder.tidy)
            await asyncio.to_thread(folders.prune, self._root)
        except OSError as error:
            log.warning("attempt.not_tidied", attempt=attempt_uid, error=str(error))
            return
        self._watched.pop(attempt_uid, None)

    async def inventory(self) -> Sequence[Held]:
        """The attempts of which processes run here."""
        running = await asyncio.to_thread(processes.of_attempts)
        return [
            Held(
                attempt_uid=uid,
                name="processes " + ", ".join(str(process.pid) for process in found[:_SHOWN]),
                status="RUNNING",
                create_time=datetime.fromtimestamp(min(map(processes.began, found)), UTC),
                leaving=uid in self._watched and self._watched[uid].pidfd is not None,
            )
            for uid, found in running.items()
            # Another platform on this machine has others.
            if (self._root / uid).is_dir()
        ]

    async def discard(self, attempt_uid: str) -> None:
        """Kills what runs of an attempt."""
        await asyncio.to_thread(processes.end_all, attempt_uid, sessions=(), since=0)

    def adopt(self) -> None:
        """Finds the attempts that earlier schedulers started. Call it once, before anything else."""
        for folder in folders.open_folders(self._root):
            watched = _Watched(folder, tuple(folder.gpu_ids()))
            runner = self._runner(folder)
            if runner is None and folder.state() is None and folder.end() is None:
                # The order was written, no runner ever began: the loop launches it.
                continue
            self._watched[folder.uid] = watched
            if runner is not None:
                self._follow(watched, runner.pid)
            log.info("attempt.adopted", attempt=folder.uid, runner=runner.pid if runner else None)
            self._look(folder.uid)

    def detach(self) -> None:
        """Stops watching; what runs goes on."""
        for task in self._burials:
            task.cancel()
        for watched in self._watched.values():
            if watched.killer is not None:
                watched.killer.cancel()
            if watched.child is not None and watched.child.poll() is None:
                # It outlives us on purpose; whoever is left to do so reaps it.
                watched.child.returncode = 0
            self._unfollow(watched)

    def hear(self, hints: socket.socket) -> None:
        """Takes the hints that have come: uids of attempts to look at."""
        while True:
            try:
                text = hints.recv(64).decode(errors="replace").strip()
            except (BlockingIOError, InterruptedError):
                return
            if is_uid(text) and text in self._watched:
                self._look(text)

    def _start(self, watched: _Watched, *flags: str) -> None:
        folder = watched.folder
        with open(folder.path / "runner.log", "ab", opener=_private) as output:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "cairn._runner", *flags, *_files(), str(folder.path)],
                cwd=folder.path,
                env=_clean_environment(folder.uid, self._around.path),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=0o077,
            )
        watched.child = child
        self._follow(watched, child.pid)

    def _follow(self, watched: _Watched, pid: int) -> None:
        try:
            watched.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._gone(watched)
            return
        asyncio.get_running_loop().add_reader(watched.pidfd, self._gone, watched)

    def _unfollow(self, watched: _Watched) -> None:
        if watched.pidfd is not None:
            asyncio.get_running_loop().remove_reader(watched.pidfd)
            os.close(watched.pidfd)
            watched.pidfd = None
        if watched.killer is not None:
            watched.killer.cancel()
            watched.killer = None

    def _gone(self, watched: _Watched) -> None:
        """The process at work for it has ended."""
        if watched.child is not None:
            watched.child.wait()
            watched.child = None
        self._unfollow(watched)
        self._look(watched.folder.uid)
        if watched.ended:
            self._reports.put_nowait(Quiet(watched.folder.uid))
        else:
            self._bury(watched)

    def _look(self, uid: str) -> None:
        """Reads what the runner wrote, and reports what is new."""
        watched = self._watched[uid]
        if watched.ended:
            return
        state, end = watched.folder.state(), watched.folder.end()
        if end is not None:
            watched.ended = True
            watched.gpu_ids = ()
            self._reports.put_nowait(Ended(uid, end))
        elif state is not None and state.phase == "running" and state.start_time and not watched.started:
            watched.started = True
            start = datetime.fromtimestamp(state.start_time, UTC)
            self._reports.put_nowait(Started(uid, start, state.pids))
        if not watched.ended and watched.pidfd is None:
            self._bury(watched)

    def _bury(self, watched: _Watched) -> None:
        task = asyncio.create_task(self._end_lost(watched), name=f"lost {watched.folder.uid}")
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    async def _end_lost(self, watched: _Watched) -> None:
        """The runner is gone without a word: ends what it left, and says so in its place."""
        folder = watched.folder
        try:
            free = await asyncio.to_thread(_end_in_its_place, folder)
        except OSError as error:
            # A full disk, most likely: it is looked at again.
            log.warning("attempt.not_buried", attempt=folder.uid, error=str(error))
            return
        if watched.ended or watched.pidfd is not None:
            return
        if not free:
            # Another runner holds the lock: that one is the attempt's.
            runner = await asyncio.to_thread(self._runner, folder)
            if runner is not None:
                self._follow(watched, runner.pid)
            return
        self._look(folder.uid)
        self._reports.put_nowait(Quiet(folder.uid))

    def _runner(self, folder: Folder) -> processes.Process | None:
        state = folder.state()
        if state is not None and folder.begun_in_this_boot():
            known = processes.look(state.runner_pid)
            if known is not None and known.start == state.runner_start:
                return known
        return processes.runner_of(folder.uid)

    def _taken(self) -> set[int]:
        return {number for watched in self._watched.values() for number in watched.gpu_ids}

    def _choose_gpus(self, order: Order) -> Sequence[Sequence[int]]:
        taken = self._taken()
        free = [number for number in range(self._capacity.gpus) if number not in taken]
        each, ranks = order.spec.resources.gpus, order.spec.num_nodes
        if each * ranks > len(free):
            raise LaunchFailed(f"{each * ranks} GPUs are needed, {len(free)} are free on this machine.")
        return [free[rank * each : (rank + 1) * each] for rank in range(ranks)]


def _end_in_its_place(folder: Folder) -> bool:
    """Kills what a lost runner left and writes its end. False: a runner is alive, nothing was done."""
    with folder.locked() as free:
        if not free:
            return False
        if folder.end() is not None:
            return True
        state = folder.state()
        known = state is not None and folder.begun_in_this_boot()
        count = processes.end_all(
            folder.uid,
            sessions=set(state.pids) if state is not None and known else set(),
            since=state.runner_start if state is not None else 0,
        )
        folder.write_lost(folder.last_words(), now=time.time())
        log.warning("attempt.lost", attempt=folder.uid, killed=count)
        return True


def _signal(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        # It has just ended; that is reported by itself.
        return


def _clean_environment(attempt_uid: str, path: str) -> dict[str, str]:
    user = pwd.getpwuid(os.getuid())
    return {
        "PATH": path,
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "CAIRN_ATTEMPT_UID": attempt_uid,
    }


def _files() -> list[str]:
    """How many files a job may open: as many as this service, before it asked for more for itself."""
    soft = os.environ.get(variables.FILES, "")
    return [f"--files={soft}"] if soft else []


def _search_path() -> str:
    """The command's PATH: this Python's own folder first, so that `python` has the SDK."""
    return os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])


def _environments(data_dir: Path) -> str:
    return str(data_dir.absolute() / "environments")


def _socket_path(data_dir: Path) -> Path:
    path = data_dir.absolute() / "notify.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        return path
    short = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"cairn-{os.getuid()}-{short}.sock"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
