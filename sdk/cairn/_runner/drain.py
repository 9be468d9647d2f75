"""The last part of an attempt: everything that was logged reaches the bus, and then that fact does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from cairn._http import Api
from cairn._link import Listen
from cairn._runner import guard
from cairn._runner.folder import BadLaunch, Folder, Launch
from cairn._segments import media_folder, segments, writers
from cairn._ship import Shipper
from cairn._spool import Writer
from cairn._uploading import Uploading, waiting

_log = logging.getLogger("cairn")

# With a bus that answers, the attempt's end waits this long for its last words.
BEFORE_END_SECONDS = 5.0
AFTER_END_SECONDS = 60.0
_ANSWER_SECONDS = 3.0


class Drain:
    """Ships an attempt's spool while it fills, and says when all of it has gone: `runners` in all do.

    `words`: the writer of what the scheduler hears; there it is said once more, after the bus has the rest.
    `knocked` is called, from a thread, when the scheduler tells that somebody wants to reach in.
    """

    def __init__(
        self,
        folder: Folder,
        launch: Launch,
        writer: Writer,
        *,
        words: Writer | None = None,
        rank: int = 0,
        runners: int = 1,
        listen: Listen | None = None,
        knocked: Callable[[], None] | None = None,
    ) -> None:
        from cairn._batch import Identity

        last: list[tuple[Writer, str, dict[str, int]]] = [
            (writer, "attempt_drained", {"rank": rank, "runners": runners})
        ]
        if words is not None:
            last.append((words, "attempt_shipped", {"rank": rank}))
        # Each goes when everything before it has.
        self._last = last
        self._folder = folder
        self._writers = [writer] if words is None else [writer, words]
        self._marker = folder.path / "drained"
        identity = Identity(launch.team, launch.run_uid, launch.attempt_uid, launch.attempt)
        listens = [] if listen is None else [listen]
        if knocked is not None:
            subject = f"cairn.v1.scheduler.session.opened.{launch.team}.{launch.run_uid}"
            listens.append(Listen(subject, lambda _: knocked()))
        self._shipper = Shipper(
            folder.spool, identity, bus_url=lambda: launch.bus_url, token=folder.token, gateway=launch.url,
            listens=listens,
        )  # fmt: skip
        self.done = False
        self._uploading = Uploading(
            media_folder(folder.spool), team=launch.team,
            api=lambda: Api(launch.url, folder.token, patience=5.0) if launch.url else None,
            lost=lambda: writer.json("points_dropped", {"points": 1}), alone=lambda: self._shipper.answered,
        )  # fmt: skip
        self._shipper.start()
        self._uploading.start()

    def answers(self) -> bool:
        """Whether the bus does, as far as is known after a short wait."""
        return self._shipper.wait_answer(_ANSWER_SECONDS)

    def finish(self, seconds: float, *, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Waits until everything is shipped, and the last words behind it. For when the ranks have ended."""
        deadline = time.monotonic() + seconds
        while not self.done:
            for writer in self._writers:
                writer.flush()
            if not self._shipper.wait_empty(deadline - time.monotonic(), given_up=given_up):
                return False
            if not self._uploading.wait_empty(deadline - time.monotonic(), given_up=given_up):
                return False
            if any(writer.waiting for writer in self._writers):
                continue  # the disk was full; what was shipped has made room
            if self._last:
                writer, arm, value = self._last.pop(0)
                writer.json(arm, value)
            else:
                self.done = True
        return True

    def close(self) -> None:
        """Stops shipping; an empty spool is removed, anything else waits for the next drain."""
        for writer in self._writers:
            writer.close()
        self._shipper.stop()
        self._uploading.stop()
        if self.done:
            self._marker.touch()
            self._shipper.clean()


def drain_left(path: Path, *, seconds: float = AFTER_END_SECONDS) -> bool:
    """Ships what an earlier runner of the attempt left. False: something is left still."""
    folder = Folder(path)
    if not folder.lock():
        return True  # its runner is alive, and ships by itself
    try:
        launch = folder.read_launch()
    except BadLaunch as error:
        _log.error("%s", error)
        return False
    guard.sweep(guard.mark(launch.attempt_uid))
    left = any(map(segments, writers(folder.spool))) or waiting(media_folder(folder.spool))
    if (path / "drained").exists() and not left:
        return True
    drain = Drain(folder, launch, Writer(folder.spool))
    try:
        return drain.finish(seconds)
    finally:
        drain.close()
