"""A stream that nobody reads from fills up: it refuses more, and nothing that was logged is lost by that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nats
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from cairn._batch import Identity
from cairn._frames import LineRecord
from cairn._segments import segments
from cairn._ship import Shipper
from cairn._spool import Writer
from cairn_common import bus
from cairn_common.ids import new_uid
from cairn_common.subjects import team_stream, team_subjects
from tests.harness import servers
from tests.harness.tracker import OTHER, TEAM, Client, start_tracker, until

LIMIT = 512 * 1024
STEPS = 100_000
STREAM = team_stream(TEAM)


def shipping(writer: Writer, server: servers.Nats, *, team: str, run: str) -> Shipper:
    return Shipper(writer.spool, Identity(team, run), bus_url=lambda: server.url, token=lambda: "t")


async def stream(js: JetStreamContext) -> StreamConfig:
    return (await js.stream_info(STREAM)).config


async def test_a_stream_that_threw_away_its_oldest_is_made_to_keep_them(tmp_path: Path) -> None:
    server = servers.start_nats(tmp_path / "nats")
    try:
        client = await nats.connect(server.url)
        js = client.jetstream()
        await js.add_stream(
            name=STREAM,
            subjects=["cairn.v1.job.old.>"],
            discard=DiscardPolicy.OLD,
            max_age=3600,
            max_bytes=10**7,
        )
        for _ in range(20):
            await js.publish("cairn.v1.job.old.x", b"x" * 1000)
        async with bus.connect(server.url, name="t") as made:
            subjects = team_subjects(TEAM)
            await made.ensure_stream(STREAM, subjects)
            found = await stream(js)
            assert (found.discard, found.max_age or 0, found.max_bytes) == (DiscardPolicy.NEW, 0, 10**7)
            # Less than it holds already: nothing of that goes.
            await made.ensure_stream(STREAM, subjects, max_bytes=2_000)
            assert (await stream(js)).max_bytes == 2_000
            assert (await js.stream_info(STREAM)).state.messages == 20
            room = await made.room(STREAM)
            assert room.used > room.limit == 2_000
        await client.close()
    finally:
        server.stop()


async def test_every_point_is_there_once_after_the_tracker_was_away_until_the_stream_was_full(
    tmp_path: Path, database_url: Callable[[str], str], s3: servers.S3
) -> None:
    server = servers.start_nats(tmp_path / "nats")
    tracker = start_tracker(
        tmp_path / "tracker", nats_url=server.url, postgres_url=database_url("tracker"), s3=s3,
        job_stream_bytes=LIMIT,
    )  # fmt: skip
    run = new_uid()
    writer = Writer(tmp_path / "spool", segment_bytes=200_000)
    shipper = shipping(writer, server, team=TEAM, run=run)
    others_run, others = new_uid(), Writer(tmp_path / "others")
    others_shipper = shipping(others, server, team=OTHER, run=others_run)
    try:
        async with Client(tracker) as client:

            async def limited() -> bool:
                try:
                    return (await stream(client.stream)).max_bytes == LIMIT
                except NotFoundError:
                    return False

            await until(limited)
            tracker.stop()
            for step in range(STEPS):
                writer.points(("loss",), (step * 1.1,), step, 1.0 + step)
            writer.flush()
            shipper.start()
            await until(lambda: shipper.away and (shipper._way is not None))
            state = (await client.stream.stream_info(STREAM)).state
            assert LIMIT * 0.5 < state.bytes <= LIMIT
            assert state.first_seq == 1, "nothing that the bus took is thrown away"
            assert segments(writer.folder), "what it did not take is kept here"
            assert not await asyncio.to_thread(shipper.wait_empty, 0.5)
            # One team has filled its share: another one has its own.
            for step in range(1_000):
                others.points(("loss",), (step * 1.5,), step, 1.0 + step)
            others.lines([LineRecord(time=1.0, stream=1, rank=0, number=1, text="said")])
            others.flush()
            others_shipper.start()
            assert await asyncio.to_thread(others_shipper.wait_empty, 20), "its points and lines are taken"
            assert shipper.away
            tracker.start()
            assert await asyncio.to_thread(shipper.wait_empty, 60)
        async with Client(tracker) as client:

            async def all_there() -> bool:
                found = await client.postgres.fetchval(
                    "SELECT count FROM summaries WHERE run_uid = $1 AND key = 'loss'", run
                )
                return found == STEPS

            await until(all_there)
            (series,) = (await client.series(run, "loss")).series
            assert sum(series.counts) == STEPS
            count = "SELECT count FROM summaries WHERE team = $1 AND run_uid = $2"
            await until(partial(client.postgres.fetchval, count, OTHER, others_run))
            assert await client.postgres.fetchval(count, OTHER, others_run) == 1_000
            lines = "SELECT line_count FROM runs WHERE team = $1 AND uid = $2"
            assert await client.postgres.fetchval(lines, OTHER, others_run) == 1
    finally:
        shipper.stop()
        others_shipper.stop()
        tracker.stop()
        server.stop()
