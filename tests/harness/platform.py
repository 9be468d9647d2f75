"""A whole platform as its user has it: `cairn up` in a process of its own, on a data folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from cairn._cli.main import invoke
from cairn.client import Client
from cairn_server import ports


class Platform:
    """`cairn up` on one folder. Everything is told from outside: by the command line and the HTTP API."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.data = folder / "data"
        self._http = ports.free(["http"])["http"]
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CAIRN_")},
            "CAIRN_CONFIG": str(folder / "config.json"),
            "CAIRN_HOME": str(self.data),
            **env,
        }

    def cairn(
        self, *arguments: str, timeout: float = 120.0, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs the command line as a person would and gives what it said."""
        return subprocess.run(
            [self.program, *arguments], env=self.env, cwd=cwd, capture_output=True, text=True, timeout=timeout
        )

    def says(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """As `cairn`, in this process: there is no interpreter to be started for it."""
        out, err, before = StringIO(), StringIO(), dict(os.environ)
        os.environ.clear()
        os.environ.update(self.env)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = invoke(arguments)
        finally:
            os.environ.clear()
            os.environ.update(before)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    @property
    def program(self) -> str:
        """The `cairn` of this environment."""
        return str(Path(sys.executable).with_name("cairn"))

    def up(self, *options: str) -> None:
        """Starts it in the background and returns when it answers.

        On a port of its own: at the usual one, two that start at the same moment would both find nobody.
        Where somebody took it in between, another one is tried.
        """
        chosen = "--port" in options
        for _ in range(3):
            port = () if chosen else ("--port", str(self._http))
            done = self.cairn("up", "--detach", *port, *options)
            if chosen or "port is taken" not in done.stderr:
                break
            self._http = ports.free(["http"])["http"]
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self) -> None:
        """Stops it in order."""
        done = self.cairn("down")
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        """What `cairn status --json` says."""
        status: dict[str, Any] = json.loads(self.cairn("status", "--json").stdout)
        return status

    def pid(self, name: str, timeout: float = 30.0) -> int:
        """The process id of a service or embedded server; one that is just being restarted is awaited."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for process in self.status()["processes"]:
                if process["name"] == name and process["pid"]:
                    return int(process["pid"])
        raise TimeoutError(f"{name} did not run within {timeout} s")

    def kill(self, name: str) -> int:
        """`kill -9` of one process, by its pid, which is returned."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def client(self, patience: float = 120.0) -> Client:
        """An admin's client."""
        token = json.loads((self.data / "secrets.json").read_text())["admin_token"]
        return Client(self.status()["url"], token, "main", patience=patience)
