"""What HTTP and gRPC promise, put to the test with all that can be sent, on a running platform."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from cairn.scheduler.v1 import attach_pb2
from cairn_gateway.http.route import SERVICES
from tests.harness.messages import nasty
from tests.harness.people import invite, port_of, secrets_in
from tests.harness.platform import Platform
from tests.harness.things import as_configuration, furnish

# Of each route; what comes of one example too many is found by letting this be larger.
EXAMPLES = 3
# The share of requests that name what is there; the others ask about nothing.
REAL = 0.85
# A stream has no end; who signs out is nobody after that.
NOT_ASKED = ("/api/v1/teams/{team}/events", "/api/v1/session:end")
# Of each RPC, and as many that are no messages at all; of each stream.
CALLS = 12
STREAM_CALLS = 4
STREAM_SECONDS = 0.5
INNER = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
# More is refused than a schema can say (a page's token is one that was given, a tree has no cycle), and a
# null stands for nothing where the schema names the type of something.
BEYOND_SCHEMAS = "positive_data_acceptance,negative_data_rejection"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("contract"))
    platform.up()
    yield platform
    platform.down()


@pytest.mark.timeout(300)
def test_no_answer_is_a_5xx_or_other_than_documented(platform: Platform, tmp_path: Path) -> None:
    token = secrets_in(platform.data)["admin_token"]
    url, sent = platform.status()["url"], {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=url, trust_env=False) as http:
        things = furnish(http, token)
    configuration = tmp_path / "things.toml"
    configuration.write_text(as_configuration(things, probability=REAL))
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.get(f"{url}/api/v1/openapi.json", headers=sent, trust_env=False).content)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(configuration),
            "run", str(document), "--url", url,
            "-H", f"Authorization: Bearer {token}", "--phases", "examples,coverage,fuzzing,stateful",
            "--max-examples", str(EXAMPLES), "--exclude-checks", BEYOND_SCHEMAS,
            *(word for path in NOT_ASKED for word in ("--exclude-path", path)),
            "--request-timeout", "30", "--seed", "1", "--suppress-health-check", "all", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert httpx.get(f"{url}/api/v1/me", headers=sent, trust_env=False).status_code == 200, "it was let in"


def rpcs(*, streams: bool) -> Iterator[MethodDescriptor]:
    """Those that answer once, or those whose answer is a stream, of all services."""
    for service in SERVICES.values():
        for method in service.methods:
            if not method.client_streaming and method.server_streaming == streams:
                yield method


class Fuzz:
    """Messages and what are none, to each service, by everybody who may come."""

    def __init__(self, platform: Platform) -> None:
        secrets, people = secrets_in(platform.data), invite(platform.data)
        self.tokens = [secrets["admin_token"], secrets["service_tokens"]["scheduler"], people.member]
        self.tokens += [people.viewer, people.reader, people.stranger, people.run, people.expired]
        self.chance = random.Random(1)
        self.wrong: list[str] = []
        self.asked = 0
        self._channels = {
            name: grpc.insecure_channel(f"127.0.0.1:{port_of(platform.data, name)}")
            for name in ("scheduler", "quota", "tracker", "gateway")
        }

    def close(self) -> None:
        for one in self._channels.values():
            one.close()

    def ask(self, method: MethodDescriptor, turn: int) -> None:
        """One call: each second one is no message, or half of one."""
        chance, kind = self.chance, message_factory.GetMessageClass(method.output_type)
        channel = self._channels[method.containing_service.full_name.split(".")[1]]
        path = f"/{method.containing_service.full_name}/{method.name}"
        sent = nasty(method.input_type, chance).SerializeToString()
        if turn % 2:
            sent = chance.randbytes(len(sent)) if turn % 4 == 1 else sent[: len(sent) // 2]
        bearer = ("authorization", f"Bearer {chance.choice(self.tokens)}")
        self.asked += 1
        began, limit = time.monotonic(), STREAM_SECONDS if method.server_streaming else 30.0
        try:
            if method.server_streaming:
                call = channel.unary_stream(path, response_deserializer=kind.FromString)
                for _ in call(sent, metadata=(bearer,), timeout=limit):
                    pass
            else:
                channel.unary_unary(path, response_deserializer=kind.FromString)(
                    sent, metadata=(bearer,), timeout=limit
                )
        except grpc.RpcError as error:
            if error.code() in INNER:
                self.wrong.append(f"{path}: {error.code().name} {error.details()} for {sent[:2000]!r}")
        if time.monotonic() - began > limit + 10:
            self.wrong.append(f"{path}: past its deadline for {sent[:2000]!r}")

    def pour(self, method: MethodDescriptor, turn: int) -> None:
        """One call with a stream of messages: each second one holds what are none."""
        chance, kind = self.chance, message_factory.GetMessageClass(method.output_type)
        path = f"/{method.containing_service.full_name}/{method.name}"
        pieces = [nasty(method.input_type, chance).SerializeToString() for _ in range(10)]
        if turn % 2:
            pieces.insert(chance.randrange(10), chance.randbytes(30))
        ended = threading.Event()

        def sent() -> Iterator[bytes]:
            yield from pieces
            if turn % 4 > 1:
                ended.wait(30)

        call = self._channels["scheduler"].stream_stream(path, response_deserializer=kind.FromString)
        bearer = ("authorization", f"Bearer {chance.choice(self.tokens)}")
        self.asked += 1
        try:
            for _ in call(sent(), metadata=(bearer,), timeout=STREAM_SECONDS):
                pass
        except grpc.RpcError as error:
            if error.code() in INNER:
                self.wrong.append(f"{path}: {error.code().name} {error.details()} for {pieces!r:.2000}")
        finally:
            ended.set()


@pytest.fixture(scope="module")
def fuzz(platform: Platform) -> Iterator[Fuzz]:
    made = Fuzz(platform)
    yield made
    made.close()


@pytest.mark.timeout(300)
def test_no_message_leads_to_an_internal_error(fuzz: Fuzz) -> None:
    for method in rpcs(streams=False):
        for turn in range(2 * CALLS):
            fuzz.ask(method, turn)
    assert fuzz.asked > 1000
    assert not fuzz.wrong, "\n".join(fuzz.wrong[:20])


def test_no_stream_of_messages_leads_to_an_internal_error(fuzz: Fuzz) -> None:
    """Streams of messages, and of what are none, that a client sends: some that end, some that do not."""
    methods = [
        method
        for service in attach_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.client_streaming
    ]
    assert {method.name for method in methods} == {"Attach", "Carry"}
    for method in methods:
        for turn in range(2 * STREAM_CALLS):
            fuzz.pour(method, turn)
    assert not fuzz.wrong, "\n".join(fuzz.wrong[:20])


def test_no_message_leads_a_stream_into_an_internal_error(fuzz: Fuzz) -> None:
    before = fuzz.asked
    for method in rpcs(streams=True):
        for turn in range(STREAM_CALLS):
            fuzz.ask(method, turn)
    assert fuzz.asked > before
    assert not fuzz.wrong, "\n".join(fuzz.wrong[:20])
