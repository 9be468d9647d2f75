"""The quota service in the test's own process, on real servers, with an admin and every service's token."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpc import aio

from cairn.quota.v1 import (
    allocation_pb2_grpc,
    audit_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    secret_service_pb2_grpc,
    team_pb2,
    token_pb2,
    user_service_pb2_grpc,
    webhook_service_pb2_grpc,
)
from cairn_common.auth import hash_token, new_token
from cairn_common.clock import Clock
from cairn_common.db import Database, pool
from cairn_common.ids import new_uid
from cairn_common.rpc import Server, channel
from cairn_quota.app import SCHEMA, run
from cairn_quota.settings import QuotaSettings

SERVICES = ("scheduler", "quota", "tracker", "gateway")


@dataclass(frozen=True)
class Tokens:
    """Secrets of the first inhabitants."""

    admin: str = field(default_factory=new_token)
    services: dict[str, str] = field(default_factory=lambda: {name: new_token() for name in SERVICES})

    def write(self, path: Path) -> Path:
        """Writes the bootstrap file."""
        path.touch(mode=0o600)
        services = {name: hash_token(secret) for name, secret in self.services.items()}
        path.write_text(json.dumps({"admin": hash_token(self.admin), "services": services}))
        return path


@dataclass
class Quota:
    """A running quota service."""

    address: str
    tokens: Tokens
    db: Database
    stack: AsyncExitStack

    async def channel(self, token: str | None) -> aio.Channel:
        """A channel with this token, closed with the service."""
        return await self.stack.enter_async_context(channel(self.address, token))

    async def teams(self, token: str | None = None) -> quota_pb2_grpc.QuotaServiceAsyncStub:
        """QuotaService as the admin, or with another token."""
        return quota_pb2_grpc.QuotaServiceStub(await self.channel(token or self.tokens.admin))

    async def allocation(self, token: str | None = None) -> allocation_pb2_grpc.AllocationServiceAsyncStub:
        """AllocationService as the admin, or with another token."""
        return allocation_pb2_grpc.AllocationServiceStub(await self.channel(token or self.tokens.admin))

    async def identity(self, token: str | None = None) -> quota_pb2_grpc.IdentityServiceAsyncStub:
        """IdentityService as the admin, or with another token."""
        return quota_pb2_grpc.IdentityServiceStub(await self.channel(token or self.tokens.admin))

    async def people(self, token: str | None = None) -> user_service_pb2_grpc.UserServiceAsyncStub:
        """UserService as the admin, or with another token."""
        return user_service_pb2_grpc.UserServiceStub(await self.channel(token or self.tokens.admin))

    async def audit(self, token: str | None = None) -> audit_pb2_grpc.AuditServiceAsyncStub:
        """AuditService as the admin, or with another token."""
        return audit_pb2_grpc.AuditServiceStub(await self.channel(token or self.tokens.admin))

    async def webhooks(self, token: str | None = None) -> webhook_service_pb2_grpc.WebhookServiceAsyncStub:
        """WebhookService as the admin, or with another token."""
        return webhook_service_pb2_grpc.WebhookServiceStub(await self.channel(token or self.tokens.admin))

    async def secrets(self, token: str | None = None) -> secret_service_pb2_grpc.SecretServiceAsyncStub:
        """SecretService as the admin, or with another token."""
        return secret_service_pb2_grpc.SecretServiceStub(await self.channel(token or self.tokens.admin))

    async def door(self) -> user_service_pb2_grpc.UserServiceAsyncStub:
        """UserService as the gateway, for whoever comes without a token."""
        return await self.people(self.tokens.services["gateway"])

    async def member(self, team: str, role: token_pb2.Role.ValueType, *, scope: int = 3) -> str:
        """A new user with this role in the team, without the links by which people come; returns a secret."""
        subject, secret = f"users/u{new_uid()}", new_token()
        await self.db.execute(
            "INSERT INTO memberships (team, subject, role) VALUES ($1, $2, $3)", team, subject, int(role)
        )
        await self.db.execute(
            "INSERT INTO tokens (uid, hash, display_name, subject, scope, create_time, creator)"
            " VALUES ($1, $2, '', $3, $4, now(), $3)",
            new_uid(),
            hash_token(secret),
            subject,
            scope,
        )
        return secret

    async def team(self, **limits: int) -> str:
        """A new team of the admin's with these limits; returns its id."""
        team_id = f"t{new_uid()}"
        teams = await self.teams()
        team = team_pb2.Team(limits=team_pb2.Limits(**limits))
        await teams.CreateTeam(quota_pb2.CreateTeamRequest(team_id=team_id, team=team))
        return team_id

    async def run_token(
        self, team: str, *, run_uid: str = "", seconds: int = 600
    ) -> tuple[str, token_pb2.Token]:
        """A run's token, made by the scheduler: its secret, and what it is."""
        identity = await self.identity(self.tokens.services["scheduler"])
        request = quota_pb2.CreateTokenRequest(
            scope=token_pb2.SCOPE_RUN, team=team, run_uid=run_uid or new_uid(), attempt_uid=new_uid()
        )
        request.ttl.FromSeconds(seconds)
        made = await identity.CreateToken(request)
        return made.secret, made.token


@asynccontextmanager
async def running(
    *,
    postgres_url: str,
    nats_url: str,
    folder: Path,
    clock: Clock | None = None,
    tokens: Tokens | None = None,
    **settings: Any,
) -> AsyncIterator[Quota]:
    """The service while the block runs; `settings` are fields of QuotaSettings."""
    secrets = tokens or Tokens()
    # Of a bus that many tests share.
    settings.setdefault("job_stream_bytes", 8 * 2**20)
    folder.mkdir(parents=True, exist_ok=True)
    made = QuotaSettings(
        postgres_url=postgres_url,
        nats_url=nats_url,
        service_token=secrets.services["quota"],
        bootstrap=secrets.write(folder / "bootstrap.json"),
        **settings,
    )
    stop = asyncio.Event()
    server: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        service = tasks.create_task(run(made, stop=stop, clock=clock, ready=server.set_result))
        await asyncio.wait({service, server}, return_when=asyncio.FIRST_COMPLETED)
        if service.done():
            await service
        async with AsyncExitStack() as stack, pool(postgres_url, schema=SCHEMA, size=2) as db:
            yield Quota(f"127.0.0.1:{server.result().port}", secrets, db, stack)
        stop.set()
