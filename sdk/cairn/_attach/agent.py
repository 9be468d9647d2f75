"""The process beside a runner that lets people in: it dials the gateway, and carries each session that waits.

It is started when somebody wants to reach into the attempt, and ends when nobody has for a minute. SIGTERM:
the attempt ends, and all sessions with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from cairn._attach.command import CannotStart, run_command
from cairn._attach.connection import Refused, run_connection
from cairn._attach.line import CARRY, SERVE, RunnerLine
from cairn._http import ApiError, Unreachable
from cairn._runner.folder import Folder, Launch
from cairn._stream import Stream
from cairn.scheduler.v1 import attach_pb2 as pb

_log = logging.getLogger("cairn")

SESSION = "CAIRN_SESSION"
"""Marks what a session started: it may live on from setup to run."""
IDLE_SECONDS = 60.0
_BACK_OFF_SECONDS = (0.1, 5.0)
# What no other try with this token will change.
_HOPELESS = frozenset({401, 403, 404})
_LAST_WORDS_SECONDS = 5.0
_END_SECONDS = 1.0


def main(path: Path) -> int:
    """For the runner: the environments of the ranks here come as JSON on stdin."""
    folder = Folder(path)
    launch = folder.read_launch()
    environments = {int(rank): env for rank, env in json.load(sys.stdin).items()}
    asyncio.run(Agent(folder, launch, environments).run())
    return 0


class Agent:
    """Serves the sessions of the attempt's ranks that run here."""

    def __init__(self, folder: Folder, launch: Launch, environments: Mapping[int, Mapping[str, str]]) -> None:
        self._folder = folder
        self._url = launch.url
        self._environments = environments
        self._sessions: dict[str, asyncio.Task[None]] = {}
        self._lines: dict[str, RunnerLine] = {}
        self._quiet = asyncio.Event()

    async def run(self) -> None:
        """Until nobody comes any more, or the attempt ends."""
        ending = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
        works = [asyncio.create_task(work) for work in (self._serve(), self._idle(), ending.wait())]
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await self._end_all()

    async def _serve(self) -> None:
        """Listens, and again when the connection breaks; returns where that is of no use."""
        pause, most = _BACK_OFF_SECONDS
        while True:
            try:
                async with await Stream.open(self._url, SERVE, self._folder.token()) as stream:
                    await stream.send(pb.ServeRequest(ranks=sorted(self._environments)).SerializeToString())
                    while (raw := await stream.receive()) is not None:
                        pause = _BACK_OFF_SECONDS[0]
                        self._begin(pb.ServeResponse.FromString(raw).session)
            except ApiError as error:
                _log.warning("people cannot be let in: %s", error)
                if error.status in _HOPELESS:
                    return
            except (Unreachable, OSError) as error:
                _log.info("the gateway is away: %s", error)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, most)

    async def _idle(self) -> None:
        while True:
            self._quiet.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._quiet.wait()
                continue
            if not self._sessions:
                return

    def _begin(self, uid: str) -> None:
        if uid and uid not in self._sessions:
            self._quiet.set()
            self._sessions[uid] = asyncio.create_task(self._session(uid))
            self._sessions[uid].add_done_callback(lambda _: self._over(uid))

    def _over(self, uid: str) -> None:
        del self._sessions[uid]
        self._lines.pop(uid, None)
        self._quiet.set()

    async def _session(self, uid: str) -> None:
        try:
            async with await Stream.open(self._url, CARRY, self._folder.token()) as stream:
                line = await RunnerLine.take(stream, uid)
                if line is None:
                    return
                self._lines[uid] = line
                await self._carry(line, uid)
                # Closing at once could overtake the last words.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_WORDS_SECONDS):
                        async for _ in line.inputs():
                            pass
        except (ApiError, Unreachable, OSError) as error:
            _log.info("session %s ended: %s", uid, error)

    async def _carry(self, line: RunnerLine, uid: str) -> None:
        try:
            if line.start.port:
                await run_connection(line)
                return
            environment = self._environments[line.start.rank]
            await run_command(line, environment={**environment, SESSION: uid}, folder=self._folder.work)
        except (CannotStart, Refused) as error:
            await line.say(pb.Output(failure=pb.Failure(message=str(error))))

    async def _end_all(self) -> None:
        for line in self._lines.values():
            line.attempt_ended = True
            with contextlib.suppress(ApiError, Unreachable):
                await line.say(pb.Output(failure=pb.Failure(attempt_ended=True)))
        tasks = list(self._sessions.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
