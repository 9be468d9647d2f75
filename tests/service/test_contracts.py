"""What HTTP and gRPC promise, put to the test with all that can be sent, on a running platform."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from cairn_gateway.http.route import SERVICES
from tests.harness.messages import nasty
from tests.harness.people import port_of, secrets_in
from tests.harness.platform import Platform

# Of each route; what comes of one example too many is found by letting this be larger.
EXAMPLES = 3
# A stream has no end; who signs out is nobody after that.
NOT_ASKED = ("/api/v1/teams/{team}/events", "/api/v1/session:end")
# Of each RPC, and as many that are no messages at all.
CALLS = 12
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
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.get(f"{url}/api/v1/openapi.json", headers=sent, trust_env=False).content)
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "run", str(document), "--url", url,
            "-H", f"Authorization: Bearer {token}", "--phases", "examples,coverage,fuzzing",
            "--max-examples", str(EXAMPLES), "--exclude-checks", BEYOND_SCHEMAS,
            *(word for path in NOT_ASKED for word in ("--exclude-path", path)),
            "--request-timeout", "30", "--seed", "1", "--suppress-health-check", "all", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert httpx.get(f"{url}/api/v1/me", headers=sent, trust_env=False).status_code == 200, "it was let in"


def rpcs() -> Iterator[MethodDescriptor]:
    """Those that answer once, of all services."""
    for service in SERVICES.values():
        for method in service.methods:
            if not method.client_streaming and not method.server_streaming:
                yield method


@pytest.mark.timeout(300)
def test_no_message_leads_to_an_internal_error(platform: Platform) -> None:
    secrets, chance = secrets_in(platform.data), random.Random(1)
    tokens = [secrets["admin_token"], secrets["service_tokens"]["scheduler"]]
    wrong: list[str] = []
    channels = {
        name: grpc.insecure_channel(f"127.0.0.1:{port_of(platform.data, name)}")
        for name in ("scheduler", "quota", "tracker", "gateway")
    }
    asked = 0
    for method in rpcs():
        channel = channels[method.containing_service.full_name.split(".")[1]]
        path = f"/{method.containing_service.full_name}/{method.name}"
        call = channel.unary_unary(
            path, response_deserializer=message_factory.GetMessageClass(method.output_type).FromString
        )
        for turn in range(2 * CALLS):
            sent = nasty(method.input_type, chance).SerializeToString()
            if turn % 2:
                sent = chance.randbytes(len(sent)) if turn % 4 == 1 else sent[: len(sent) // 2]
            bearer = ("authorization", f"Bearer {chance.choice(tokens)}")
            asked += 1
            try:
                call(sent, metadata=(bearer,), timeout=30)
            except grpc.RpcError as error:
                if error.code() in INNER:
                    wrong.append(f"{path}: {error.code().name} {error.details()} for {sent[:2000]!r}")
    for one in channels.values():
        one.close()
    assert asked > 1000
    assert not wrong, "\n".join(wrong[:20])
