"""A double of SkyPilot's HTTP API for what needs hundreds of clusters: races, crashes, watching. It proves
nothing about SkyPilot itself; that is for the real one.

A cluster here is a name, and a task that speaks on the real bus as the runner on its node would. The task's
command is one word of ours: `ok`, `fail`, or `wait` (until it is told to stop). With a `folder` it is a real
runner there, and the command any.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import random
import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response

from cairn.job.v1 import events_pb2
from cairn.scheduler.v1 import events_pb2 as scheduler_events
from cairn_common.bus import Bus, connect
from cairn_common.errors import Unavailable
from cairn_common.ids import new_uid
from cairn_common.subjects import STREAMS, subject
from tests.harness.streams import of_jobs

_LAUNCH = re.compile(r"END-OF-LAUNCH' \| gzip -d > [^\n]*\n(.*?)\nEND-OF-LAUNCH", re.DOTALL)


@dataclass
class Cluster:
    """One cluster and what runs on it."""

    name: str
    status: str = "INIT"
    launched: float = field(default_factory=time.time)
    jobs: list[str] = field(default_factory=list)
    runner: asyncio.Task[None] | None = None


class FakeSky:
    """The server's state. `pace`: seconds that a launch takes at most; a beat comes every `beat` seconds."""

    def __init__(
        self,
        bus: Bus,
        *,
        chance: random.Random,
        pace: float = 0.3,
        beat: float = 15.0,
        folder: Path | None = None,
    ) -> None:
        self._bus = bus
        self._folder = folder
        self._chance = chance
        self._pace = pace
        self._beat = beat
        self._requests: dict[str, asyncio.Task[Any]] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self._workspaces: dict[str, Any] = {"default": {}}
        self.clusters: dict[str, Cluster] = {}
        # Kinds of accelerators of which there is none left, and the resources of all launches.
        self.full: set[str] = set()
        # What an hour of any cluster costs, in US dollars.
        self.hourly = 1.0
        self.asked: list[dict[str, Any]] = []
        # Per run: how often its command began, ended well, could say so, and was there twice at a time.
        self.began: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.doubled: Counter[str] = Counter()
        self._now: Counter[str] = Counter()

    def crash(self) -> None:
        """The server dies and is back: it has forgotten all requests, what they made is half made."""
        for task in self._requests.values():
            task.cancel()
        self._requests.clear()

    def lose(self, name: str) -> None:
        """A cluster's nodes die."""
        cluster = self.clusters.pop(name, None)
        if cluster is not None and cluster.runner is not None:
            cluster.runner.cancel()

    async def hear(self) -> None:
        """Passes on what the scheduler tells runners, for ever."""
        async for message in self._bus.tail(
            stream="SCHEDULER", subjects=["cairn.v1.scheduler.attempt.stopping.>"]
        ):
            fact = scheduler_events.SchedulerEvent.FromString(message.data)
            self._stop_of(fact.attempt_stopping.attempt_uid).set()

    def app(self) -> FastAPI:
        """The routes that the scheduler uses."""
        app = FastAPI()
        app.get("/api/get")(self._get)
        for path, work in {
            "/launch": self._launch, "/down": self._down, "/status": self._status, "/queue": self._queue,
            "/cost_report": self._costs, "/api/cancel": self._cancel, "/workspaces/create": self._workspace,
        }.items():  # fmt: skip
            app.post(path)(self._asked(work))
        app.get("/workspaces")(self._asked(self._list_workspaces))
        app.post("/logs")(self._logs)
        return app

    def _asked(self, work: Any) -> Any:
        async def handle(request: Request) -> Response:
            number = str(uuid.uuid4())
            self._begin(number, work(json.loads(await request.body() or "{}")))
            return Response(headers={"X-SkyPilot-Request-ID": number})

        return handle

    def _begin(self, number: str, work: Coroutine[Any, Any, Any]) -> None:
        self._requests[number] = asyncio.create_task(work)

    async def _get(self, request_id: str) -> Response:
        task = self._requests.get(request_id)
        if task is None:
            return Response(status_code=404)
        with suppress(Exception, asyncio.CancelledError):
            await asyncio.shield(task)
        if request_id not in self._requests:
            return Response(status_code=404)
        if task.cancelled():
            return _failed("RequestCancelled", "cancelled")
        if (error := task.exception()) is not None:
            return _failed(type(error).__name__, str(error))
        return Response(json.dumps({"return_value": json.dumps(task.result())}))

    async def _launch(self, body: dict[str, Any]) -> Any:
        name = body["cluster_name"]
        resources = json.loads(body["task"]).get("resources") or {}
        self.asked.append(resources)
        if all(_kind(choice) in self.full for choice in resources.get("any_of") or [resources]):
            raise ResourcesUnavailableError("Failed to acquire resources in all zones in lab.")
        cluster = self.clusters.setdefault(name, Cluster(name))
        await asyncio.sleep(self._chance.uniform(0, self._pace))
        if name not in self.clusters:
            raise ClusterDoesNotExist(name)
        cluster.status = "UP"
        cluster.jobs.append("RUNNING")
        if cluster.runner is None:
            found = _LAUNCH.search(json.loads(body["task"])["run"])
            assert found is not None
            order = json.loads(gzip.decompress(base64.b64decode(found[1])))
            run = self._run if self._folder is None else self._run_really
            cluster.runner = asyncio.create_task(run(cluster, order))
        await asyncio.sleep(self._chance.uniform(0, self._pace / 2))
        return {"job_id": len(cluster.jobs), "handle": ""}

    async def _down(self, body: dict[str, Any]) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._pace / 3))
        if body["cluster_name"] not in self.clusters:
            raise ClusterDoesNotExist(body["cluster_name"])
        self.lose(body["cluster_name"])

    async def _status(self, body: dict[str, Any]) -> Any:
        return [
            {"name": one.name, "status": one.status, "launched_at": one.launched}
            for one in self.clusters.values()
        ]

    async def _queue(self, body: dict[str, Any]) -> Any:
        cluster = self.clusters.get(body["cluster_name"])
        if cluster is None:
            raise ClusterDoesNotExist(body["cluster_name"])
        return [{"status": state} for state in reversed(cluster.jobs)]

    async def _costs(self, body: dict[str, Any]) -> Any:
        seconds = 900
        return [
            {"name": one.name, "total_cost": self.hourly * seconds / 3600, "duration": seconds}
            for one in self.clusters.values()
        ]

    async def _cancel(self, body: dict[str, Any]) -> None:
        for number in body["request_ids"]:
            if (task := self._requests.get(number)) is not None:
                task.cancel()

    async def _list_workspaces(self, body: dict[str, Any]) -> Any:
        return self._workspaces

    async def _workspace(self, body: dict[str, Any]) -> Any:
        self._workspaces[body["workspace_name"]] = {}
        return self._workspaces

    async def _logs(self) -> Response:
        return Response("")

    async def _run(self, cluster: Cluster, order: dict[str, Any]) -> None:
        """The runner of an attempt's one rank."""
        run, attempt, command = order["run_uid"], order["attempt_uid"], order["run"].strip()
        self.began[run] += 1
        self._now[run] += 1
        self.doubled[run] += self._now[run] > 1
        stop = self._stop_of(attempt)
        say = Voice(self._bus, order)
        beats = asyncio.create_task(self._beats(say))
        try:
            if command != "mute":  # a runner of which only the end is heard
                await say(attempt_started=events_pb2.AttemptStarted(start_time=time.time(), pid=1))
            seconds = None if command == "wait" else self._chance.uniform(0, self._pace)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await stop.wait()
            end = events_pb2.AttemptEnded(phase="run", end_time=time.time(), stopped=stop.is_set())
            end.exit_code = 143 if stop.is_set() else 3 if command == "fail" else 0
            self.done[run] += end.exit_code == 0
            await say(attempt_ended=end)
            self.told[run] += end.exit_code == 0
            await say(attempt_shipped=events_pb2.AttemptShipped())
            cluster.jobs[0] = "SUCCEEDED" if end.exit_code == 0 else "FAILED"
        finally:
            self._now[run] -= 1
            beats.cancel()

    async def _run_really(self, cluster: Cluster, order: dict[str, Any]) -> None:
        assert self._folder is not None
        folder = self._folder / order["attempt_uid"]
        folder.mkdir(mode=0o700)
        (folder / "token").write_text("t")
        (folder / "launch.json").write_text(json.dumps(order))
        with open(folder / "runner.log", "wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "cairn._runner", "--node", str(folder),
                cwd=folder, env={"PATH": os.environ["PATH"]}, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            code = await process.wait()
            cluster.jobs[0] = "FAILED" if code else "SUCCEEDED"
        finally:
            with suppress(ProcessLookupError):
                process.kill()

    async def _beats(self, say: Voice) -> None:
        while True:
            await say(attempt_beat=events_pb2.AttemptBeat(time=time.time()))
            await asyncio.sleep(self._beat)

    def _stop_of(self, attempt: str) -> asyncio.Event:
        return self._stops.setdefault(attempt, asyncio.Event())


class Voice:
    """A runner's words on the bus, each until the bus has it."""

    def __init__(self, bus: Bus, order: dict[str, Any]) -> None:
        self._bus = bus
        self._order = order
        self._writer = new_uid()
        self._offset = 0

    async def __call__(self, **arm: Any) -> None:
        order = self._order
        event = events_pb2.JobEvent(
            team=order["team"], run_uid=order["run_uid"], attempt_uid=order["attempt_uid"],
            attempt=order["attempt"], writer=self._writer, segment=1, start_offset=self._offset,
            end_offset=self._offset + 1, **arm,
        )  # fmt: skip
        self._offset += 1
        word = str(event.WhichOneof("event")).removeprefix("attempt_")
        to = subject("job", "attempt", word, order["team"], order["run_uid"])
        while True:
            try:
                await self._bus.publish(to, event.SerializeToString())
                return
            except Unavailable:
                await asyncio.sleep(0.05)


class ClusterDoesNotExist(Exception):
    """SkyPilot's own, by its name."""


class ResourcesUnavailableError(Exception):
    """SkyPilot's own, by its name."""


@asynccontextmanager
async def running(
    nats_url: str,
    *,
    chance: random.Random,
    pace: float = 0.3,
    beat: float = 15.0,
    folder: Path | None = None,
) -> AsyncIterator[tuple[FakeSky, str]]:
    """The double on a free port while the block runs, and its URL."""
    async with connect(nats_url, name="fake-sky") as bus, asyncio.TaskGroup() as tasks:
        await of_jobs(bus)
        await bus.ensure_stream("SCHEDULER", STREAMS["SCHEDULER"])
        sky = FakeSky(bus, chance=chance, pace=pace, beat=beat, folder=folder)
        config = uvicorn.Config(sky.app(), host="127.0.0.1", port=0, log_level="critical", lifespan="off")
        server = uvicorn.Server(config)
        hears = tasks.create_task(sky.hear())
        serves = tasks.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield sky, f"http://127.0.0.1:{port}"
        finally:
            for name in list(sky.clusters):
                sky.lose(name)
            sky.crash()
            server.should_exit = True
            hears.cancel()
            await serves


def _kind(resources: dict[str, Any]) -> str:
    return str(resources.get("accelerators", "")).partition(":")[0]


def _failed(name: str, message: str) -> Response:
    error = json.dumps({"type": name, "message": message})
    return Response(json.dumps({"detail": {"error": error}}), status_code=500)
