"""The bus, with the platform's accounts: what a token opens there, and when it closes again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.errors import Error as NatsError

from cairn.quota.v1 import quota_pb2, token_pb2, user_service_pb2
from cairn_common.auth import new_token
from cairn_common.bus import connect
from cairn_common.ids import new_uid
from cairn_common.subjects import STREAMS, team_stream
from cairn_server.backends.nats import NatsKeys, new_seeds
from tests.harness import servers
from tests.harness.quota import Quota, running


@dataclass(frozen=True)
class Bus:
    server: servers.Nats
    keys: NatsKeys


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    keys = NatsKeys(new_seeds())
    server = servers.start_nats(tmp_path_factory.mktemp("callout"), keys=keys)
    yield Bus(server, keys)
    server.stop()


@pytest_asyncio.fixture
async def quota(database_url: Callable[[str], str], bus: Bus, tmp_path: Path) -> AsyncIterator[Quota]:
    seeds = bus.keys.seeds
    async with (
        running(
            postgres_url=database_url("quota"),
            nats_url=bus.server.url,
            folder=tmp_path,
            nats_seed=seeds["quota"],
            nats_callout_seed=seeds["callout"],
            nats_issuer_seed=seeds["issuer"],
            nats_system_seed=seeds["system"],
        ) as service,
        connect(bus.server.url, seed=seeds["tracker"], name="tracker") as tracker,
    ):
        await tracker.ensure_stream("ATTEMPT", STREAMS["ATTEMPT"])
        yield service


@dataclass
class Job:
    """A connection as a job has it."""

    client: Client
    errors: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def may_publish(self, subject: str) -> bool:
        """Whether the server lets it pass."""
        await self.client.publish(subject, b"x", reply=f"{self.prefix}.reply")
        return await self._passed()

    async def may_subscribe(self, subject: str) -> bool:
        """Whether the server lets it listen."""
        await self.client.subscribe(subject)
        return await self._passed()

    @property
    def prefix(self) -> str:
        return self.client._inbox_prefix.decode()

    async def _passed(self) -> bool:
        # Refusals come in the order of what was asked, so a certain one ends the wait for another.
        await self.client.publish("certainly.refused", b"")
        refusals = [await self.errors.get()]
        while "certainly.refused" not in refusals[-1]:
            refusals.append(await self.errors.get())
        return len(refusals) == 1


@asynccontextmanager
async def joined(bus: Bus, secret: str) -> AsyncIterator[Job]:
    """A job's connection. Raises ConnectionRefusedError where the bus does not let it in."""
    prefix = f"_INBOX_{hashlib.sha256(secret.encode()).hexdigest()[:16]}"
    client = Client()
    job = Job(client)

    async def on_error(error: Exception) -> None:
        job.errors.put_nowait(str(error).lower())

    async def on_lost() -> None:
        job.lost.set()

    async def on_closed() -> None:
        job.closed.set()

    try:
        await client.connect(
            bus.server.url,
            token=secret,
            inbox_prefix=prefix,
            # A client that comes back by itself leaves refused connections open: each here joins once.
            allow_reconnect=False,
            connect_timeout=5,
            error_cb=on_error,
            closed_cb=on_closed,
            disconnected_cb=on_lost,
        )
    except NatsError as error:
        await client.close()
        raise ConnectionRefusedError(str(error)) from error
    if not client.is_connected:
        await client.close()
        raise ConnectionRefusedError(secret)
    try:
        yield job
    finally:
        await client.close()


