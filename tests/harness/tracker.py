"""The tracker in a process of its own, on real servers, so that it can be killed at any moment.

Who a token belongs to is written in the environment, so that no quota service is needed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import asyncpg
import nats
from grpc import aio
from nats.js.errors import NoStreamResponseError

from cairn.job.v1 import events_pb2
from cairn.scheduler.v1 import events_pb2 as scheduler_events_pb2
from cairn.scheduler.v1 import job_pb2
from cairn.tracker.v1 import keeping_pb2_grpc, tracker_pb2, tracker_pb2_grpc
from cairn_common.auth import Principal, Role, Scope
from cairn_common.errors import Unauthenticated
from cairn_common.ids import new_uid
from cairn_common.rpc import channel
from cairn_server import ports
from cairn_server.backends.program import Program
from cairn_server.services import _ask_health
from tests.harness import servers

TEAM, OTHER = TEAMS = ("main", "other")
MEMBER = "cairn_test_member_of_main_team"
ADMIN = "cairn_test_admin_of_main_team"
VIEWER = "cairn_test_viewer_of_main_team"
DOOR = "cairn_test_the_gateways_own"
STRANGER = "cairn_test_member_of_other_team"
# Followed by a run's uid: that run's own token.
RUN = "cairn_test_run_"
_ROLES = {
    MEMBER: ("users/ada", Scope.ADMIN, {TEAM: Role.MEMBER}),
    ADMIN: ("users/ruth", Scope.ADMIN, {TEAM: Role.ADMIN}),
    VIEWER: ("users/bob", Scope.ADMIN, {TEAM: Role.VIEWER}),
    DOOR: ("services/gateway", Scope.NONE, {}),
    STRANGER: ("users/eve", Scope.ADMIN, {OTHER: Role.MEMBER}),
}
WAIT_SECONDS = 30.0
T = TypeVar("T")


async def authenticate(token: str) -> Principal:
    """Whose one of the tokens above is."""
    if token.startswith(RUN):
        uid = token.removeprefix(RUN)
        return Principal(f"runs/{uid}", Scope.RUN, {TEAM: Role.MEMBER}, run_uid=uid)
    if token not in _ROLES:
        raise Unauthenticated("this token is not known here")
    subject, scope, roles = _ROLES[token]
    return Principal(subject, scope, MappingProxyType(roles))


@dataclass
class Tracker(servers.Server):
    """A running tracker and the servers below it."""

    nats_url: str = ""
    postgres_url: str = ""
    folder: Path = field(default_factory=Path)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


def start_tracker(
    folder: Path,
    *,
    nats_url: str,
    postgres_url: str,
    s3: servers.S3,
    interval: float = 0.02,
    job_stream_bytes: int = 2**30,
    **more: str,
) -> Tracker:
    """A tracker that keeps its points in `folder` and rests `interval` seconds after a small batch. `more`
    are other settings, as the environment has them."""
    folder.mkdir(parents=True, exist_ok=True)
    port = ports.free(["tracker"])["tracker"]
    settings = {
        "CAIRN_GRPC_BIND": f"127.0.0.1:{port}",
        "CAIRN_NATS_URL": nats_url,
        "CAIRN_POSTGRES_URL": postgres_url,
        "CAIRN_SERVICE_TOKEN": "cairn_test_tracker_service",
        "CAIRN_CLICKHOUSE_URL": f"chdb://{folder / 'points'}",
        "CAIRN_S3_ENDPOINT": s3.endpoint,
        "CAIRN_S3_ACCESS_KEY": s3.access_key,
        "CAIRN_S3_SECRET_KEY": s3.secret_key,
        "CAIRN_S3_DATA_DIR": str(s3.folder),
        "CAIRN_INGEST_INTERVAL": str(interval),
        "CAIRN_JOB_STREAM_BYTES": str(job_stream_bytes),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": os.environ.get("HOME", "/"),
        **more,
    }
    program = Program(
        name="tracker",
        argv=(sys.executable, "-m", "tests.harness.tracker"),
        env=settings,
        port=port,
        probe=lambda: _ask_health(f"127.0.0.1:{port}", None),
        cwd=folder,
    )
    server = Tracker(
        program, folder / "tracker.log", nats_url=nats_url, postgres_url=postgres_url, folder=folder
    )
    server.start()
    return server


class Client:
    """What a test does with a tracker: publish, ask, look into its tables. Use it as a context."""

    def __init__(self, tracker: Tracker, token: str = MEMBER) -> None:
        self._tracker = tracker
        self._token = token
        self._channels: list[aio.Channel] = []

    async def __aenter__(self) -> Client:
        self.nats = await nats.connect(self._tracker.nats_url)
        self.stream = self.nats.jetstream()
        self.postgres = await asyncpg.connect(self._tracker.postgres_url)
        self.runs, self.artifacts = self.calling(self._token)
        return self

    async def __aexit__(self, *_: object) -> None:
        for made in self._channels:
            await made.close()
        await self.postgres.close()
        await self.nats.close()

    def calling(
        self, token: str
    ) -> tuple[tracker_pb2_grpc.TrackerServiceAsyncStub, tracker_pb2_grpc.ArtifactServiceAsyncStub]:
        """Both services as another caller sees them."""
        made = channel(self._tracker.address, token)
        self._channels.append(made)
        return tracker_pb2_grpc.TrackerServiceStub(made), tracker_pb2_grpc.ArtifactServiceStub(made)

    def channel(self, token: str = MEMBER) -> aio.Channel:
        """To any of its services, as a caller."""
        made = channel(self._tracker.address, token)
        self._channels.append(made)
        return made

    def keeping(self, token: str = MEMBER) -> keeping_pb2_grpc.KeepingServiceAsyncStub:
        """What of the artifacts stays, as a caller sees it."""
        return keeping_pb2_grpc.KeepingServiceStub(self.channel(token))

    def stub(self, make: Callable[[aio.Channel], T], token: str = MEMBER) -> T:
        """Another service, as a caller sees it."""
        made = channel(self._tracker.address, token)
        self._channels.append(made)
        return make(made)

    async def publish(self, *events: events_pb2.JobEvent) -> None:
        """Job events, in this order."""
        for event in events:
            arm = (event.WhichOneof("event") or "nothing").replace("_", "-")
            subject = f"cairn.v1.job.run.{arm}.{event.team}.{event.run_uid}"
            await self._insist(subject, event.SerializeToString())

    async def _insist(self, subject: str, data: bytes) -> None:
        """As every shipper does: a bus that has just started again may not have opened its streams yet."""
        async with asyncio.timeout(30):
            while True:
                try:
                    await self.stream.publish(subject, data, timeout=10)
                    return
                except NoStreamResponseError:
                    await self.stream.account_info()

    async def tell(self, job: job_pb2.Job) -> None:
        """A scheduler's event with this job."""
        await self.ensure_scheduler_stream()
        event = scheduler_events_pb2.SchedulerEvent(
            id=new_uid(), job_running=scheduler_events_pb2.JobRunning(job=job)
        )
        subject = f"cairn.v1.scheduler.job.running.{TEAM}.{job.uid}"
        await self.stream.publish(subject, event.SerializeToString(), timeout=10)

    async def ensure_scheduler_stream(self) -> None:
        """The stream that the scheduler would have made."""
        await self.stream.add_stream(name="SCHEDULER", subjects=["cairn.v1.scheduler.>"])

    async def applied(self, event: events_pb2.JobEvent) -> None:
        """Returns once this event was taken in."""

        async def look() -> bool:
            found: bool | None = await self.postgres.fetchval(
                "SELECT ranges @> int8range($4, $5) FROM marks"
                " WHERE run_uid = $1 AND writer = $2 AND segment = $3",
                *(event.run_uid, event.writer, event.segment, event.start_offset, event.end_offset),
            )
            return bool(found)

        await until(look)

    async def series(self, run: str, *keys: str, **fields: int) -> tracker_pb2.QuerySeriesResponse:
        """Series of one run."""
        return await self.runs.QuerySeries(
            tracker_pb2.QuerySeriesRequest(parent=f"teams/{TEAM}", runs=[run_name(run)], keys=keys, **fields)
        )


