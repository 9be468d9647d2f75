"""Services that speak TLS with each other: without a certificate nobody comes in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cairn_common.settings import ServiceSettings, SettingsError
from tests.harness.people import port_of
from tests.harness.platform import Platform
from tests.harness.tls import issued

SERVICES = ("scheduler", "quota", "tracker", "gateway")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("tls")
    tls = issued(folder, authority)
    platform = Platform(
        folder, CAIRN_TLS_CERT=str(tls.cert), CAIRN_TLS_KEY=str(tls.key), CAIRN_TLS_CA=str(tls.ca)
    )
    platform.up()
    yield platform
    platform.down()


def health(platform: Platform, service: str, credentials: grpc.ChannelCredentials | None) -> str:
    """What its health check answers, or the status of the call."""
    address = f"127.0.0.1:{port_of(platform.data, service)}"
    made = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with made as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.RpcError as error:
            return str(error.code().name)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def test_a_job_goes_through_all_services(platform: Platform, tmp_path: Path) -> None:
    done = platform.cairn("run", "--follow", "--", "echo", "through", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "through" in done.stdout


def test_nobody_comes_in_without_a_certificate_of_the_authority(
    platform: Platform, authority: trustme.CA, tmp_path: Path
) -> None:
    mine, foreign = tmp_path / "mine", tmp_path / "foreign"
    known, other = issued(mine, authority), issued(foreign, trustme.CA())
    assert known.ca is not None
    # It believes the services, and has nothing, or what another authority says, to show for itself.
    root = known.ca.read_bytes()
    bare = grpc.ssl_channel_credentials(root)
    stranger = grpc.ssl_channel_credentials(root, other.key.read_bytes(), other.cert.read_bytes())
    for service in SERVICES:
        assert health(platform, service, known.client()) == "SERVING"
        for credentials in (None, bare, stranger):
            assert health(platform, service, credentials) == "UNAVAILABLE"


def test_half_of_a_certificate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRN_SERVICE_TOKEN", "x")
    assert ServiceSettings.load().tls is None
    monkeypatch.setenv("CAIRN_TLS_CERT", "/tmp/cert.pem")
    with pytest.raises(SettingsError, match="CAIRN_TLS_KEY"):
        _ = ServiceSettings.load().tls
