"""What each command starts with: the options that all have, the client, and where to print."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cairn._cli.text import json_text
from cairn.client import Client

F = TypeVar("F", bound=Callable[..., Any])
# Where output goes into a file or a pipe nothing is cut to a terminal's width.
PIPE_WIDTH = 220


class Session:
    """One command's surroundings. Data goes to `out`; what is said beside it goes to `err`."""

    def __init__(self, *, as_json: bool = False, team: str | None = None) -> None:
        self.as_json = as_json
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)
        self.client_team = team

    @functools.cached_property
    def client(self) -> Client:
        """The server that the configuration names. Raises `NotConfigured`."""
        return Client(team=self.client_team)

    def patient_client(self) -> Client:
        """For following: a server that is restarted is waited for."""
        return Client(team=self.client_team, patience=60.0)

    @property
    def interactive(self) -> bool:
        """Whether a person sees the output."""
        return self.out.is_terminal and not self.as_json

    def emit(self, value: Any) -> None:
        """JSON on stdout."""
        click.echo(json_text(value, indent=2))

    def say(self, message: Any) -> None:
        """Something beside the data."""
        self.err.print(message, highlight=False)

    def transfer(self, label: str) -> Transfer:
        """A progress bar for bytes, shown on a terminal only."""
        return Transfer(self.err, label)


class Transfer:
    """A context manager that is also the progress callback of `cairn._transfer`."""

    def __init__(self, console: Console, label: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._label = label
        self._task: TaskID | None = None

    def __enter__(self) -> Transfer:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._label, total=total)
        self._progress.update(self._task, completed=done, total=total)


def common(function: F) -> F:
    """Gives a command `--json`, `--team` and `--debug`, and a `Session` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else there.")
    @click.option("--team", metavar="TEAM", help="Act in this team.")
    @click.option("--debug", is_flag=True, hidden=True, expose_value=False)
    @functools.wraps(function)
    def call(*args: Any, as_json: bool, team: str | None, **kwargs: Any) -> Any:
        return function(Session(as_json=as_json, team=team), *args, **kwargs)

    return call  # type: ignore[return-value]


def _console(file: Any) -> Console:
    terminal = hasattr(file, "isatty") and file.isatty()
    return Console(
        file=file, highlight=False, emoji=False, markup=False, width=None if terminal else PIPE_WIDTH
    )
