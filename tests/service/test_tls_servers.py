"""Whom a service speaks with over TLS: neighbours, the bus, the database and the store, as its URLs say.

Each server here asks for a certificate. Who believes another authority, or has nothing of this one to show,
is not spoken with; who has both is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio
import trustme
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cairn_common import bus, db, rpc
from cairn_common.auth import Principal
from cairn_common.errors import Unavailable
from cairn_common.objects import ObjectStore
from cairn_common.tls import Tls, of_url
from cairn_server import ports
from cairn_server.backends import nats, s3
from cairn_server.backends.program import NotReady, Program
from tests.harness import servers
from tests.harness.tls import issued

SERVICES = Path(__file__).parent.parent.parent / "services"
SECONDS = 1.5


@dataclass(frozen=True)
class Papers:
    """Certificates of one authority, and of another."""

    own: Tls
    foreign: Tls

    def query(self, who: str) -> str:
        """What a URL names, for who believes whom and shows what."""
        root = (self.foreign if who == "believes another authority" else self.own).ca
        shown = {"shows nothing": None, "shows another's": self.foreign}.get(who, self.own)
        return f"?sslrootcert={root}" + (f"&sslcert={shown.cert}&sslkey={shown.key}" if shown else "")

    def tls(self, who: str) -> Tls | None:
        """The same, for neighbours."""
        match who:
            case "believes another authority":
                return replace(self.own, ca=self.foreign.ca)
            case "shows another's":
                return replace(self.foreign, ca=self.own.ca)
            case "shows nothing":
                return None
        return self.own


WHO = ["has both", "believes another authority", "shows nothing", "shows another's"]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    return Papers(issued(folder / "own", trustme.CA()), issued(folder / "foreign", trustme.CA()))


def started(program: Program, folder: Path) -> servers.Server:
    """A server that nobody asks whether it is there, for that takes a certificate."""

    async def listens() -> None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", program.port)
        except OSError as error:
            raise NotReady(str(error)) from error
        writer.close()

    server = servers.Server(replace(program, probe=listens), folder / "log")
    server.start()
    return server


@pytest.fixture(scope="module")
def nats_url(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("nats")
    port, config = ports.free(["nats"])["nats"], folder / "nats.conf"
    program = nats.prepare(folder / "store", port=port, config=config, keys=None)
    own = papers.own
    with config.open("a") as file:
        file.write(
            f'tls {{ cert_file: "{own.cert}", key_file: "{own.key}", ca_file: "{own.ca}", verify: true }}\n'
        )
    server = started(program, folder)
    yield f"tls://127.0.0.1:{port}"
    server.stop()


@pytest.fixture(scope="module")
def store_url(papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("s3")
    port = ports.free(["s3"])["s3"]
    program = s3.prepare(folder / "s3", port=port, keys=s3.S3Keys("test", "test-secret-key"), bucket="cairn")
    own = papers.own
    shown = ("--cert", str(own.cert), "--key", str(own.key), "--client-ca", str(own.ca))
    server = started(replace(program, argv=(*program.argv, *shown)), folder)
    yield f"https://127.0.0.1:{port}"
    server.stop()


async def is_spoken_with(work: Callable[[], Awaitable[object]]) -> bool:
    """Whether that is done within a few seconds."""
    try:
        async with asyncio.timeout(SECONDS):
            await work()
    except (TimeoutError, Unavailable, aio.AioRpcError):
        return False
    return True


@pytest.mark.parametrize("who", WHO)
async def test_the_bus(nats_url: str, papers: Papers, who: str) -> None:
    async def work() -> None:
        async with bus.connect(nats_url + papers.query(who), name="test") as made:
            await made.ensure_stream("TLS", ["cairn.v1.tls.>"])

    assert await is_spoken_with(work) == (who == "has both")


async def test_a_bus_that_does_not_speak_tls_is_told_nothing_at_an_address_that_does() -> None:
    """As somebody in between would have it: the greeting says nothing of TLS."""
    heard = asyncio.Queue[bytes]()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","max_payload":1048576}\r\n')
        heard.put_nowait(await reader.read())
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        url = f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        async def work() -> None:
            async with bus.connect(url, token="cairn_secret", name="test"):
                pass

        asking = asyncio.create_task(work())
        async with asyncio.timeout(10):
            assert await heard.get() == b""
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_database_that_does_not_speak_tls_is_not_spoken_with_where_the_url_asks_for_it(
    database_url: Callable[[str], str], papers: Papers
) -> None:
    """The embedded one is built without TLS."""

    async def work(query: str) -> None:
        async with db.pool(database_url("tracker") + query, schema="tracker", size=1) as made:
            assert await made.fetchval("SELECT 1") == 1

    assert await is_spoken_with(lambda: work(""))
    for who in WHO:
        assert not await is_spoken_with(lambda who=who: work(papers.query(who) + "&sslmode=verify-full"))


@pytest.mark.parametrize("who", WHO)
async def test_the_store(store_url: str, papers: Papers, who: str) -> None:
    store = ObjectStore(store_url + papers.query(who), "test", "test-secret-key", "cairn")
    assert await is_spoken_with(lambda: store.put("t/a", b"bytes")) == (who == "has both")
    assert store.presign_get("t/a").startswith(f"{store_url}/cairn/t/a?X-Amz")


@pytest_asyncio.fixture
async def neighbour(papers: Papers) -> AsyncIterator[str]:
    async def nobody(token: str) -> Principal:
        raise AssertionError(token)

    async with rpc.server(
        bind="127.0.0.1:0", access={}, authenticate=nobody, services=[], names=[], tls=papers.own
    ) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("who", WHO)
async def test_a_neighbour(neighbour: str, papers: Papers, who: str) -> None:
    for made in (
        rpc.channel(neighbour, tls=papers.tls(who)),
        rpc.bare_channel(neighbour, tls=papers.tls(who)),
    ):
        async with made as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            call = lambda stub=stub: stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)  # noqa: E731
            assert await is_spoken_with(call) == (who == "has both")


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("tls://b:1?sslrootcrt=x", "sslrootcrt is not one of"),
        ("nats://b:1?sslrootcert=x", "tls:// and https:// alone"),
        ("tls://b:1?sslcert=x", "named together"),
    ],
)
def test_what_names_no_files_is_said_to(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        of_url(url)


def test_every_channel_between_services_is_made_with_what_the_settings_say_of_tls() -> None:
    """Otherwise one pair of them would speak plainly, and fail only where TLS is on."""
    made = [
        line.strip()
        for file in sorted(SERVICES.rglob("cairn_*/**/*.py"))
        if file.parent.name not in ("cairn_common", "cairn_server")
        for line in file.read_text().splitlines()
        if "rpc.channel(" in line or "bare_channel(" in line or "rpc.server(" in line
    ]
    assert len(made) >= 10
    assert [line for line in made if "tls=" not in line and not line.endswith("rpc.server(")] == []
