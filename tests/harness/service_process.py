"""One of Cairn's services as a process of its own, to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class ServiceProcess:
    """`name` as in `cairn_NAME`; `env`: its settings. Its output is added to `log`.

    `arguments`: what Python is to run instead of the service as it stands.
    """

    name: str
    env: Mapping[str, str]
    log: Path
    arguments: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; whether it serves is to be asked."""
        arguments = self.arguments or (
            "-c",
            f"from cairn_server.serve import serve; serve({self.name!r})",
        )
        env = {"PATH": os.environ["PATH"], **self.env}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], env=env, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Of the one that runs."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and waits for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None
