"""A stream that nobody reads from fills up: it refuses more, and nothing that was logged is lost by that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import nats
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from cairn._batch import Identity
from cairn._segments import segments
from cairn._ship import Shipper
from cairn._spool import Writer
from cairn_common import bus
from cairn_common.ids import new_uid
from cairn_common.subjects import STREAMS
from tests.harness import servers
from tests.harness.tracker import TEAM, Client, start_tracker, until

LIMIT = 512 * 1024
STEPS = 100_000


async def stream(js: JetStreamContext) -> StreamConfig:
    return (await js.stream_info("JOB")).config


async def test_a_stream_that_threw_away_its_oldest_is_made_to_keep_them(tmp_path: Path) -> None:
    server = servers.start_nats(tmp_path / "nats")
    try:
        client = await nats.connect(server.url)
        js = client.jetstream()
        await js.add_stream(
            name="JOB",
            subjects=["cairn.v1.job.old.>"],
            discard=DiscardPolicy.OLD,
            max_age=3600,
            max_bytes=10**7,
        )
        for _ in range(20):
            await js.publish("cairn.v1.job.old.x", b"x" * 1000)
        async with bus.connect(server.url, name="t") as made:
            await made.ensure_stream("JOB", STREAMS["JOB"])
            found = await stream(js)
            assert (found.discard, found.max_age or 0, found.max_bytes) == (DiscardPolicy.NEW, 0, 10**7)
            # Less than it holds already: nothing of that goes.
            await made.ensure_stream("JOB", STREAMS["JOB"], max_bytes=2_000)
            assert (await stream(js)).max_bytes == 2_000
            assert (await js.stream_info("JOB")).state.messages == 20
            room = await made.room("JOB")
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
    identity = Identity(TEAM, run)
    shipper = Shipper(writer.spool, identity, bus_url=lambda: server.url, token=lambda: "t")
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
            await until(lambda: shipper.away and (shipper._link is not None))
            state = (await client.stream.stream_info("JOB")).state
            assert LIMIT * 0.5 < state.bytes <= LIMIT
            assert state.first_seq == 1, "nothing that the bus took is thrown away"
            assert segments(writer.folder), "what it did not take is kept here"
            assert not await asyncio.to_thread(shipper.wait_empty, 0.5)
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
    finally:
        shipper.stop()
        tracker.stop()
        server.stop()
