"""What a supervised program is, and how to wait until it answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("launch.py")
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.25


class SetupError(Exception):
    """This machine, folder or setting does not allow a server to run; the text says what to do."""


class NotReady(Exception):
    """A program does not answer yet; the text says what it answered instead."""


@dataclass(frozen=True, slots=True)
class Account:
    """An existing operating system account that a program runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder shown at another path, in a mount namespace that only the program sees."""

    source: Path
    target: Path


async def _at_once() -> None:
    """Ready as soon as it runs."""


@dataclass(frozen=True, slots=True)
class Program:
    """One process to start: its command line, environment, and the query that shows it is ready.

    `probe` raises `NotReady` (nothing else) until the program answers. `reclaim` frees what an earlier
    process of this program may have left behind; it is called before each start. `ailing`, asked now and
    then, says why a process that answers has to be started again, or None; it raises nothing.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    port: int | None = None
    probe: Callable[[], Awaitable[None]] = _at_once
    reclaim: Callable[[], None] | None = None
    # Ends what a process leaves running that is of no use without it; called after each end.
    after: Callable[[], None] | None = None
    ailing: Callable[[], Awaitable[str | None]] | None = None
    cwd: Path = Path("/")
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 10.0
    account: Account | None = None
    bind: Bind | None = None


def command(program: Program, *, dies_with_parent: bool = True) -> list[str]:
    """The command line that starts `program`, through the launcher (see `launch.py`)."""
    return [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(_spec(program, dies_with_parent))]


def environment(program: Program) -> dict[str, str]:
    """A clean environment: what every program needs, and what this one was given."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR") if key in os.environ}
    return {**kept, **program.env}


async def wait_ready(
    program: Program, *, deadline: float = 30.0, alive: Callable[[], bool] = lambda: True
) -> None:
    """Asks `program.probe` until it answers.

    `deadline` is in seconds. Raises `NotReady` when it is over or when `alive()` says that nobody can answer.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    pause = _FIRST_PAUSE
    while True:
        try:
            # Not `wait_for`: before Python 3.12 it can swallow a cancellation.
            async with asyncio.timeout(max(0.1, min(5.0, end - loop.time()))):
                return await program.probe()
        except TimeoutError:
            last = "it took longer than 5 s to answer"
        except NotReady as error:
            last = str(error)
        if not alive():
            raise NotReady(f"{program.name} ended before it was ready")
        if loop.time() + pause > end:
            raise NotReady(f"{program.name} was not ready after {deadline:.0f} s: {last}")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _spec(program: Program, dies_with_parent: bool) -> dict[str, object]:
    account, bind = program.account, program.bind
    return {
        "argv": program.argv,
        "cwd": str(program.cwd),
        "parent": os.getpid() if dies_with_parent else None,
        "signal": int(program.stop_signal),
        "account": [account.name, account.uid, account.gid] if account else None,
        "bind": [str(bind.source), str(bind.target)] if bind else None,
    }
