"""One rank on one node of a cluster that SkyPilot made: what it knows from SkyPilot's variables, and how it
tells the scheduler, which cannot see this folder."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cairn._link import Listen
from cairn._runner import rendezvous
from cairn._runner.attempt import Attempt
from cairn._runner.folder import BadLaunch, End, Folder, Launch
from cairn._runner.signals import Signals
from cairn._spool import Writer

if TYPE_CHECKING:
    from cairn.scheduler.v1.events_pb2 import SchedulerEvent

_log = logging.getLogger("cairn")

BEAT_SECONDS = 15.0
_LONGEST_LINE = 2000
# The runner's own, not the command's.
_HIDDEN = frozenset({"CAIRN_NODE_TOKEN", "CAIRN_NODE_TOOL"})


def run_node(path: Path) -> int:
    """Runs this node's rank. 0: how it ended is known to the bus, or another runner has the folder."""
    folder = Folder(path)
    if not folder.lock() or folder.ended:
        return 0
    signals = Signals()
    signals.install()
    try:
        launch = folder.read_launch()
    except BadLaunch as error:
        _log.error("%s", error)
        return 1
    folder.write_state("launching")
    place = Node(launch, os.environ, stop=signals.ask, notice_file=folder.notice_file)
    with contextlib.closing(place):
        attempt = Attempt(folder, launch, signals, place)
        try:
            attempt.run()
        except Exception as error:
            # Nobody sees this node's logs: without a word the scheduler would wait for one.
            _log.exception("the runner failed")
            attempt.give_up(f"The runner failed: {error!r}")
    # SkyPilot kills all ranks at once when one fails; how the others end is the scheduler's to say.
    if attempt.reported and launch.num_nodes > 1:
        return 0
    return 0 if attempt.end.exit_code == 0 and not attempt.end.stopped else attempt.end.exit_code or 1


class Node:
    """One rank is here, the others are on other nodes."""

    ranks = 1
    # The folder goes with the cluster: what is not shipped by then is lost.
    patience = 600.0

    def __init__(
        self, launch: Launch, environ: Mapping[str, str], *, stop: Callable[[], None], notice_file: Path
    ) -> None:
        self.first = int(environ.get("SKYPILOT_NODE_RANK") or 0)
        self.listen: Listen | None = Listen(
            f"cairn.v1.scheduler.attempt.stopping.{launch.team}.{launch.run_uid}", self._hear
        )
        self._launch = launch
        self._environ = environ
        self._stop = stop
        self._notice_file = notice_file
        self.words: Writer | None = None
        self._over = threading.Event()

    def basis(self) -> Mapping[str, str]:
        """What SkyPilot and the node's image set up for the task."""
        return {name: value for name, value in self._environ.items() if name not in _HIDDEN}

    def meeting(self, rank: int) -> Mapping[str, str]:
        """On the first node, at the port that all nodes find by the attempt's uid."""
        ips = self._environ.get("SKYPILOT_NODE_IPS", "").split()
        return rendezvous.variables(
            rank=self.first, ranks=self._launch.num_nodes, address=ips[0] if ips else "127.0.0.1",
            port=rendezvous.agreed_port(self._launch.attempt_uid),
            gpus=int(self._environ.get("SKYPILOT_NUM_GPUS_PER_NODE") or 0),
        )  # fmt: skip

    def secrets(self, folder: Folder) -> Mapping[str, str]:
        """SkyPilot put them into the environment."""
        return {name: self._environ[name] for name in self._launch.secrets if name in self._environ}

    def of_rank(self, rank: int) -> Mapping[str, str]:
        """The numbers; the rest is in the environment already."""
        return {"CAIRN_RANK": str(self.first)}

    def tell_in(self, spool: Path) -> None:
        """Begins to say every now and then that it lives, until it is closed: what was logged is on its way
        when the command has ended."""
        self.words = Writer(spool)
        threading.Thread(target=self._beat, name="cairn-beat", daemon=True).start()

    def started(self, time: float, pids: Sequence[int]) -> None:
        """Tells that the command runs."""
        self._tell("attempt_started", {"start_time": time, "pid": pids[0], "host": os.uname().nodename})

    def ended(self, end: End) -> None:
        """Tells how it ended: what of end.json the event has fields for."""
        from cairn.job.v1.events_pb2 import AttemptEnded

        known = AttemptEnded.DESCRIPTOR.fields_by_name
        said = {name: value for name, value in asdict(end).items() if value is not None and name in known}
        said["last_lines"] = [line[:_LONGEST_LINE] for line in end.last_lines]
        self._tell("attempt_ended", said)

    def close(self) -> None:
        """Beats no more."""
        self._over.set()

    def _beat(self) -> None:
        while True:
            self._tell("attempt_beat", {"time": time.time()})
            if self._over.wait(BEAT_SECONDS):
                return

    def _tell(self, arm: str, value: Mapping[str, object]) -> None:
        if self.words is not None:
            self.words.json(arm, {**value, "rank": self.first})

    def _hear(self, data: bytes) -> None:
        """A fact of the scheduler's: this attempt is to end. In the shipper's thread."""
        from google.protobuf.message import DecodeError

        from cairn.scheduler.v1 import events_pb2

        event: SchedulerEvent = events_pb2.SchedulerEvent()
        try:
            event.ParseFromString(data)
        except DecodeError:
            return
        if event.attempt_stopping.attempt_uid == self._launch.attempt_uid:
            if event.attempt_stopping.notice:
                with contextlib.suppress(OSError):  # without it the program still hears the signal
                    self._notice_file.write_text(event.attempt_stopping.notice)
            self._stop()
