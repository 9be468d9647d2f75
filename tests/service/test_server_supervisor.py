"""The supervisor starts what dies again, stops in order, and says why something cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cairn_server import processes
from cairn_server import supervisor as supervisors
from cairn_server.backends.program import NotReady, Program
from cairn_server.supervisor import StartError, State, Supervisor

SLEEPER = "import signal, pathlib, sys; pathlib.Path(sys.argv[1]).touch(); signal.pause()"
ORPHAN_MAKER = """
import pathlib, signal, subprocess, sys
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
signal.pause()
"""


class Changes:
    """Wakes a test at each change of a child."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self._event.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._event.clear()
                await self._event.wait()


def sleeper(folder: Path, code: str = SLEEPER) -> Program:
    file = folder / "ready"

    async def probe() -> None:
        if not file.exists() or (not file.read_text() and code is ORPHAN_MAKER):
            raise NotReady("no file yet")

    return Program(
        "sleeper", (sys.executable, "-c", code, str(file)), probe=probe, reclaim=lambda: file.unlink(True)
    )


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    changes = Changes()
    supervisor = Supervisor(tmp_path, changes)
    async with supervisor.running([sleeper(tmp_path)]):
        child = supervisor.children[0]
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await changes.until(lambda: child.restarts == 1 and child.state is State.READY)
        second, began = child.pid, child.began
        assert second not in (None, first)
    assert child.state is State.STOPPED
    assert second is not None
    assert began is not None
    assert not processes.is_same(second, began)


async def test_a_child_whose_log_cannot_be_opened_is_tried_until_it_can(tmp_path: Path) -> None:
    changes = Changes()
    supervisor = Supervisor(tmp_path, changes)
    async with supervisor.running([sleeper(tmp_path)]):
        child = supervisor.children[0]
        assert child.pid is not None
        (tmp_path / "sleeper.log").unlink()
        (tmp_path / "sleeper.log").mkdir()
        os.kill(child.pid, signal.SIGKILL)
        await changes.until(lambda: child.restarts == 3)
        (tmp_path / "sleeper.log").rmdir()
        await changes.until(lambda: child.state is State.READY)


async def test_a_child_that_answers_but_ails_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisors, "_LOOK_SECONDS", 0.05)
    reasons: list[str | None] = [None, "its disk was full", None]
    changes = Changes()
    supervisor = Supervisor(tmp_path, changes)

    async def ailing() -> str | None:
        return reasons.pop(0) if reasons else None

    async with supervisor.running([replace(sleeper(tmp_path), ailing=ailing)]):
        child = supervisor.children[0]
        first = child.pid
        await changes.until(lambda: child.restarts == 1 and child.state is State.READY)
        assert child.pid not in (None, first)


async def test_what_a_child_started_in_its_own_session_outlives_it(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, lambda: None)
    async with supervisor.running([sleeper(tmp_path, ORPHAN_MAKER)]):
        orphan = int((tmp_path / "ready").read_text())
    began = processes.start_time(orphan)
    assert began is not None
    assert await asyncio.to_thread(lambda: processes.stop(orphan, began, grace=5))


async def test_a_child_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    async def probe() -> None:
        raise NotReady("nobody")

    broken = Program("broken", (sys.executable, "-c", "raise SystemExit('no such setting: x')"), probe=probe)
    with pytest.raises(StartError, match="no such setting: x"):
        async with Supervisor(tmp_path, lambda: None).running([broken]):
            pass


async def test_a_start_is_given_up_though_a_probe_swallows_the_cancellation(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def probe() -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    supervisor = Supervisor(tmp_path, lambda: None)

    async def run() -> None:
        async with supervisor.running([Program("sleeper", ("/bin/sleep", "600"), probe=probe)]):
            pass

    task = asyncio.create_task(run())
    await asked.wait()
    (child,) = supervisor.children
    pid, began = child.pid, child.began
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(20):
            await task
    assert pid is not None
    assert began is not None
    assert not processes.is_same(pid, began)
