"""Live updates: what a client sees, and that it misses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from cairn.quota.v1 import events_pb2 as quota_events
from cairn.scheduler.v1 import events_pb2 as scheduler_events
from cairn.tracker.v1 import events_pb2 as tracker_events
from cairn_common import subjects
from cairn_common.bus import Bus, connect
from cairn_common.ids import new_uid
from cairn_gateway.feed import MOST_RECENT
from tests.harness.gateway import Frame, Neighbours, bearer, events_of, frames, gateway, neighbours, take

TOKEN = "cairn_0123456789abcdef-ada"


@pytest.fixture
async def team() -> str:
    return f"t{new_uid()}"


@pytest.fixture
async def behind(team: str) -> AsyncIterator[Neighbours]:
    async with neighbours() as made:
        made.caller(TOKEN, team)
        yield made


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    async with connect(nats_url, name="test") as made:
        for name in ("SCHEDULER", "TRACKER", "QUOTA"):
            await made.ensure_stream(name, subjects.STREAMS[name])
        yield made


async def tell_job(bus: Bus, team: str, uid: str, event: str) -> None:
    fact = scheduler_events.SchedulerEvent(id=new_uid())
    getattr(fact, f"job_{event}").job.uid = uid
    await bus.publish(
        subjects.subject("scheduler", "job", event, team, uid), fact.SerializeToString(), fact.id
    )


async def tell_run(bus: Bus, team: str, uid: str, revision: int) -> None:
    fact = tracker_events.TrackerEvent(id=new_uid())
    fact.run_updated.run.uid = uid
    fact.run_updated.run.revision = revision
    subject = subjects.subject("tracker", "run", "updated", team, uid)
    await bus.publish(subject, fact.SerializeToString(), fact.id)


@asynccontextmanager
async def watching(
    client: httpx.AsyncClient, team: str, *, query: str = "", last: str = ""
) -> AsyncIterator[AsyncIterator[Frame]]:
    headers = bearer(TOKEN) | ({"Last-Event-ID": last} if last else {})
    url = f"/api/v1/teams/{team}/events{query}"
    async with client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield frames(response.aiter_lines())


async def test_a_client_misses_nothing_over_a_restart_of_the_gateway(
    behind: Neighbours, bus: Bus, team: str, nats_url: str
) -> None:
    uid = new_uid()
    seen: list[Frame] = []
    async with gateway(nats_url, behind.address) as client, watching(client, team) as stream:
        seen += await take(stream, 1)
        await tell_job(bus, team, uid, "submitted")
        await tell_run(bus, team, uid, 1)
        await tell_job(bus, team, uid, "running")
        seen += await take(stream, 2)
    # The gateway is gone, and one event was never read.
    await tell_run(bus, team, uid, 2)
    await tell_job(bus, team, uid, "finished")
    async with gateway(nats_url, behind.address) as client:
        async with watching(client, team, last=seen[-1].id) as stream:
            seen += await take(stream, 4)
        await tell_run(bus, team, uid, 3)
        async with watching(client, team, last=seen[-1].id) as stream:
            seen += await take(stream, 2)
    told = [frame for frame in seen if frame.event not in ("ready", "reset")]
    jobs = [frame.event for frame in told if frame.event.startswith("job.")]
    revisions = [json.loads(frame.data)["revision"] for frame in told if frame.event == "run.updated"]
    assert jobs == ["job.submitted", "job.running", "job.finished"]
    assert revisions == [1, 2, 3]
    assert "reset" not in events_of(seen)


async def test_an_open_stream_ends_with_the_gateway(behind: Neighbours, team: str, nats_url: str) -> None:
    async with httpx.AsyncClient(timeout=20) as client, asyncio.timeout(15):
        async with gateway(nats_url, behind.address) as made:
            client.base_url = made.base_url
            opened = watching(client, team)
            stream = await opened.__aenter__()
            await take(stream, 1)
        # Ended as a stream ends: not cut.
        assert [frame async for frame in stream] == []
        await opened.__aexit__(None, None, None)


async def test_only_the_caller_s_team_is_told_of(
    behind: Neighbours, bus: Bus, team: str, nats_url: str
) -> None:
    other = f"t{new_uid()}"
    async with gateway(nats_url, behind.address) as client:
        for foreign in (other, "-", "x.y", ">", "*", f"{team}.>"):
            response = await client.get(f"/api/v1/teams/{foreign}/events", headers=bearer(TOKEN))
            assert response.status_code in (400, 404), foreign
        assert (await client.get(f"/api/v1/teams/{other}/events", headers=bearer(TOKEN))).status_code == 404
        async with watching(client, team) as stream:
            await take(stream, 1)
            await tell_job(bus, other, new_uid(), "finished")
            uid = new_uid()
            await tell_job(bus, team, uid, "finished")
            (frame,) = await take(stream, 1)
            assert json.loads(frame.data)["uid"] == uid


async def test_a_client_can_ask_for_less(behind: Neighbours, bus: Bus, team: str, nats_url: str) -> None:
    uid, other = new_uid(), new_uid()
    async with gateway(nats_url, behind.address) as client:
        async with watching(client, team, query=f"?job={uid}&types=job.finished,run.updated") as stream:
            await take(stream, 1)
            await tell_job(bus, team, other, "finished")
            await tell_job(bus, team, uid, "running")
            await tell_job(bus, team, uid, "finished")
            assert events_of(await take(stream, 1)) == ["job.finished"]
            await tell_run(bus, team, other, 1)
            await tell_run(bus, team, uid, 1)
            (frame,) = await take(stream, 1)
            assert json.loads(frame.data)["uid"] == uid
        for query in ("?types=job.slept", "?run_id=x"):
            refused = await client.get(f"/api/v1/teams/{team}/events{query}", headers=bearer(TOKEN))
            assert refused.status_code == 400


async def test_ids_from_nowhere(behind: Neighbours, team: str, nats_url: str) -> None:
    async with gateway(nats_url, behind.address) as client:
        for bad in ("x", "1", "1-2-3", "-1-2", "1e3-0"):
            headers = bearer(TOKEN) | {"Last-Event-ID": bad}
            response = await client.get(f"/api/v1/teams/{team}/events", headers=headers)
            assert (response.status_code, response.json()["reason"]) == (400, "CURSOR_INVALID")
        # Ahead of what the bus has: it lost its store, and the client must read the state anew.
        async with watching(client, team, last="999999999-0") as stream:
            assert events_of(await take(stream, 1)) == ["reset"]


async def test_what_was_thrown_away_is_said_to_be(
    behind: Neighbours, bus: Bus, team: str, nats_url: str
) -> None:
    """The bus keeps a week: who was away for longer reads the state anew."""
    async with gateway(nats_url, behind.address) as client:
        async with watching(client, team) as stream:
            (ready,) = await take(stream, 1)
        uid = new_uid()
        for event in ("submitted", "running", "finished"):
            await tell_job(bus, team, uid, event)
        async with watching(client, team, last=ready.id) as stream:
            told = await take(stream, 4)
        assert events_of(told)[1:] == ["job.submitted", "job.running", "job.finished"]
        last = int(told[-1].id.partition("-")[0])
        await bus._link.stream.purge_stream("SCHEDULER", seq=last)
        async with watching(client, team, last=told[1].id) as stream:
            assert events_of(await take(stream, 1)) == ["reset"]
        # What was seen already is no loss.
        tracker = told[-1].id.partition("-")[2]
        async with watching(client, team, last=f"{last - 1}-{tracker}") as stream:
            assert events_of(await take(stream, 1)) == ["ready"]


async def test_a_client_comes_back_to_more_than_is_kept_at_hand(
    behind: Neighbours, bus: Bus, team: str, nats_url: str
) -> None:
    """Partly from the bus and partly from what this process has; each fact once, in order."""
    uid, other = new_uid(), f"t{new_uid()}"
    async with gateway(nats_url, behind.address) as client:
        async with watching(client, team) as stream:
            (ready,) = await take(stream, 1)
        for revision in range(1, 4):
            await tell_run(bus, team, uid, revision)
        # Of others, until the first ones are not at hand any more.
        for _ in range(10):
            await asyncio.gather(*(tell_run(bus, other, new_uid(), 1) for _ in range(MOST_RECENT // 10)))
        for revision in range(4, 7):
            await tell_run(bus, team, uid, revision)
        for attempt in range(2):
            async with watching(client, team, last=ready.id) as stream:
                told = await take(stream, 7)
                await tell_run(bus, team, uid, 7 + attempt)
                told += await take(stream, 1 + attempt)
            revisions = [json.loads(frame.data)["revision"] for frame in told[1:]]
            assert revisions == list(range(1, 8 + attempt))


async def test_what_cannot_be_read_is_passed_over(
    behind: Neighbours, bus: Bus, team: str, nats_url: str
) -> None:
    uid = new_uid()
    async with gateway(nats_url, behind.address) as client, watching(client, team) as stream:
        await take(stream, 1)
        await bus.publish(subjects.subject("scheduler", "job", "finished", team, uid), b"\xff\xff\xff")
        await tell_job(bus, team, uid, "finished")
        assert events_of(await take(stream, 1)) == ["job.finished"]


async def test_a_revoked_token_s_stream_ends(behind: Neighbours, bus: Bus, team: str, nats_url: str) -> None:
    async with gateway(nats_url, behind.address) as client:
        async with watching(client, team) as stream, asyncio.timeout(10):
            await take(stream, 1)
            uid = behind.tokens.pop(TOKEN).token_uid
            fact = quota_events.QuotaEvent(id=new_uid())
            fact.token_revoked.token.uid = uid
            await bus.publish(
                subjects.subject("quota", "token", "revoked", "-", "x"), fact.SerializeToString()
            )
            assert [frame async for frame in stream] == []
        response = await client.get(f"/api/v1/teams/{team}/events", headers=bearer(TOKEN))
        assert response.status_code == 401
