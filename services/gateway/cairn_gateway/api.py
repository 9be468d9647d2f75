"""The gateway's gRPC service."""

from __future__ import annotations

from collections.abc import Mapping

from grpc import aio

from cairn.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from cairn_common.auth import Access, Role, access
from cairn_common.rpc import caller
from cairn_gateway.platform import Platform

NAME = "cairn.gateway.v1.GatewayService"
ACCESS: Mapping[str, Access] = {f"/{NAME}/GetPlatform": access(Role.NONE, run_token=True)}


class GatewayApi(gateway_pb2_grpc.GatewayServiceServicer):
    """Answers where everything is."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def add_to(self, server: aio.Server) -> None:
        """Registers this service with a server."""
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(self, server)

    async def GetPlatform(
        self,
        request: gateway_pb2.GetPlatformRequest,
        context: aio.ServicerContext[gateway_pb2.GetPlatformRequest, gateway_pb2.Platform],
    ) -> gateway_pb2.Platform:
        """What a client needs to talk to the parts directly."""
        return await self._platform.describe(caller().roles)
