"""The stream of what jobs log is full, and nobody reads it: how an attempt ends is heard all the same."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from functools import partial
from pathlib import Path

import nats
from nats.js.client import JetStreamContext
from nats.js.errors import APIError

from cairn.job.v1 import events_pb2
from cairn_common import bus
from cairn_common.ids import new_uid
from cairn_common.subjects import RETIRED, STREAMS, team_stream, team_subjects
from cairn_scheduler.cluster import Ended, Order, Quiet, Report, Started, Stepped
from cairn_scheduler.model import Code, Resources, Spec
from cairn_scheduler.sky.cluster import SkyCluster
from cairn_scheduler.sky.opening import open_sky
from cairn_scheduler.sky.order import Surroundings
from tests.harness import fake_sky, servers

STREAM = team_stream("main")
NOISE = "cairn.v1.job.run.points-logged.main.noise"


def order(run: str) -> Order:
    task = json.dumps({"run": run, "resources": {"infra": "slurm/lab", "cpus": 1}})
    spec = Spec(task=task, setup="", run=run, resources=Resources(1000, 0))
    return Order("main", new_uid(), new_uid(), 1, "", spec, Code(), "secret")


async def fill(js: JetStreamContext) -> None:
    """Until the stream takes no more, not even a beat."""
    for size in (10_000, 100, 1):
        with suppress(APIError):
            while True:
                await js.publish(NOISE, b"x" * size)


async def logged(js: JetStreamContext) -> list[events_pb2.JobEvent]:
    """What runs have in the stream, in its order."""
    state = (await js.stream_info(STREAM)).state
    messages = [await js.get_msg(STREAM, seq) for seq in range(state.first_seq, state.last_seq + 1)]
    return [events_pb2.JobEvent.FromString(one.data or b"") for one in messages if one.subject != NOISE]


async def reports_until(cluster: SkyCluster, kind: type[Report]) -> list[Report]:
    """What is reported, up to the first of this kind."""
    found: list[Report] = []
    async for report in cluster.reports():
        found.append(report)
        if isinstance(report, kind):
            break
    return found


async def test_an_end_is_heard_at_once_and_what_was_logged_once_there_is_room(tmp_path: Path) -> None:
    """Also by a scheduler that was started anew in between."""
    server = servers.start_nats(tmp_path / "nats")
    client = await nats.connect(server.url)
    js = client.jetstream()
    one = order("for i in $(seq 50); do echo line $i; done")
    runners = tmp_path / "runners"
    runners.mkdir()
    reports: list[Report] = []
    try:
        async with bus.connect(server.url, name="t") as made:
            await made.ensure_stream(STREAM, team_subjects("main"), max_bytes=100_000)
        await fill(js)
        async with (
            asyncio.timeout(120),
            fake_sky.running(server.url, chance=random.Random(7), folder=runners) as (sky, url),
        ):
            scheduler = partial(
                open_sky, tmp_path / "sky", api_url=url, around=Surroundings("", server.url),
                nats_url=server.url, seed=None, look_seconds=0.2,
            )  # fmt: skip
            async with scheduler() as cluster:
                await cluster.launch(one)
                reports += await reports_until(cluster, Ended)
                assert await logged(js) == []
            async with scheduler() as cluster:
                reports += await reports_until(cluster, Ended)
                while not cluster.watched[one.attempt_uid].ranks.heard:
                    await asyncio.sleep(0.01)
                assert sky.clusters, "the node keeps what the bus has no room for"
                await js.purge_stream(STREAM)
                await reports_until(cluster, Quiet)
            assert sky.clusters == {}
        assert [type(report) for report in reports if not isinstance(report, Stepped)] == [
            Started,
            Ended,
            Ended,
        ]
        for end in (report.evidence for report in reports if isinstance(report, Ended)):
            assert (end.exit_code, end.lost, end.last_lines[-1]) == (0, False, "line 50")
        events = await logged(js)
        lines = [line.text for event in events for line in event.lines_logged.lines]
        assert [text for text in lines if text.startswith("line ")] == [f"line {n + 1}" for n in range(50)]
        assert events[-1].WhichOneof("event") == "attempt_drained"
    finally:
        await client.close()
        server.stop()


async def test_streams_of_before_are_narrowed_and_keep_what_they_hold(tmp_path: Path) -> None:
    server = servers.start_nats(tmp_path / "nats")
    client = await nats.connect(server.url)
    js = client.jetstream()
    try:
        await js.add_stream(name="JOB", subjects=["cairn.v1.job.>"])
        await js.add_consumer("JOB", durable_name="tracker-ingest", filter_subjects=["cairn.v1.job.>"])
        await js.publish("cairn.v1.job.run.attempt-beat.main.x", b"")
        async with bus.connect(server.url, name="t") as made:
            for _ in range(2):
                await made.retire_stream(RETIRED, ["cairn.v1.job.retired.>"])
                await made.ensure_stream(STREAM, team_subjects("main"))
                await made.ensure_stream("ATTEMPT", STREAMS["ATTEMPT"])
        assert (await js.publish("cairn.v1.job.attempt.beat.main.x", b"")).stream == "ATTEMPT"
        state = (await js.stream_info("JOB")).state
        assert state.messages == 1
        config = (await js.stream_info("ATTEMPT")).config
        assert config.max_msgs_per_subject == 2_000
    finally:
        await client.close()
        server.stop()
