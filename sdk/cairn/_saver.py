"""The thread that sends staged checkpoints, one after the other in the order they were saved."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from pathlib import Path

from cairn._blobs import TransferError
from cairn._http import Api, ApiError, Pauses, Unreachable
from cairn._ids import new_uid
from cairn._paths import UnsafePath
from cairn._publish import Version, publish
from cairn._stage import Staged
from cairn._upload import ChangedError

MOST_WAITING = 8
FOREVER = 7 * 24 * 3600.0

_log = logging.getLogger("cairn")

# Of one attempt: a launcher such as torchrun starts its ranks anew in it.
_LIVES = 1_000


def _restarts() -> int:
    """How often the ranks were started anew in this attempt: all of them know the same number."""
    told = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return min(int(told), _LIVES - 1) if told.isascii() and told.isdigit() else 0


class Saver:
    """Checkpoints of one run. Without a server a staged copy is the store's own, and nothing is sent."""

    def __init__(
        self, *, api: Api | None, team: str, run_uid: str, folder: Path, artifact: str, attempt: int = 0
    ) -> None:
        self.folder = folder
        self._life = attempt * _LIVES + _restarts()
        self._api, self._team, self._run_uid, self._artifact = api, team, run_uid, artifact
        self._waiting: deque[Staged] = deque()
        self._rounds: dict[int, int] = {}
        self._busy = False
        self._failed: Exception | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def sends(self) -> bool:
        """Whether there is a server; else what is staged is what is kept."""
        return self._api is not None

    def next_round(self, step: int) -> int:
        """How often it was called with this step before. Each rank counts for itself, whatever comes of it:
        so all have the same number."""
        with self._changed:
            number = self._rounds.get(step, 0)
            self._rounds[step] = number + 1
        return number

    def save(self, staged: Staged) -> None:
        """Queues a copy. Where eight wait already (the server is away), the oldest makes room for it."""
        if self._api is None:
            return
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                oldest = self._waiting.popleft()
                oldest.remove()
                _log.warning(
                    "cairn: the server takes no checkpoints: %d newer ones wait, the one at step %d is lost",
                    MOST_WAITING,
                    oldest.step,
                )
            self._waiting.append(staged)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="cairn-checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Until all is committed, at most ``timeout`` seconds. Raises what made the last one impossible."""
        end = time.monotonic() + timeout
        with self._changed:
            while self._waiting or self._busy:
                if not self._changed.wait(max(0.0, end - time.monotonic())) and time.monotonic() >= end:
                    return False
            failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                staged, self._busy = self._waiting.popleft(), True
            try:
                self._commit(staged)
                staged.remove()
            except (TransferError, UnsafePath, ApiError, Unreachable, OSError) as error:
                _log.warning("cairn: the checkpoint at step %d is lost to others: %s", staged.step, error)
                if isinstance(error, ChangedError):
                    staged.remove()  # what it was is nowhere any more
                with self._changed:
                    self._failed = error
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _commit(self, staged: Staged) -> None:
        assert self._api is not None
        version = Version(
            artifact=self._artifact,
            kind="checkpoint",
            run_uid=self._run_uid,
            step=staged.step,
            metadata={"metrics": staged.metrics, **({} if staged.file else {"folder": True})},
            request_id=new_uid(),  # one for all tries: the same checkpoint is never committed twice
            shard=(staged.shard.rank, staged.shard.ranks, self._life, staged.shard.round)
            if staged.shard
            else None,
        )
        pauses = Pauses(FOREVER)
        while True:
            linked = bool(staged.links)
            try:
                publish(self._api, self._team, staged.sources(), version)
                return
            except ChangedError:
                if not linked or staged.links:
                    raise
                continue  # whoever saved it has made it a copy of its own meanwhile
            except Unreachable as error:
                failure: Exception = error
            except ApiError as error:
                if error.status < 500 and error.status != 429 and error.reason != "RUN_NOT_FOUND":
                    raise
                failure = error
            if not pauses.pause():
                raise failure
