"""Runs the runner on folders as the scheduler makes them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
import pytest

from cairn._ids import new_uid
from cairn.job.v1 import events_pb2
from tests.harness import servers

TOKEN = "cairn_run_0123456789abcdef"


@pytest.fixture(scope="module")
def runner_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Nats]:
    server = servers.start_nats(tmp_path_factory.mktemp("runner-nats"))

    async def make() -> None:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="JOB", subjects=["cairn.v1.job.>"])
        await client.close()

    servers.run_apart(lambda: asyncio.run(make()))
    yield server
    server.stop()


@dataclass
class Job:
    """An attempt's folder as the scheduler makes it, and what became of it."""

    folder: Path
    launch: dict[str, Any]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def uid(self) -> str:
        return self.folder.name

    def start(self, *flags: str) -> subprocess.Popen[bytes]:
        (self.folder / "launch.json").write_text(json.dumps(self.launch))
        with open(self.folder / "runner.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cairn._runner", *flags, str(self.folder)],
                env={"PATH": os.environ["PATH"], "CAIRN_ATTEMPT_UID": self.uid, "CAIRN_SECRET": "our own"},
                cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, timeout: float = 60) -> dict[str, Any]:
        process = self.start()
        assert process.wait(timeout) == 0, self.log()
        return self.end()

    def end(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "end.json").read_text()))

    def state(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.folder / "state.json").read_text()))
        return {}

    def log(self) -> str:
        return (self.folder / "runner.log").read_text()

    def until(self, fact: Callable[[], object], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not fact():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def events(self, url: str) -> list[events_pb2.JobEvent]:
        async def read() -> list[events_pb2.JobEvent]:
            client = await nats.connect(url)
            js, found = client.jetstream(), []
            last = (await js.stream_info("JOB")).state.last_seq
            for sequence in range(1, last + 1):
                message = await js.get_msg("JOB", seq=sequence)
                assert message.data is not None
                event = events_pb2.JobEvent.FromString(message.data)
                if event.attempt_uid == self.uid:
                    found.append(event)
            await client.close()
            return found

        return servers.run_apart(lambda: asyncio.run(read()))

    def lines(self, url: str) -> list[tuple[int, str, str]]:
        """(rank, stream, text) in the order of their numbers."""
        found = {
            (line.rank, line.number): (line.rank, events_pb2.Line.Stream.Name(line.stream)[7:], line.text)
            for event in self.events(url)
            for line in event.lines_logged.lines
        }
        return [found[key] for key in sorted(found)]


@pytest.fixture
def make_job(runner_bus: servers.Nats, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    made: list[Job] = []

    def make(run: str, **fields: Any) -> Job:
        folder = tmp_path / new_uid()
        folder.mkdir(mode=0o700)
        (folder / "token").write_text(TOKEN)
        launch = {
            "team": "main", "run_uid": new_uid(), "attempt_uid": folder.name, "attempt": 2,
            "display_name": "job", "setup": "", "run": run, "envs": {}, "params": {}, "num_nodes": 1,
            "cpu_milli": 1000,
            "gpu_ids": [[]], "max_runtime": None, "grace": 5.0, "code": None, "url": "http://127.0.0.1:1",
            "bus_url": runner_bus.url, "notify": "", "path": os.environ["PATH"],
        }  # fmt: skip
        made.append(Job(folder, launch | fields))
        return made[-1]

    yield make
    for job in made:
        for process in job.started:
            if process.poll() is None:
                process.kill()
            process.wait()


def marked(uid: str) -> list[int]:
    """Processes that carry an attempt's mark."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if f"CAIRN_ATTEMPT_UID={uid}".encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                found.append(int(name))
    return found


MakeJob = Callable[..., Job]
