"""Each team has its own stream on the bus: made before it is needed, with its share. What lay in the one for
all of earlier releases is taken in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import nats
from nats.errors import Error as NatsError
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import NotFoundError

from cairn_common.ids import new_uid
from cairn_common.subjects import INGEST, LOGGED, RETIRED, team_stream
from cairn_quota.team_streams import LEAST_BYTES, share
from tests.harness import servers
from tests.harness.quota import running
from tests.harness.tracker import TEAM, Client, Spool, start_tracker, until

MIB = 2**20


def test_a_teams_share_changes_seldom_and_never_ends() -> None:
    shares = [share(teams, total=1024 * MIB, most=512 * MIB) for teams in range(1, 2_000)]
    assert shares[:9] == [512 * MIB, 512 * MIB, *[256 * MIB] * 2, *[128 * MIB] * 4, 64 * MIB]
    assert shares[-1] == LEAST_BYTES
    assert len(set(shares)) == 6
    assert all(each * teams <= 1024 * MIB for teams, each in enumerate(shares, 1) if each > LEAST_BYTES)
    assert share(1, total=10 * MIB, most=MIB) == MIB, "what is set for one team is never passed"


async def test_each_team_has_its_stream_soon_and_all_of_them_their_share(
    tmp_path: Path, database_url: Callable[[str], str]
) -> None:
    server = servers.start_nats(tmp_path / "nats")
    client = await nats.connect(server.url)
    js = client.jetstream()

    async def limits(*teams: str) -> list[int | None]:
        try:
            return [(await js.stream_info(team_stream(team))).config.max_bytes for team in teams]
        except (NatsError, OSError):  # not there yet, or the bus is just coming back
            return []

    async def shared(by: int, *teams: str) -> None:
        async def look() -> bool:
            return await limits(*teams) == [by * MIB] * len(teams)

        await until(look)

    try:
        async with running(
            postgres_url=database_url("quota"),
            nats_url=server.url,
            folder=tmp_path / "quota",
            job_stream_bytes=64 * MIB,
            job_streams_bytes=64 * MIB,
        ) as quota:
            await shared(64, "main")
            one = await quota.team()
            await shared(32, "main", one)
            two = await quota.team()
            await shared(16, "main", one, two)
            own = f"cairn.v1.job.run.points-logged.{two}.{new_uid()}"
            assert (await js.publish(own, b"x")).stream == team_stream(two)
            # A bus that lost its store: they are made again without a word.
            for team in ("main", one, two):
                await js.delete_stream(team_stream(team))
            server.stop()
            server.start()
            await shared(16, "main", one, two)
    finally:
        await client.close()
        server.stop()


async def test_what_lies_in_the_one_stream_of_an_earlier_release_is_taken_in_once(
    tmp_path: Path, database_url: Callable[[str], str], s3: servers.S3
) -> None:
    server = servers.start_nats(tmp_path / "nats")
    client = await nats.connect(server.url)
    js = client.jetstream()
    spool = Spool(new_uid())
    subject = f"cairn.v1.job.run.points-logged.{TEAM}.{spool.run}"
    try:
        await js.add_stream(
            StreamConfig(name=RETIRED, subjects=[LOGGED], discard=DiscardPolicy.NEW, max_bytes=2**30)
        )
        await js.add_consumer(RETIRED, durable_name=INGEST, filter_subjects=[LOGGED])
        early = [spool.points([step], loss=[step * 1.0]) for step in range(100)]
        for event in early:
            await js.publish(subject, event.SerializeToString())
        # A tracker had some of them in hand when it was stopped.
        held = await js.pull_subscribe_bind(INGEST, RETIRED)
        await held.fetch(10)
        async with running(
            postgres_url=database_url("quota"), nats_url=server.url, folder=tmp_path / "quota"
        ):

            async def parted() -> bool:
                try:
                    return bool((await js.stream_info(team_stream(TEAM))).config.name)
                except NotFoundError:
                    return False

            await until(parted)
            config = (await js.stream_info(RETIRED)).config
            assert (await js.stream_info(RETIRED)).state.messages == len(early)
            assert (config.max_bytes or 0) <= MIB, "it reserves no room on the bus's disk any more"
            # The same run goes on, and one message that was acknowledged nowhere comes a second time.
            late = [spool.points([step], loss=[step * 1.0]) for step in range(100, 200)]
            for event in (*early[-1:], *late):
                ack = await js.publish(subject, event.SerializeToString())
                assert ack.stream == team_stream(TEAM)
            tracker = start_tracker(
                tmp_path / "tracker",
                nats_url=server.url,
                postgres_url=database_url("tracker"),
                s3=s3,
                job_stream_bytes=8 * MIB,
            )
            try:
                async with Client(tracker) as reader:
                    for event in (early[0], early[-1], late[-1]):
                        await reader.applied(event)

                    async def all_there() -> bool:
                        (series,) = (await reader.series(spool.run, "loss")).series
                        return sum(series.counts) == 200

                    await until(all_there)
                    count = "SELECT count FROM summaries WHERE run_uid = $1"
                    assert await reader.postgres.fetchval(count, spool.run) == 200
                    await until(lambda: _idle(js))
            finally:
                tracker.stop()
    finally:
        await client.close()
        server.stop()


async def _idle(js: nats.js.JetStreamContext) -> bool:
    infos = await asyncio.gather(*(js.consumer_info(name, INGEST) for name in (RETIRED, team_stream(TEAM))))
    return not any(info.num_pending or info.num_ack_pending for info in infos)
