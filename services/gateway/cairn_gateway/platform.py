"""Where everything is, and whether it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cairn.gateway.v1 import gateway_pb2
from cairn_common.bus import Bus, Lag, Room
from cairn_common.errors import Unavailable
from cairn_common.subjects import INGEST, team_of
from cairn_gateway.settings import GatewaySettings

_HEALTH_TIMEOUT = 1.0
# For so long it is known how far the tracker is behind: every SDK that starts asks where the bus is.
_BACKLOG_SECONDS = 1.0
# From this share of its limit on a stream is of interest though nothing in it waits.
_NEARLY_FULL = 0.9


@dataclass(frozen=True, slots=True)
class _Stream:
    team: str
    lag: Lag
    room: Room

    @property
    def share(self) -> float:
        return self.room.used / self.room.limit if self.room.limit else 0.0


class Platform:
    """Knows the parts' addresses and asks for their health."""

    def __init__(
        self, settings: GatewaySettings, channels: Mapping[str, grpc.aio.Channel], bus: Bus, *, version: str
    ) -> None:
        self._settings = settings
        self._channels = channels
        self._bus = bus
        self._version = version
        self._asking = asyncio.Lock()
        self._asked = -_BACKLOG_SECONDS
        self._waiting: Sequence[_Stream] = ()

    async def describe(self, teams: Collection[str]) -> gateway_pb2.Platform:
        """The platform as it is now; a part that does not answer within a second does not serve.

        `teams`: the caller's, who sees nothing of others.
        """
        serving, streams = await asyncio.gather(
            asyncio.gather(*(_serves(channel) for channel in self._channels.values())), self._streams()
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
            backlog=_backlog(streams, teams),
        )

    async def _streams(self) -> Sequence[_Stream]:
        """What waits for the tracker: the bus says it also while that one is down. Empty: it does not."""
        async with self._asking:
            if time.monotonic() - self._asked >= _BACKLOG_SECONDS:
                try:
                    async with asyncio.timeout(_HEALTH_TIMEOUT):
                        names = await self._bus.kept_streams()
                        self._waiting = await asyncio.gather(*map(self._stream, names))
                except (Unavailable, TimeoutError):
                    self._waiting = ()
                self._asked = time.monotonic()
            return self._waiting

    async def _stream(self, name: str) -> _Stream:
        lag, room = await asyncio.gather(self._bus.lag(stream=name, durable=INGEST), self._bus.room(name))
        return _Stream(team_of(name), lag, room)


def _backlog(streams: Sequence[_Stream], teams: Collection[str]) -> gateway_pb2.Platform.Backlog | None:
    if not streams:
        return None
    fullest = max(streams, key=lambda stream: stream.share).room
    told = gateway_pb2.Platform.Backlog(
        messages=sum(stream.lag.messages for stream in streams),
        oldest_seconds=round(max(stream.lag.seconds for stream in streams), 1),
        bytes=fullest.used,
        limit_bytes=fullest.limit,
    )
    for stream in streams:
        if stream.team in teams and (stream.lag.messages or stream.share >= _NEARLY_FULL):
            told.teams.add(
                team=f"teams/{stream.team}",
                messages=stream.lag.messages,
                oldest_seconds=round(stream.lag.seconds, 1),
                bytes=stream.room.used,
                limit_bytes=stream.room.limit,
            )
    return told


async def _serves(channel: grpc.aio.Channel) -> bool:
    try:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]
        answer = await check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
