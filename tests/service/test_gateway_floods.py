"""Many at the door who say nothing, or speak slowly, or ask too often: others are served meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from cairn_gateway.http.limits import MOST_ENTRIES_EACH, MOST_REQUESTS_EACH, MOST_REQUESTS_TEAM
from cairn_gateway.listen import HttpServer, listen
from tests.harness.gateway import Neighbours, bearer, gateway, neighbours

TOKEN = "cairn_0123456789abcdef-ada"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def behind() -> AsyncIterator[Neighbours]:
    async with neighbours() as made:
        made.caller(TOKEN, "main")
        yield made


async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, whatever the body."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@asynccontextmanager
async def server(**limits: float) -> AsyncIterator[Callable[..., asyncio.Task[bytes]]]:
    """A server with small limits; yields what opens a connection, sends, and reads all that is answered."""
    made, listener = HttpServer(refusing, **limits), listen("127.0.0.1:0")  # type: ignore[arg-type]
    serving = asyncio.create_task(made.serve([listener]))
    port = listener.getsockname()[1]

    async def told(*pieces: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    yield lambda *pieces: asyncio.create_task(told(*pieces))
    made.stop()
    await serving


ASKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


async def test_idle_connections_take_room_from_each_other_and_not_from_who_asks() -> None:
    async with asyncio.timeout(20), server(most_connections=20, head_seconds=600) as connect:
        idle = [connect() for _ in range(50)]
        done, waiting = await asyncio.wait(idle, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 30:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert {task.result() for task in done} == {b""}
        for _ in range(5):
            asked = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            assert (await connect(asked)).startswith(b"HTTP/1.1 401")
        assert len(waiting) == 20
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_head_that_does_not_come_is_not_waited_for() -> None:
    async with asyncio.timeout(20), server(head_seconds=0.05) as connect:
        for begun in ((), (b"GET / HT",), (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n")):
            assert await connect(*begun) == b""


async def test_of_a_body_that_nobody_wants_the_rest_is_not_waited_for() -> None:
    """Whoever is refused could hold the connection for ever, a byte at a time, without a token."""
    async with asyncio.timeout(20), server(linger_seconds=0.05, head_seconds=600) as connect:
        answer = await connect(ASKED % 10**12, b"x", b"x")
        assert answer.startswith(b"HTTP/1.1 401")
        # One that brings the rest in time goes on with its next request.
        twice = await connect(ASKED % 2 + b"xx" + b"GET / HTTP/1.1\r\nConnection: close\r\nHost: a\r\n\r\n")
        assert twice.count(b"HTTP/1.1 401") == 2


async def test_who_comes_in_slowly_takes_no_room_of_those_who_are_in(
    behind: Neighbours, nats_url: str
) -> None:
    """With no token, or another one each time, and a body that does not come."""
    async with gateway(nats_url, behind.address) as client, AsyncExitStack() as stack:
        opened: list[Stream] = []
        for number in range(MOST_ENTRIES_EACH + 8):
            reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
            stack.callback(writer.close)
            said = f"Authorization: Bearer cairn_{number:040}\r\nContent-Type: application/json\r\n"
            head = f"POST /api/v1/sessions HTTP/1.1\r\nHost: localhost\r\n{said}Content-Length: 99\r\n\r\n"
            writer.write(head.encode() + b"{")
            opened.append((reader, writer))
        refused = [asyncio.create_task(reader.readline()) for reader, _ in opened]
        async with asyncio.timeout(10):
            while sum(task.done() for task in refused) < 8:
                await asyncio.sleep(0.01)
        assert {task.result().split()[1] for task in refused if task.done()} == {b"429"}
        assert (await client.get("/api/v1/teams/main", headers=bearer(TOKEN))).status_code == 200
        for task in refused:
            task.cancel()
        await asyncio.gather(*refused, return_exceptions=True)


async def test_one_team_cannot_take_all_the_room(behind: Neighbours, nats_url: str) -> None:
    """However many tokens it has; who is not in it takes none of its room."""
    go = asyncio.Event()

    async def held() -> None:
        await go.wait()

    behind.answers["GetTeam"] = held
    tokens = [behind.caller(f"cairn_0123456789abcdef-{n}", "main") for n in range(3)]
    rival = behind.caller("cairn_0123456789abcdef-eve", "rivals")
    limits = httpx.Limits(max_connections=None)
    async with (
        gateway(nats_url, behind.address) as first,
        httpx.AsyncClient(base_url=first.base_url, limits=limits, timeout=30) as client,
    ):

        def ask(token: str, team: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.get(f"/api/v1/teams/{team}", headers=bearer(token)))

        strange = [ask(rival, "main") for _ in range(MOST_REQUESTS_EACH // 2)]
        own = [ask(token, "main") for token in tokens[:2] for _ in range(MOST_REQUESTS_EACH)]
        async with asyncio.timeout(20):
            while sum(call.method == "GetTeam" for call in behind.calls) < len(strange) + len(own):
                await asyncio.sleep(0.01)
        assert len(own) == MOST_REQUESTS_TEAM
        one_more = await ask(tokens[2], "main")
        assert (one_more.status_code, one_more.headers["retry-after"]) == (429, "1")
        assert "for one team" in one_more.json()["detail"]
        rivals = ask(rival, "rivals")
        me = await client.get("/api/v1/me", headers=bearer(tokens[2]))
        assert me.status_code == 200
        go.set()
        answers = await asyncio.gather(rivals, *strange, *own)
        assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize("path", ["/api/v1/teams/main", "/mlflow/api/2.0/mlflow/experiments/get-by-name"])
async def test_a_token_that_asks_too_often_is_told_when_to_come_back(
    behind: Neighbours, nats_url: str, path: str
) -> None:
    eve = behind.caller("cairn_0123456789abcdef-eve", "main")
    limits = {"requests_per_second": 0.01, "requests_burst": 3}
    async with gateway(nats_url, behind.address, **limits) as client:
        answers = [await client.get(path, headers=bearer(TOKEN)) for _ in range(4)]
        assert [answer.status_code == 429 for answer in answers] == [False, False, False, True]
        last = answers[-1]
        assert int(last.headers["retry-after"]) >= 1
        if path.startswith("/api"):
            assert last.headers["content-type"] == "application/problem+json"
            assert (last.json()["reason"], last.headers["retry-after"]) == ("RATE_EXCEEDED", "100")
        else:
            assert last.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
        assert (await client.get("/api/v1/me", headers=bearer(eve))).status_code == 200
        # Tokens that are none have a share by address: who is known there goes on.
        junk = [await client.get(path, headers=bearer(f"cairn_0123456789abcdef-{n}")) for n in range(4)]
        assert [answer.status_code for answer in junk] == [401, 401, 401, 429]
        assert (await client.get("/api/v1/me", headers=bearer(eve))).status_code == 200