async def test_a_runs_token_publishes_for_its_run_and_does_nothing_else(quota: Quota, bus: Bus) -> None:
    run, other = new_uid(), new_uid()
    secret, _ = await quota.run_token("main", run_uid=run)
    async with asyncio.timeout(30), joined(bus, secret) as job:
        ack = await job.client.jetstream().publish(f"cairn.v1.job.run.points-logged.main.{run}", b"p")
        assert ack.stream == team_stream("main")
        ack = await job.client.jetstream().publish(f"cairn.v1.job.attempt.beat.main.{run}", b"p")
        assert ack.stream == "ATTEMPT"
        assert await job.may_subscribe(f"{job.prefix}.more")
        refused = [
            f"cairn.v1.job.run.points-logged.main.{other}",
            f"cairn.v1.job.run.points-logged.other.{run}",
            f"cairn.v1.job.job.points-logged.main.{run}",
            f"cairn.v1.job.attempt.ended.main.{other}",
            f"cairn.v1.job.attempt.ended.other.{run}",
            f"cairn.v1.scheduler.job.finished.main.{run}",
            f"cairn.v1.quota.token.revoked.-.{run}",
            "cairn.v1.job.run.points-logged.main",
            f"cairn.v1.job.run.a.b.main.{run}",
            "cairn.v1.>",
            ">",
            "$JS.API.INFO",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.PURGE.JOB",
            "$JS.API.STREAM.PURGE.ATTEMPT",
            "$JS.API.CONSUMER.CREATE.JOB",
            "$JS.ACK.JOB.x.1.1.1.1.1",
            "$SYS.REQ.SERVER.PING",
            "$SYS.REQ.USER.AUTH",
            "_INBOX.x",
            "_INBOX_0000000000000000.x",
        ]
        assert [subject for subject in refused if await job.may_publish(subject)] == []
        heard = [">", "_INBOX.>", "cairn.v1.>", f"cairn.v1.job.run.*.main.{run}", "$SYS.>", "*.>"]
        heard += [f"cairn.v1.scheduler.session.opened.main.{other}", f"cairn.v1.scheduler.job.*.main.{run}"]
        assert [subject for subject in heard if await job.may_subscribe(subject)] == []
        assert await job.may_subscribe(f"cairn.v1.scheduler.session.opened.main.{run}")


async def test_no_answer_of_the_bus_is_led_to_where_the_job_may_not_publish(quota: Quota, bus: Bus) -> None:
    """The stream acknowledges to whatever reply a publisher names, and does it with the server's rights."""
    run, other = new_uid(), new_uid()
    secret, _ = await quota.run_token("main", run_uid=run)
    victims = [
        f"cairn.v1.scheduler.job.finished.main.{run}",
        f"cairn.v1.job.run.lines-logged.main.{other}",
        f"cairn.v1.quota.token.revoked.-.{run}",
    ]
    seeds = bus.keys.seeds
    async with (
        asyncio.timeout(30),
        connect(bus.server.url, seed=seeds["scheduler"], name="scheduler") as scheduler,
        joined(bus, secret) as job,
    ):
        await scheduler.ensure_stream("SCHEDULER", STREAMS["SCHEDULER"])
        own = f"cairn.v1.job.run.lines-logged.main.{run}"
        logged = team_stream("main")
        before = {name: await scheduler.last_sequence(name) for name in (logged, "QUOTA", "SCHEDULER")}
        for victim in victims:
            await job.client.publish(own, b"x", reply=victim)
        ack = await job.client.jetstream().publish(own, b"x")
        fact = await scheduler.publish(f"cairn.v1.scheduler.job.finished.main.{other}", b"x")
        assert ack.seq == before[logged] + len(victims) + 1
        assert await scheduler.last_sequence(logged) == ack.seq
        assert fact == before["SCHEDULER"] + 1
        assert await scheduler.last_sequence("QUOTA") == before["QUOTA"]


async def test_a_members_token_publishes_for_its_teams_runs(quota: Quota, bus: Bus) -> None:
    team, other = await quota.team(), await quota.team()
    secret = await quota.member(team, token_pb2.ROLE_MEMBER, scope=token_pb2.SCOPE_WRITE)
    async with asyncio.timeout(30), joined(bus, secret) as job:
        assert await job.may_publish(f"cairn.v1.job.run.run-started.{team}.{new_uid()}")
        assert not await job.may_publish(f"cairn.v1.job.run.run-started.{other}.{new_uid()}")
        # How a job's attempts end is its runners' to say.
        assert not await job.may_publish(f"cairn.v1.job.attempt.ended.{team}.{new_uid()}")


