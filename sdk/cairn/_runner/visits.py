"""People who reach into the attempt: the process that lets them in, once somebody wants to."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from cairn._runner import guard

_log = logging.getLogger("cairn")

END_SECONDS = 2.0


class Visits:
    """Starts `cairn._attach.agent` when it was knocked, and ends it before the attempt does.

    `knock` is for any thread, the rest for the main one: children die with the thread that started them.
    `environments` are those of the ranks here; `wake` makes the main thread call `turn`.
    """

    def __init__(
        self, folder: Path, *, environments: Callable[[], Mapping[int, Mapping[str, str]]],
        wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._folder = folder
        self._environments = environments
        self._wake = wake
        self._wanted = threading.Event()
        self._agent: subprocess.Popen[bytes] | None = None
        self._came = False

    @property
    def pid(self) -> int | None:
        """The agent, if it runs."""
        return self._agent.pid if self._agent is not None else None

    def knock(self) -> None:
        """Somebody wants to come in. An agent that runs hears it by itself."""
        self._wanted.set()
        self._wake()

    def turn(self) -> None:
        """Starts the agent where it is wanted and does not run."""
        if self._agent is not None and self._agent.poll() is not None:
            self._agent = None
        if not self._wanted.is_set():
            return
        self._wanted.clear()
        if self._agent is None:
            try:
                self._start()
            except (OSError, subprocess.SubprocessError) as error:
                _log.warning("people cannot be let in: %s", error)

    def end(self, mark: str) -> None:
        """Ends all sessions and tells people why; nothing that they started is left."""
        if self._agent is not None:
            self._agent.terminate()
            try:
                self._agent.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._agent.kill()
                self._agent.wait()
            self._agent = None
        if self._came:
            guard.sweep(mark)

    def _start(self) -> None:
        environments = json.dumps({rank: dict(env) for rank, env in self._environments().items()})
        self._agent = subprocess.Popen(
            [sys.executable, "-P", "-m", "cairn._runner", "--attach", str(self._folder)],
            cwd="/", stdin=subprocess.PIPE, start_new_session=True, preexec_fn=guard.die_with_parent(),
        )  # fmt: skip
        self._came = True
        assert self._agent.stdin is not None
        # Through a pipe: what a task's variables hold is for nobody's eyes.
        with self._agent.stdin as pipe:
            pipe.write(environments.encode())


class NoVisits(Visits):
    """For a gang that nobody reaches into."""

    def __init__(self) -> None:
        super().__init__(Path("/"), environments=dict, wake=lambda: None)
