"""What a route of this API is, and what its handler is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from cairn_common.auth import Role
from cairn_gateway.http.route import SERVICES
from cairn_gateway.mlflow.fields import Fields
from cairn_gateway.mlflow.transfer import Transfer
from cairn_gateway.upstream import Caller, Upstream
from cairn_gateway.wire import Json

Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, by whom, and in which team."""

    team: str
    caller: Caller
    fields: Fields
    request: Request
    upstream: Upstream
    transfer: Transfer

    @property
    def parent(self) -> str:
        """The team's resource name."""
        return f"teams/{self.team}"

    async def call(self, rpc: str, message: Message, kind: type[Answer]) -> Answer:
        """Calls `Service/Method` as the caller; its answer. Raises the DomainError that it ended with."""
        service, _, method = rpc.partition("/")
        answer = await self.upstream.call(SERVICES[service].methods_by_name[method], message, self.caller)
        assert isinstance(answer, kind), f"{rpc} answers another message"
        return answer


# Answers an object, or for routes of bytes a whole response.
Handler = Callable[[Asked], Awaitable[Json | Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table: the method and path below `/mlflow`, and the role in the team that it asks for.

    The services hold the role again, each for itself. `streams`: the handler reads the body by itself, and
    may take minutes. `run_token`: a run's token is accepted, too; what it is good for the services say.
    """

    method: str
    path: str
    role: Role
    handler: Handler
    streams: bool = False
    run_token: bool = False

    def also(self, path: str) -> Route:
        """The same under another path."""
        return Route(self.method, path, self.role, self.handler, self.streams)


def of_runs(method: str, path: str, role: Role, handler: Handler, *, run_token: bool = False) -> Route:
    """A route of the tracking API: `/api/2.0/mlflow/PATH`."""
    return Route(method, f"/api/2.0/mlflow/{path}", role, handler, run_token=run_token)


def empty() -> dict[str, Any]:
    """What calls answer that only do something."""
    return {}