async def until(true: Callable[[], object], *, seconds: float = WAIT_SECONDS) -> None:
    """Waits until something (awaited if it can be) is true; fails after `seconds`."""
    pause = 0.01
    async with asyncio.timeout(seconds):
        while True:
            found = true()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.3)


def run_name(uid: str, team: str = TEAM) -> str:
    return f"teams/{team}/runs/{uid}"


@dataclass
class Spool:
    """Makes the events of one writer, one after the other in its segment."""

    run: str
    attempt: int = 1
    team: str = TEAM
    writer: str = field(default_factory=new_uid)
    segment: int = 1
    offset: int = 0
    attempt_uid: str = field(default_factory=new_uid)
    lines: int = 0

    def event(self, *, size: int = 100) -> events_pb2.JobEvent:
        """An event that has nothing in it yet."""
        start, self.offset = self.offset, self.offset + size
        return events_pb2.JobEvent(
            team=self.team,
            run_uid=self.run,
            attempt_uid=self.attempt_uid if self.attempt else "",
            attempt=self.attempt,
            writer=self.writer,
            segment=self.segment,
            start_offset=start,
            end_offset=self.offset,
        )

    def points(
        self, steps: Sequence[int], *, time: float = 1_700_000_000.0, **values: Sequence[float]
    ) -> events_pb2.JobEvent:
        """Points of some metrics at these steps."""
        event = self.event()
        event.points_logged.blocks.add(
            keys=list(values),
            steps=steps,
            times=[time + place for place in range(len(steps))],
            values=[value for row in zip(*values.values(), strict=True) for value in row],
        )
        return event

    def say(self, *texts: str, rank: int = 0) -> events_pb2.JobEvent:
        """Console lines of one rank."""
        event = self.event()
        for text in texts:
            self.lines += 1
            event.lines_logged.lines.add(
                time=1_700_000_000.0 + self.lines,
                stream=events_pb2.Line.STREAM_STDOUT,
                rank=rank,
                text=text,
                number=self.lines,
            )
        return event

    def dropped(self, points: int) -> events_pb2.JobEvent:
        """Points that were lost where they were logged."""
        event = self.event()
        event.points_dropped.points = points
        return event

    def drained(self, *, rank: int = 0, runners: int = 0) -> events_pb2.JobEvent:
        """The last word of the attempt, or of one of its runners."""
        event = self.event()
        event.attempt_drained.SetInParent()
        event.attempt_drained.rank, event.attempt_drained.runners = rank, runners
        return event


