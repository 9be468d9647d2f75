"""Where everything is, and whether it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cairn.gateway.v1 import gateway_pb2
from cairn_common.bus import Bus
from cairn_common.errors import Unavailable
from cairn_common.subjects import INGEST
from cairn_gateway.settings import GatewaySettings

_HEALTH_TIMEOUT = 1.0


class Platform:
    """Knows the parts' addresses and asks for their health."""

    def __init__(
        self, settings: GatewaySettings, channels: Mapping[str, grpc.aio.Channel], bus: Bus, *, version: str
    ) -> None:
        self._settings = settings
        self._channels = channels
        self._bus = bus
        self._version = version

    async def describe(self) -> gateway_pb2.Platform:
        """The platform as it is now; a part that does not answer within a second does not serve."""
        serving, backlog = await asyncio.gather(
            asyncio.gather(*(_serves(channel) for channel in self._channels.values())), self._backlog()
        )
        services = [
            gateway_pb2.Platform.Service(
                name=name, address=getattr(self._settings, f"{name}_address"), serving=yes
            )
            for name, yes in zip(self._channels, serving, strict=True)
        ]
        own = gateway_pb2.Platform.Service(
            name="gateway", address=self._settings.gateway_address, serving=True
        )
        return gateway_pb2.Platform(
            version=self._version,
            url=self._settings.public_url,
            bus_url=self._settings.public_nats_url,
            services=[*services, own],
            backlog=backlog,
        )

    async def _backlog(self) -> gateway_pb2.Platform.Backlog | None:
        """Of the tracker: the bus says it also while that one is down."""
        try:
            lag, room = await asyncio.gather(
                self._bus.lag(stream="JOB", durable=INGEST), self._bus.room("JOB")
            )
        except Unavailable:
            return None
        return gateway_pb2.Platform.Backlog(
            messages=lag.messages,
            oldest_seconds=round(lag.seconds, 1),
            bytes=room.used,
            limit_bytes=room.limit,
        )


async def _serves(channel: grpc.aio.Channel) -> bool:
    try:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
        answer = await check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
