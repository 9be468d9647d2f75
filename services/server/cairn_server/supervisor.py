"""Keeps processes running: starts each, waits until it answers, starts it again when it dies.

A child's end is an event of the kernel; while all is well nothing wakes up here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import structlog

from cairn_server import logs, processes
from cairn_server.backends.program import NotReady, Program, SetupError, command, environment, wait_ready

log = structlog.get_logger()

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
# A process that lived so long (seconds) was well; its next death is a first one again.
_WELL_AFTER = 20.0
_READY_WITHIN = 45.0
# How often a program that can ail is asked.
_LOOK_SECONDS = 15.0
# So many deaths before it ever answered mean that it cannot run.
_HOPELESS_AFTER = 4


class State(StrEnum):
    """Where a child stands."""

    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    STOPPED = "stopped"


class StartError(Exception):
    """A process does not come up; the text holds the end of its log."""


@dataclass
class Child:
    """One supervised process, now."""

    program: Program
    state: State = State.STOPPED
    pid: int | None = None
    began: int | None = None
    restarts: int = 0
    deaths_before_ready: int = 0
    first_ready: asyncio.Event = field(default_factory=asyncio.Event)
    hopeless: asyncio.Event = field(default_factory=asyncio.Event)
    # Beside the task's cancellation, which a probe (a library under it) may swallow.
    stopping: bool = False


@dataclass(frozen=True)
class Supervisor:
    """Runs children; `changed` is called after each change of any of them."""

    logs: Path
    changed: Callable[[], None]
    children: list[Child] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, programs: Sequence[Program]) -> AsyncIterator[None]:
        """Starts `programs`, waits until all are ready, and stops them (all at once) at the end.

        Raises `StartError` where one does not come up.
        """
        group = [Child(program) for program in programs]
        self.children.extend(group)
        tasks = [asyncio.create_task(self._keep(child), name=child.program.name) for child in group]
        try:
            await asyncio.gather(*(self._first_ready(child) for child in group))
            yield
        finally:
            for child, task in zip(group, tasks, strict=True):
                child.stopping = True
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def kill(self) -> None:
        """Kills every child at once; for those who have no patience left."""
        for child in self.children:
            if child.pid and child.began and processes.is_same(child.pid, child.began):
                os.kill(child.pid, signal.SIGKILL)

    async def _first_ready(self, child: Child) -> None:
        ready = asyncio.create_task(child.first_ready.wait())
        hopeless = asyncio.create_task(child.hopeless.wait())
        try:
            await asyncio.wait({ready, hopeless}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            hopeless.cancel()
        if not child.first_ready.is_set():
            path = logs.path(self.logs, child.program.name)
            raise StartError(f"{child.program.name} does not start; the end of {path}:\n{logs.tail(path)}")

    async def _keep(self, child: Child) -> None:
        pause = _FIRST_PAUSE
        while not child.stopping:
            started = time.monotonic()
            try:
                await self._live(child)
            except (NotReady, SetupError, OSError) as error:
                # OSError: no place for its log, no memory for a fork. Both pass.
                log.warning("child.unready", child=child.program.name, error=str(error))
            if time.monotonic() - started > _WELL_AFTER:
                pause = _FIRST_PAUSE
            if not child.first_ready.is_set():
                child.deaths_before_ready += 1
                if child.deaths_before_ready >= _HOPELESS_AFTER:
                    child.hopeless.set()
            if child.stopping:
                return
            child.restarts += 1
            self._move(child, State.WAITING)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _live(self, child: Child) -> None:
        """From start to end of one process."""
        program = child.program
        if program.reclaim:
            await asyncio.to_thread(program.reclaim)
        process = self._start(child)
        over = asyncio.create_task(processes.ended(process.pid))
        try:
            await wait_ready(program, deadline=_READY_WITHIN, alive=lambda: not over.done())
            child.deaths_before_ready = 0
            child.first_ready.set()
            self._move(child, State.READY)
            if not child.stopping:
                await _over_or_ailing(program, over)
        finally:
            over.cancel()
            await asyncio.shield(_end(process, program))
            if program.after:
                await asyncio.shield(asyncio.to_thread(program.after))
            child.pid = None
            self._move(child, State.STOPPED)
            log.info("child.ended", child=program.name, pid=process.pid, exit_code=process.returncode)

    def _start(self, child: Child) -> subprocess.Popen[bytes]:
        program = child.program
        with logs.open_for(self.logs, program.name) as output:
            process = subprocess.Popen(
                command(program),
                env=environment(program),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for the supervisor, which then stops its children in order.
                start_new_session=True,
            )
        child.pid, child.began = process.pid, processes.start_time(process.pid)
        self._move(child, State.STARTING)
        log.debug("child.started", child=program.name, pid=process.pid)
        return process

    def _move(self, child: Child, state: State) -> None:
        child.state = state
        self.changed()


async def _over_or_ailing(program: Program, over: asyncio.Task[None]) -> None:
    """Returns when the process has ended, or says that only a restart will cure it."""
    if program.ailing is None:
        return await over
    while not over.done():
        await asyncio.wait({over}, timeout=_LOOK_SECONDS)
        if not over.done() and (reason := await program.ailing()) is not None:
            log.warning("child.ailing", child=program.name, reason=reason)
            return


async def _end(process: subprocess.Popen[bytes], program: Program) -> None:
    """Stops `process` alone, never its group: what it started in sessions of its own outlives it."""
    if process.poll() is not None:
        return
    process.send_signal(program.stop_signal)
    try:
        async with asyncio.timeout(program.stop_grace):
            await processes.ended(process.pid)
    except TimeoutError:
        log.warning("child.killed", child=program.name, pid=process.pid, grace=program.stop_grace)
        process.kill()
        await processes.ended(process.pid)
    process.wait()


def stop_leftovers(children: Sequence[dict[str, object]]) -> None:
    """Ends what a supervisor that was killed left running; they were told to end when it died."""
    for child in children:
        pid, began = child.get("pid"), child.get("began")
        if (
            isinstance(pid, int)
            and isinstance(began, int)
            and pid != os.getpid()
            and not (processes.wait(pid, began, timeout=5.0) or processes.stop(pid, began, grace=5.0))
        ):
            raise SetupError(f"{child.get('name')} (pid {pid}) of an earlier `cairn up` does not end")
