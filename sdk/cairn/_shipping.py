"""A run without a job ships its own spool, in a thread that imports what it takes: `init` does not wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cairn._imports import importing
from cairn._segments import media_folder

if TYPE_CHECKING:
    from cairn._http import Api
    from cairn._ship import Shipper
    from cairn._uploading import Uploading

_log = logging.getLogger("cairn")

# How long the end of a run waits for a server that gives no answer at all.
AWAY_SECONDS = 1.0


class Shipping:
    """Sends what lies in `spool` to the server at `url` while it comes; `token` is asked before each try."""

    def __init__(self, spool: Path, *, team: str, run_uid: str, url: str, token: Callable[[], str]) -> None:
        self._spool = spool
        self._team = team
        self._run_uid = run_uid
        self._url = url
        self._token = token
        self._shipper: Shipper | None = None
        self._uploading: Uploading | None = None
        self._made = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cairn-shipper", daemon=True)

    def start(self) -> None:
        """Raises RuntimeError where no thread can be begun."""
        self._thread.start()

    def finish(self, timeout: float) -> bool:
        """Waits until the server has everything, and ends. False: it lacks something."""
        deadline = time.monotonic() + timeout
        self._made.wait(timeout)
        if (shipper := self._shipper) is None:
            return False
        patient = min(deadline, time.monotonic() + AWAY_SECONDS)
        sent = shipper.wait_empty(
            deadline - time.monotonic(), given_up=lambda: shipper.away and time.monotonic() > patient
        )
        shipper.stop()
        return self._finish_media(deadline, patient) and sent

    def media_waits(self) -> None:
        """There is a file of media to send."""
        self._media().start()

    def _finish_media(self, deadline: float, patient: float) -> bool:
        if not media_folder(self._spool).exists():
            return True
        uploading = self._media()
        sent = uploading.wait_empty(
            deadline - time.monotonic(), given_up=lambda: uploading.away and time.monotonic() > patient
        )
        uploading.stop()
        return sent

    def _media(self) -> Uploading:
        if self._uploading is None:
            from cairn._uploading import Uploading

            self._uploading = Uploading(
                media_folder(self._spool), team=self._team, api=self._api, alone=self._answered
            )
        return self._uploading

    def _answered(self) -> bool:
        return self._shipper is not None and self._shipper.answered

    def _api(self) -> Api:
        from cairn._http import Api

        return Api(self._url, self._token, patience=0.0)  # who asks for it tries again

    def _run(self) -> None:
        try:
            with importing:
                # All of it: what is imported later is not what a fork waits for.
                import nats.aio.client
                import nats.js.errors  # noqa: F401

                import cairn._http
                import cairn._tunnel  # noqa: F401
                from cairn._batch import Identity
                from cairn._ship import Shipper
                from cairn._sync import bus_url
            self._shipper = Shipper(
                self._spool, Identity(self._team, self._run_uid),
                bus_url=lambda: bus_url(self._url, self._token()), token=self._token,
                gateway=self._url,
            )  # fmt: skip
        except ImportError as error:
            _log.warning("cairn: nothing is sent to %s: %s", self._url, error)
            return
        finally:
            self._made.set()
        self._shipper.run()
