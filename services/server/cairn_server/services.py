"""The four services as programs: their environment, and the question that tells when they are ready."""

from __future__ import annotations

import asyncio
import http.client
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grpc import aio
from grpc_health.v1 import health_pb2

from cairn_common import rpc
from cairn_common.tls import Tls
from cairn_server import SERVICES
from cairn_server.backends import nats
from cairn_server.backends.program import NotReady, Program
from cairn_server.credentials import Credentials

# What a job is given is no setting of the platform, even where `cairn up` runs inside a job.
_OF_A_JOB = frozenset(
    f"CAIRN_{name}"
    for name in (
        "ATTEMPT", "ATTEMPT_UID", "BUS_URL", "CONFIG", "HOME", "PARAMS", "PG_USER", "RANK", "RUN",
        "SECRETS", "SPOOL", "TEAM", "TOKEN", "TOKEN_FILE", "URL",
    )
)  # fmt: skip
# Of those alone who keep something under them: the scheduler and quota.
_SECRETS_KEYS = ("CAIRN_SECRETS_KEY", "CAIRN_SECRETS_KEY_OLD")
# Quota's alone: the secret of single sign-on is among them.
_SIGN_ON = "CAIRN_OIDC_"
_KEPT = (
    "HOME", "USER", "LOGNAME", "SHELL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where everything is: one value, from which each service's environment is made."""

    root: Path
    ports: Mapping[str, int]
    http_bind: str
    public_url: str
    nats_url: str
    postgres_urls: Mapping[str, str] = field(repr=False)
    s3_endpoint: str
    clickhouse_url: str = field(repr=False)
    embedded_s3: Path | None
    bootstrap: Path
    skypilot_url: str = ""


def program(name: str, *, wiring: Wiring, credentials: Credentials, operator: Mapping[str, str]) -> Program:
    """The service `name`. `operator` is the environment of `cairn up`; what is set there goes first."""
    folder = wiring.root / name
    folder.mkdir(mode=0o700, exist_ok=True)
    env = {
        **_inherited(operator),
        **environment(name, wiring=wiring, credentials=credentials, operator=operator),
        "PYTHONUNBUFFERED": "1",
    }
    port, tls = wiring.ports[name], _tls(env)

    async def probe() -> None:
        # Of its own port, also for the gateway: at the public one another platform may answer.
        await _ask_health(f"127.0.0.1:{port}", tls)
        if name == "gateway":
            await asyncio.to_thread(_ask_http, wiring.http_bind)

    return Program(
        name=name,
        argv=(sys.executable, "-m", "cairn_server", "serve", name),
        env=env,
        port=wiring.ports["http"] if name == "gateway" else port,
        probe=probe,
        cwd=folder,
        stop_grace=15.0,
    )


def environment(
    name: str, *, wiring: Wiring, credentials: Credentials, operator: Mapping[str, str]
) -> dict[str, str]:
    """The settings of service `name`: what all need, and what only this one may know."""
    addresses = {
        key: operator.get(key) or f"127.0.0.1:{wiring.ports[service]}"
        for service in SERVICES
        for key in (f"CAIRN_{service.upper()}_ADDRESS",)
    }
    return {
        **addresses,
        **secrets_of(name, credentials),
        **_own(name, wiring=wiring, credentials=credentials, operator=operator),
        "CAIRN_GRPC_BIND": f"127.0.0.1:{wiring.ports[name]}",
        "CAIRN_NATS_URL": wiring.nats_url,
        "CAIRN_PUBLIC_NATS_URL": operator.get("CAIRN_PUBLIC_NATS_URL") or wiring.nats_url,
        "CAIRN_PUBLIC_URL": wiring.public_url,
        "CAIRN_DATA_DIR": str(wiring.root / name),
        **({"CAIRN_POSTGRES_URL": wiring.postgres_urls[name]} if name in wiring.postgres_urls else {}),
    }


def secrets_of(name: str, credentials: Credentials) -> dict[str, str]:
    """The secrets of service `name`, those of databases and stores aside."""
    seeds = credentials.nats.seeds
    found = {"CAIRN_SERVICE_TOKEN": credentials.service_tokens[name], "CAIRN_NATS_SEED": seeds[name]}
    if name == "quota":
        found |= {
            "CAIRN_NATS_ISSUER_SEED": seeds[nats.ISSUER],
            "CAIRN_NATS_CALLOUT_SEED": seeds[nats.CALLOUT],
            "CAIRN_NATS_SYSTEM_SEED": seeds[nats.SYSTEM],
        }
    return found


def _own(
    name: str, *, wiring: Wiring, credentials: Credentials, operator: Mapping[str, str]
) -> dict[str, str]:
    if name == "quota":
        sign_on = {key: value for key, value in operator.items() if key.startswith(_SIGN_ON)}
        return {"CAIRN_BOOTSTRAP": str(wiring.bootstrap)} | _key(operator) | sign_on
    if name == "scheduler":
        sky = {"CAIRN_SKYPILOT_URL": wiring.skypilot_url} if wiring.skypilot_url else {}
        return sky | _key(operator)
    if name == "gateway":
        return {"CAIRN_HTTP_BIND": wiring.http_bind}
    if name == "tracker":
        embedded = {
            "CAIRN_S3_ACCESS_KEY": credentials.s3.access,
            "CAIRN_S3_SECRET_KEY": credentials.s3.secret,
            "CAIRN_S3_DATA_DIR": str(wiring.embedded_s3),
        }
        external = {
            key: operator[key] for key in ("CAIRN_S3_ACCESS_KEY", "CAIRN_S3_SECRET_KEY") if key in operator
        }
        return {
            "CAIRN_S3_ENDPOINT": wiring.s3_endpoint,
            "CAIRN_CLICKHOUSE_URL": wiring.clickhouse_url,
            **(embedded if wiring.embedded_s3 else external),
        }
    return {}


def _key(operator: Mapping[str, str]) -> dict[str, str]:
    return {key: operator[key] for key in _SECRETS_KEYS if key in operator}


def _inherited(operator: Mapping[str, str]) -> dict[str, str]:
    """What the operator set for the services themselves, but no address or secret of a store."""
    elsewhere = ("CAIRN_POSTGRES_", "CAIRN_NATS_", "CAIRN_S3_", "CAIRN_CLICKHOUSE_", _SIGN_ON)
    settings = {
        key: value
        for key, value in operator.items()
        if key.startswith("CAIRN_")
        and key not in _OF_A_JOB
        and not key.startswith(elsewhere)
        and key not in _SECRETS_KEYS
    }
    of_bucket = ("CAIRN_S3_BUCKET", "CAIRN_S3_REGION", "CAIRN_S3_PUBLIC_ENDPOINT")
    extra = {key: operator[key] for key in of_bucket if key in operator}
    return {key: operator[key] for key in _KEPT if key in operator} | settings | extra


def _tls(env: Mapping[str, str]) -> Tls | None:
    """As the service itself reads it."""
    cert, key, ca = (env.get(f"CAIRN_TLS_{name}") for name in ("CERT", "KEY", "CA"))
    return Tls(Path(cert), Path(key), Path(ca) if ca else None) if cert and key else None


async def _ask_health(address: str, tls: Tls | None) -> None:
    async with rpc.channel(address, tls=tls) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=3)
        except aio.AioRpcError as error:
            raise NotReady(f"health: {error.code().name}") from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise NotReady("health: NOT_SERVING")


def _ask_http(bind: str) -> None:
    host, _, port = bind.rpartition(":")
    connection = http.client.HTTPConnection(_reachable(host), int(port), timeout=3)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise NotReady(f"/healthz: {error!r}") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise NotReady(f"/healthz: {status}")


def _reachable(host: str) -> str:
    """Where to ask a server that listens on all addresses."""
    return "127.0.0.1" if host in ("", "0.0.0.0", "[::]") else host.strip("[]")  # noqa: S104


def complete(only: Iterable[str], operator: Mapping[str, str]) -> tuple[str, ...]:
    """`only`, and quota with it: nobody can tell whose a token is without it."""
    wanted = set(only) or set(SERVICES)
    if not operator.get("CAIRN_QUOTA_ADDRESS"):
        wanted.add("quota")
    return tuple(name for name in SERVICES if name in wanted)
