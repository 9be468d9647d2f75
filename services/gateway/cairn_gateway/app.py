"""Wiring: one process serves HTTP and gRPC in one event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog

from cairn_common import bus, rpc, subjects
from cairn_common.auth import TokenChecker
from cairn_gateway import api, upstream
from cairn_gateway.http import Behind, create_app
from cairn_gateway.http.address import networks
from cairn_gateway.http.cookie import Cookie
from cairn_gateway.http.limits import hosts_of
from cairn_gateway.http.strangers import Strangers
from cairn_gateway.listen import HttpServer, listen
from cairn_gateway.live import Live
from cairn_gateway.mlflow import transfer
from cairn_gateway.platform import Platform
from cairn_gateway.settings import GatewaySettings
from cairn_gateway.tasks import end
from cairn_gateway.tunnel import Tunnel

log = structlog.get_logger(__name__)

_READS = ("SCHEDULER", "TRACKER", "QUOTA")
_RPC_GRACE = 1.0


async def serve(settings: GatewaySettings) -> None:
    """Serves until SIGTERM or SIGINT, then stops within 10 s. Raises OSError for a port that is taken."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings):
        await stop.wait()
        log.info("gateway.stopping")


@asynccontextmanager
async def running(settings: GatewaySettings) -> AsyncIterator[int]:
    """The gateway, for the block; yields its HTTP port."""
    listener = listen(settings.http_bind)
    port: int = listener.getsockname()[1]
    release = version("cairn-ml")
    async with (
        bus.connect(settings.nats_url, seed=settings.nats_seed, name="gateway") as nats,
        rpc.channel(settings.quota_address, settings.service_token, tls=settings.tls) as quota,
        upstream.connect(settings) as neighbours,
        transfer.connect() as store,
    ):
        checker = TokenChecker(quota)
        for stream in _READS:
            # Made by their publishers, who may come up later, or not at all.
            await nats.ensure_stream(stream, subjects.STREAMS[stream])
        live = Live(nats, checker)
        proxies = networks(settings.trusted_proxies)
        platform = Platform(settings, neighbours.channels, nats, version=release)
        behind = Behind(
            upstream=neighbours,
            tunnel=Tunnel(settings.nats_url),
            transfer=store,
            live=live,
            platform=platform,
            authenticate=Strangers(checker.check, settings.rates(), proxies).check,
            hosts=hosts_of(settings.public_url, settings.allowed_hosts),
            token=settings.service_token.get_secret_value(),
            cookie=Cookie(secure=settings.public_url.startswith("https://")),
            proxies=proxies,
            rates=settings.rates(),
            version=release,
        )
        http = HttpServer(create_app(behind))
        async with (
            asyncio.TaskGroup() as tasks,
            rpc.server(
                bind=settings.grpc_bind,
                access=api.ACCESS,
                authenticate=checker.check,
                services=[api.GatewayApi(platform).add_to],
                names=[api.NAME],
                tls=settings.tls,
                rates=settings.rates(),
                grace=_RPC_GRACE,
            ),
        ):
            hearing = tasks.create_task(live.hear_revocations())
            reading = tasks.create_task(live.run())
            serving = tasks.create_task(http.serve([listener]))
            log.info("gateway.serving", bind=settings.http_bind, port=port)
            try:
                yield port
            finally:
                live.stop()
                http.stop()
                await asyncio.wait([serving])
                await end([hearing, reading])