def shuffled_by_writer(
    events: Sequence[events_pb2.JobEvent], chance: random.Random
) -> list[events_pb2.JobEvent]:
    """In another order, in which each writer's events still follow each other."""
    lanes: dict[str, list[events_pb2.JobEvent]] = {}
    for event in events:
        lanes.setdefault(event.writer, []).append(event)
    out = []
    while lanes:
        writer = chance.choice(sorted(lanes))
        out.append(lanes[writer].pop(0))
        if not lanes[writer]:
            del lanes[writer]
    return out


def main() -> None:
    """The tracker's process."""
    from cairn_common.bus import connect
    from cairn_common.log import configure_logging
    from cairn_common.subjects import team_stream, team_subjects
    from cairn_tracker.app import run
    from cairn_tracker.settings import TrackerSettings

    async def streams(settings: TrackerSettings) -> None:
        """As the quota service does."""
        limit = int(os.environ["CAIRN_JOB_STREAM_BYTES"])
        async with connect(settings.nats_url, name="streams") as bus:
            for team in TEAMS:
                await bus.ensure_stream(team_stream(team), team_subjects(team), max_bytes=limit)
            await asyncio.Event().wait()

    async def serve() -> None:
        stop, settings = asyncio.Event(), TrackerSettings.load()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        making = asyncio.create_task(streams(settings))
        await run(settings, stop=stop, authenticate=authenticate)
        making.cancel()

    configure_logging("tracker", "INFO")
    asyncio.run(serve())


if __name__ == "__main__":
    main()
