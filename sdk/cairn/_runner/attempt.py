"""One attempt from its order to its report."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cairn._runner import guard
from cairn._runner.console import Console, Secrets
from cairn._runner.folder import BadLaunch, End, Folder, Launch
from cairn._runner.memory import oom_kills
from cairn._runner.place import Place, ThisMachine
from cairn._runner.ranks import CannotStart, Gang, GangEnd, RankEnd
from cairn._runner.signals import Signals
from cairn._runner.system import System
from cairn._runner.visits import Visits
from cairn._spool import Writer

if TYPE_CHECKING:
    from cairn._runner.drain import Drain
    from cairn._runner.environment import Room

_log = logging.getLogger("cairn")

# Of the ranks that ended after the first one, so many are told of, with so much of each line.
_MOST_OTHERS = 15
_MOST_TEXT = 500


def run_attempt(path: Path) -> None:
    """Does what launch.json says and reports it. Nothing if another runner has the folder, or had it."""
    folder = Folder(path)
    if not folder.lock() or folder.ended:
        return
    signals = Signals()
    signals.install()
    try:
        launch = folder.read_launch()
    except BadLaunch as error:
        folder.write_end(End(message=str(error), end_time=time.time()))
        return
    folder.write_state("launching")
    Attempt(folder, launch, signals).run()


class Attempt:
    """The steps of an attempt; each leaves what it found out in `self._end`."""

    def __init__(self, folder: Folder, launch: Launch, signals: Signals, place: Place | None = None) -> None:
        self._place = place or ThisMachine(launch)
        self._folder = folder
        self._launch = launch
        self._signals = signals
        self._mark = guard.mark(launch.attempt_uid, first=self._place.first)
        self._guard = guard.Guard(self._mark)
        guard.adopt_orphans()
        folder.spool.mkdir(mode=0o700, exist_ok=True)
        self._writer = Writer(folder.spool)
        self._place.tell_in(folder.spool)
        self._secrets = dict(self._place.secrets(folder))
        secrets = Secrets(folder.token_file, self._secrets.values())
        self._console = Console(self._writer, mask=secrets.mask, first=self._place.first)
        self._end = End(ranks=launch.num_nodes)
        self._clock = Clock()
        self._deadline: float | None = None
        self._drain: Drain | None = None
        self._visits = Visits(
            folder.path, environments=self._here, wake=signals.wake,
        )  # fmt: skip
        self._room: Room | None = None

    def run(self) -> None:
        self._folder.reserve()
        oom_before = oom_kills()
        began = time.monotonic()
        if self._place.listen is not None:
            self._ship()
        try:
            if self._fetch_code() and self._lay_mounts() and self._prepare() and self._set_up():
                self._run_ranks()
        except OSError as error:
            self._end.message = f"The attempt could not go on: {error}."
            _log.exception("attempt failed")
        self._end.oom_kills = max(0, oom_kills() - oom_before)
        self._end.oom = self._end.signal == 9 and self._end.oom_kills > 0
        self._end.stopped = self._end.stopped or (self._signals.stop_asked and not self._end.timed_out
                                                  and self._end.exit_code != 0)  # fmt: skip
        self._console.say(f"{self._verdict()} after {time.monotonic() - began:.1f} s")
        self._report()

    @property
    def end(self) -> End:
        """How it ended, once `run` has returned."""
        return self._end

    @property
    def reported(self) -> bool:
        """Whether the bus has all that there is to know of it."""
        return self._drain is not None and self._drain.done

    def give_up(self, message: str) -> None:
        """Reports an end of the runner's own making."""
        self._end.exit_code, self._end.message = None, message[:1000]
        self._report()

    def _fetch_code(self) -> bool:
        self._folder.work.mkdir(mode=0o700, exist_ok=True)
        order = self._launch.code
        if not order or not order.get("digest"):
            return True
        from cairn._runner.code import unpack

        return self._bring("code", order, lambda archive: unpack(archive, self._folder.work))

    def _lay_mounts(self) -> bool:
        """Files of the caller's machine, at their places."""
        if not self._launch.mounts:
            return True
        from cairn._runner.mounts import lay

        home = self._place.basis().get("HOME", "")
        for mount in self._launch.mounts:
            target = str(mount["target"])
            place = partial(
                lay, target=target, file=bool(mount.get("file")), work=self._folder.work, home=home,
                scratch=self._folder.path / "mount",
            )  # fmt: skip
            if not self._bring(target, mount, place):
                return False
        return True

    def _bring(self, what: str, order: Mapping[str, Any], place: Callable[[Path], None]) -> bool:
        """Fetches an archive and lets `place` unpack it; False: `self._end` says why not."""
        from cairn._runner.code import CodeError, Stopped, fetch

        digest, size = str(order["digest"]), int(order["size"])
        archive = self._folder.path / "code.tar.gz"
        self._console.say(f"fetching {what} {digest[:12]} ({size} bytes)")
        try:
            fetch(
                f"{self._launch.url.rstrip('/')}/api/v1/teams/{self._launch.team}/code/{digest}", archive,
                digest=digest, size=size, token=self._folder.token, pause=self._signals.pause,
            )  # fmt: skip
            place(archive)
        except Stopped:
            self._end.message = "Stopped while its code was fetched."
            return False
        except CodeError as error:
            self._end.message, self._end.hopeless = str(error), error.hopeless
            self._console.say(str(error))
            return False
        finally:
            archive.unlink(missing_ok=True)
        return True

    def _prepare(self) -> bool:
        """The environment that the task names, built or ready."""
        if not self._launch.environment:
            return True
        from cairn._runner.prepare import prepare

        self._end.phase = "environment"
        self._room = prepare(
            self._folder, self._launch, self._end, console=self._console, signals=self._signals,
            variables=self._environment(0), spare=self._guard.pid, visits=self._visits, begun=self._ship,
        )  # fmt: skip
        if self._room is not None:
            self._writer.json("run_updated", {"environment": {"environment": self._room.told}})
        return self._room is not None

    def _set_up(self) -> bool:
        if self._launch.max_runtime:
            self._deadline = time.monotonic() + self._launch.max_runtime
        self._end.phase = "setup"
        if not self._launch.setup.strip():
            return True
        self._console.say("running setup")
        end = self._gang(self._launch.setup, nodes=1)
        return end is not None and end.ok

    def _run_ranks(self) -> None:
        self._end.phase = "run"
        if self._signals.stop_asked:
            self._end.message = "Stopped before its command was started."
            return
        count = self._place.ranks
        self._console.say("starting the command" + (f" in {count} ranks" if count > 1 else ""))
        self._gang(self._launch.run, nodes=count)

    def _gang(self, script: str, *, nodes: int) -> GangEnd | None:
        gang = Gang(
            console=self._console, signals=self._signals, grace=self._launch.grace, deadline=self._deadline,
            mark=self._mark, spare=self._guard.pid, visits=self._visits,
            last=self._end.phase == "run",
        )  # fmt: skip
        try:
            gang.start(script, environments=[self._inside(rank) for rank in range(nodes)],
                       folder=self._folder.work)  # fmt: skip
        except CannotStart as error:
            self._end.exit_code, self._end.message = None, str(error)
            self._console.say(str(error))
            return None
        if self._end.phase == "run":
            self._end.start_time = self._clock.now()
            self._folder.write_state("running", pids=gang.pids, start_time=self._end.start_time)
            self._place.started(self._end.start_time, gang.pids)
        self._ship()
        system = self._watch(gang.pids)
        end = gang.wait()
        system.stop()
        self._end.memory_peak, self._end.memory_limit = system.memory_peak, system.memory_limit
        self._end.exit_code, self._end.signal = end.exit_code, end.signal
        self._end.rank = self._place.first + end.rank
        self._end.stopped, self._end.timed_out = end.stopped, end.timed_out
        self._end.last_lines = self._console.last_lines(end.rank)
        self._end.others = [self._other(each) for each in end.others[:_MOST_OTHERS]]
        return end

    def _watch(self, pids: Sequence[int]) -> System:
        """Begins to sample what the ranks use."""
        gpus = [
            list(self._launch.gpu_ids[n]) if n < len(self._launch.gpu_ids) else [] for n in range(len(pids))
        ]
        system = System(
            self._writer, pids=pids, gpus=gpus, folder=self._folder.path, ranks=self._launch.num_nodes
        )
        system.start()
        return system

    def _other(self, end: RankEnd) -> dict[str, Any]:
        lines = [line[:_MOST_TEXT] for line in self._console.last_lines(end.rank)]
        return {**asdict(end), "last_lines": lines}

    def _ship(self) -> Drain:
        """Begins to ship, once: what that needs is imported after the first process runs, not before."""
        from cairn._runner.drain import Drain

        if self._drain is None:
            self._drain = Drain(
                self._folder, self._launch, self._writer, words=self._place.words, rank=self._place.first,
                runners=self._launch.num_nodes // self._place.ranks, listen=self._place.listen,
                knocked=self._visits.knock,
            )  # fmt: skip
        return self._drain

    def _report(self) -> None:
        """end.json waits a moment for the last words, if the bus answers; then for nothing."""
        from cairn._runner.drain import BEFORE_END_SECONDS

        self._end.end_time = self._clock.now()
        self._visits.end(self._mark)
        self._place.ended(self._end)
        self._writer.flush()
        drain = self._ship()
        if drain.answers():
            drain.finish(BEFORE_END_SECONDS)
        self._folder.write_end(self._end)
        self._folder.write_state("ended", start_time=self._end.start_time)
        self._guard.release()
        drain.finish(self._place.patience, given_up=lambda: self._signals.stop_asked)
        drain.close()

    def _verdict(self) -> str:
        end = self._end
        if end.timed_out:
            return f"ended: it ran for longer than max_runtime ({self._launch.max_runtime:.0f} s)"
        if end.stopped:
            return "stopped"
        where = f"rank {end.rank}: " if self._launch.num_nodes > 1 else ""
        if end.oom:
            return f"{where}{end.phase} was ended by the kernel's out-of-memory killer"
        if end.signal:
            return f"{where}{end.phase} was ended by signal {end.signal}"
        if end.exit_code is None:
            return end.message or "ended"
        return f"{where}{end.phase} ended with exit code {end.exit_code}"

    def _here(self) -> dict[int, dict[str, str]]:
        """The environments of the ranks that are here, by their numbers in the job."""
        return {self._place.first + rank: self._inside(rank) for rank in range(self._place.ranks)}

    def _inside(self, rank: int) -> dict[str, str]:
        variables = self._environment(rank)
        return self._room.enter(variables) if self._room else variables

    def _environment(self, rank: int) -> dict[str, str]:
        launch, folder = self._launch, self._folder
        return {
            **self._place.basis(),
            **self._place.meeting(rank),
            **{name: str(value) for name, value in launch.envs.items()},
            **self._secrets,
            **self._place.of_rank(rank),
            "CAIRN_RUN": launch.run_uid,
            "CAIRN_TEAM": launch.team,
            "CAIRN_ATTEMPT": str(launch.attempt),
            "CAIRN_ATTEMPT_UID": launch.attempt_uid,
            guard.MARK: self._mark,
            "CAIRN_URL": launch.url,
            "CAIRN_BUS_URL": launch.bus_url,
            "CAIRN_TOKEN_FILE": str(folder.token_file),
            "CAIRN_NOTICE": str(folder.notice_file),
            "CAIRN_SPOOL": str(folder.spool),
            "CAIRN_PARAMS": json.dumps(dict(launch.params)),
            "CAIRN_SECRETS": ",".join(self._secrets),
            **_origin(launch),
            "PYTHONUNBUFFERED": "1",
        }


def _origin(launch: Launch) -> dict[str, str]:
    """What a job that was made from another one begins with."""
    told = launch.origin or {}
    if told.get("kind") == "resume":
        return {"CAIRN_RESUME": str(told.get("checkpoint", ""))}
    return {"CAIRN_RERUN": str(told.get("run", ""))} if told.get("kind") == "rerun" else {}


class Clock:
    """The time in seconds since 1970, as this process found it: it does not jump when the clock is set."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Never less than what it said before."""
        return self._offset + time.monotonic()