async def test_who_has_nothing_to_tell_is_not_let_in(quota: Quota, bus: Bus) -> None:
    team = await quota.team()
    _, short = await quota.run_token(team)
    await quota.db.execute("UPDATE tokens SET expire_time = now() WHERE uid = $1", short.uid)
    secret, revoked = await quota.run_token(team)
    identity = await quota.identity(quota.tokens.services["scheduler"])
    await identity.RevokeToken(quota_pb2.RevokeTokenRequest(name=revoked.name))
    expired, one = await quota.run_token(team)
    await quota.db.execute("UPDATE tokens SET expire_time = now() WHERE uid = $1", one.uid)
    refused = {
        "junk": new_token(),
        "empty": "",
        "revoked": secret,
        "expired": expired,
        "viewer": await quota.member(team, token_pb2.ROLE_VIEWER),
        "reader": await quota.member(team, token_pb2.ROLE_OWNER, scope=token_pb2.SCOPE_READ),
        "service": quota.tokens.services["scheduler"],
    }
    for who, token in refused.items():
        with pytest.raises(ConnectionRefusedError):
            async with asyncio.timeout(20), joined(bus, token):
                pytest.fail(f"let in: {who}")


async def test_revoking_a_token_ends_its_connection_and_it_does_not_come_back(quota: Quota, bus: Bus) -> None:
    secret, token = await quota.run_token("main")
    stays, _ = await quota.run_token("main")
    async with asyncio.timeout(30), joined(bus, secret) as job, joined(bus, stays) as other:
        identity = await quota.identity(quota.tokens.services["scheduler"])
        await identity.RevokeToken(quota_pb2.RevokeTokenRequest(name=token.name))
        await job.lost.wait()
        with pytest.raises(ConnectionRefusedError):
            async with joined(bus, secret):
                pytest.fail("let in again")
        await other.client.flush(timeout=5)
        assert not other.lost.is_set()


async def test_who_leaves_a_team_comes_back_without_it(quota: Quota, bus: Bus) -> None:
    left, kept = await quota.team(), await quota.team()
    secret = await quota.member(left, token_pb2.ROLE_MEMBER)
    who = (await (await quota.identity(secret)).GetCaller(quota_pb2.GetCallerRequest())).subject
    await quota.db.execute("INSERT INTO memberships (team, subject, role) VALUES ($1, $2, 2)", kept, who)
    people = await quota.people()
    async with asyncio.timeout(30):
        async with joined(bus, secret) as member:
            assert await member.may_publish(f"cairn.v1.job.run.run-started.{left}.{new_uid()}")
            name = f"teams/{left}/members/{who.removeprefix('users/')}"
            await people.DeleteMembership(user_service_pb2.DeleteMembershipRequest(name=name))
            await member.lost.wait()
        async with joined(bus, secret) as member:
            assert not await member.may_publish(f"cairn.v1.job.run.run-started.{left}.{new_uid()}")
            assert await member.may_publish(f"cairn.v1.job.run.run-started.{kept}.{new_uid()}")


async def test_a_connection_ends_with_its_token(quota: Quota, bus: Bus) -> None:
    secret, _ = await quota.run_token("main", seconds=2)
    async with asyncio.timeout(30), joined(bus, secret) as job:
        await job.closed.wait()
        assert "authentication expired" in str(job.client.last_error).lower()


async def test_the_callout_comes_back_with_the_bus(quota: Quota, bus: Bus) -> None:
    secret, token = await quota.run_token("main")
    await asyncio.to_thread(bus.server.restart)
    async with asyncio.timeout(60):
        while True:
            try:
                async with joined(bus, secret) as job:
                    assert await job.may_publish(f"cairn.v1.job.run.run-started.main.{token.run_uid}")
                    return
            except ConnectionRefusedError:
                # Until the callout's own connection is back nobody is let in: fail closed.
                continue
