"""Sends the files of media to the store while they come; each is removed once the store has it."""

from __future__ import annotations

import hashlib
import logging
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cairn._blobs import Store, StoreRefused, TransferError
from cairn._http import Api, ApiError, Unreachable
from cairn._transfer import Part, ask_uploads

_log = logging.getLogger("cairn")

POLL_SECONDS = (0.2, 2.0)
_BACK_OFF_SECONDS = (0.5, 30.0)
_AT_ONCE = 100
_DIGEST = re.compile(r"[0-9a-f]{64}")
# The server says that this can never be a blob.
_NEVER = frozenset({400, 413, 422})
# A store that refuses what it was asked for a moment ago is believed after so many times.
_MOST_REFUSALS = 5
_FAILURES = (TransferError, Unreachable, ApiError, OSError, ValueError)


def waiting(folder: Path) -> list[Path]:
    """Files that are to be sent."""
    try:
        return [path for path in folder.iterdir() if _DIGEST.fullmatch(path.name)]
    except OSError:
        return []


class Uploading:
    """A thread that looks into `folder`, in which files are named by their SHA-256.

    `api` is asked before each try: None stands for "not now". One that the server calls impossible is left
    out, with a warning. One that the store refuses is tried again, ever more seldom; where `lost` is given it
    is left out, too, after some times: nothing is to wait for it. `lost` hears of each that is left out.
    While `alone` is false nothing is said of a server that is away: somebody else says that.
    """

    def __init__(
        self, folder: Path, *, team: str, api: Callable[[], Api | None],
        lost: Callable[[], None] | None = None, alone: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self._folder = folder
        self._team = team
        self._api = api
        self._lost = lost
        self._alone = alone
        self._store = Store(patience=5.0)
        self._refusals: Counter[str] = Counter()
        self._nudge = threading.Event()
        self._changed = threading.Condition()
        self._stopping = False
        self._complained = False
        self._thread: threading.Thread | None = None
        #: Whether the last try failed.
        self.away = False

    def start(self) -> None:
        """Begins the thread, once; then it looks at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cairn-media", daemon=True)
            self._thread.start()
        self._nudge.set()

    def wait_empty(self, timeout: float, *, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Waits until every file was sent. False: some lie there still."""
        deadline = time.monotonic() + timeout
        if not waiting(self._folder):
            return True
        self.start()
        with self._changed:
            while waiting(self._folder):
                left = deadline - time.monotonic()
                if left <= 0 or self._stopping or given_up():
                    return False
                self._changed.wait(min(left, 0.1))
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """Ends the thread; what is left stays."""
        self._stopping = True
        self._nudge.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        least, most = POLL_SECONDS
        pause = least
        while not self._stopping:
            found = waiting(self._folder)
            try:
                if found:
                    # Not always the same ones: what is refused for good must not stand before the others.
                    self._send(random.sample(found, min(len(found), _AT_ONCE)))
                self.away = self._complained = False
                pause = least if found else min(pause * 1.5, most)
            except _FAILURES as error:
                self._complain(error)
                pause = min(max(pause * 2, _BACK_OFF_SECONDS[0]), _BACK_OFF_SECONDS[1])
            with self._changed:
                self._changed.notify_all()
            if not (found and not self.away):
                self._nudge.wait(pause)
                self._nudge.clear()

    def _send(self, files: list[Path]) -> None:
        """Raises what a transfer raises, after those that went well."""
        api = self._api()
        if api is None:
            raise ValueError("no server is configured")
        sizes = {path.name: path.stat().st_size for path in files}
        try:
            urls = ask_uploads(
                api, self._team, [Part(digest, size) for digest, size in sizes.items() if size]
            )
        except ApiError as error:
            if error.status not in _NEVER:
                raise
            if len(files) == 1:
                self._leave_out(files[0], error)
            else:  # because of one of them
                for path in files:
                    self._send([path])
            return
        failure: Exception | None = None
        for path in files:
            if self._stopping:
                return
            try:
                if path.name in urls:
                    self._put(path, urls[path.name])
                path.unlink(missing_ok=True)
            except StoreRefused as error:
                failure = self._refused(path, error)
            except TransferError as error:
                failure = error  # of this one; the others may go
        if failure is not None:
            raise failure

    def _refused(self, path: Path, error: StoreRefused) -> StoreRefused | None:
        """What to say of it now; None: it was left out."""
        self._refusals[path.name] += 1
        if self._lost is None or self._refusals[path.name] < _MOST_REFUSALS:
            return error
        self._leave_out(path, error)
        return None

    def _leave_out(self, path: Path, error: Exception) -> None:
        _log.warning("cairn: an image or table (%s) is left out, nobody takes it: %s", path.name[:12], error)
        path.unlink(missing_ok=True)
        if self._lost is not None:
            self._lost()

    def _put(self, path: Path, url: str) -> None:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == path.name:
            self._store.put(url, data)
        else:  # a power cut, most likely
            _log.warning("cairn: %s is damaged, and left out", path)

    def _complain(self, error: Exception) -> None:
        self.away = True
        if not self._complained and self._alone():
            self._complained = True
            _log.warning("cairn: images and tables wait in %s: %s", self._folder, error)
