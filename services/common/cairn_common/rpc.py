"""gRPC as all services speak it: a server with its guards, and a channel to a neighbour."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import SecretStr

from cairn_common._calls import ClientCalls
from cairn_common._guard import Guard, Origin, caller, credential, origin
from cairn_common.auth import Access, Authenticate, Role, access
from cairn_common.rate import Rates
from cairn_common.tls import Tls

__all__ = ["Origin", "Server", "bare_channel", "caller", "channel", "credential", "origin", "server"]

log = structlog.get_logger(__name__)

_LARGEST = 4 * 1024 * 1024
_HEALTH = "/grpc.health.v1.Health/"
_REFLECTION = (
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)
SERVER_OPTIONS: Sequence[tuple[str, int]] = (
    # Two processes on one port would share its calls silently, and a stranger could join.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _LARGEST),
    ("grpc.max_send_message_length", _LARGEST),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Half of what our channels ask; with the default of five minutes a silent stream would be cut off.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_age_ms", 3_600_000),
    # Who connects and says nothing, not even hello; and who has had no call for so long.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
    # A session with a job may last for a day; new calls go on a new connection meanwhile.
    ("grpc.max_connection_age_grace_ms", 86_400_000),
)
CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.max_receive_message_length", _LARGEST),
    ("grpc.max_send_message_length", _LARGEST),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A watch may be silent for hours, and still has to notice that its server has vanished.
    ("grpc.http2.max_pings_without_data", 0),
    # A neighbour that was killed is back within about a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Server:
    """A running server."""

    def __init__(self, *, port: int, checks: health.aio.HealthServicer, names: Sequence[str]) -> None:
        self.port = port
        self._checks = checks
        self._names = ("", *names)

    async def serving(self, yes: bool) -> None:
        """Tells health checks whether this service can do its work now."""
        state = health_pb2.HealthCheckResponse.SERVING if yes else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self._checks.set(name, state)


@asynccontextmanager
async def server(
    *,
    bind: str,
    access: Mapping[str, Access],
    authenticate: Authenticate,
    services: Sequence[Callable[[aio.Server], None]],
    names: Sequence[str],
    tls: Tls | None = None,
    rates: Rates | None = None,
    call_timeout: float = 30.0,
    grace: float = 8.0,
) -> AsyncIterator[Server]:
    """Serves on `bind` (host:port; port 0 takes a free one) while the block runs, then stops gracefully.

    `services` add their servicers to the server that they are handed; `names` are the services' full
    names, for health and reflection. `access` maps ``/package.Service/Method`` to what it asks of a caller:
    a method that is not there is refused. `tls` None: without encryption. `rates`: how often one token
    may call. `call_timeout` (seconds) caps unary calls without a deadline.
    At the end running streams end with UNAVAILABLE at once, other calls have `grace` seconds.

    Raises `OSError` where the port is taken, or a file of `tls` cannot be read.
    """
    guard = Guard(access=_complete(access), authenticate=authenticate, rates=rates, call_timeout=call_timeout)
    made = aio.server(interceptors=[guard], options=SERVER_OPTIONS)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, made)
    for add in services:
        add(made)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], made)
    try:
        port = made.add_secure_port(bind, tls.server()) if tls else made.add_insecure_port(bind)
    except RuntimeError:
        raise OSError(f"cannot listen on {bind}: is the port taken?") from None
    await made.start()
    running = Server(port=port, checks=checks, names=names)
    await running.serving(True)
    log.info("rpc.serving", bind=bind, port=port)
    try:
        yield running
    finally:
        await checks.enter_graceful_shutdown()
        guard.stop()
        await made.stop(grace)
        log.info("rpc.stopped", port=port)


def channel(
    address: str, token: SecretStr | str | None = None, *, tls: Tls | None = None, timeout: float = 10.0
) -> aio.Channel:
    """A channel to a neighbour at host:port; close it at the end (``async with``).

    Each call carries the token, unless it brings its own ``authorization``, and the id of the request that
    it serves; a unary call without a timeout gets `timeout` seconds. Nothing is sent twice: there is no
    retry policy, whoever retries holds a request_id.
    """
    secret = token.get_secret_value() if isinstance(token, SecretStr) else token
    calls = ClientCalls(token=secret or None, timeout=timeout)
    interceptors = calls.interceptors()
    if tls is None:
        return aio.insecure_channel(address, options=CHANNEL_OPTIONS, interceptors=interceptors)
    return aio.secure_channel(address, tls.client(), options=CHANNEL_OPTIONS, interceptors=interceptors)


def bare_channel(address: str, *, tls: Tls | None = None) -> aio.Channel:
    """A channel that adds nothing to calls, which is much of what a small call costs: each brings its own
    token, request id and deadline. Close it at the end."""
    if tls is None:
        return aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return aio.secure_channel(address, tls.client(), options=CHANNEL_OPTIONS)


def _complete(table: Mapping[str, Access]) -> Mapping[str, Access]:
    everyone = access(Role.NONE, public=True)
    return {
        **{_HEALTH + method: everyone for method in ("Check", "Watch", "List")},
        # The shape of the API is for callers, a run's token included.
        **{method: access(Role.NONE, run_token=True) for method in _REFLECTION},
        **table,
    }
