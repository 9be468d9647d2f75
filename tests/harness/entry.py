"""The quota service with a gateway in front of it: what people need to come in."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.harness.gateway import bearer, gateway
from tests.harness.quota import Quota, running

PASSWORD = "four words put together"


@dataclass(frozen=True)
class Place:
    """The quota service, and a gateway in front of it."""

    quota: Quota
    stack: AsyncExitStack
    nats_url: str
    http: httpx.AsyncClient

    async def gateway(self, **settings: Any) -> httpx.AsyncClient:
        """Another gateway, with these settings."""
        made = gateway(
            self.nats_url, self.quota.address, service_token=self.quota.tokens.services["gateway"], **settings
        )
        return await self.stack.enter_async_context(made)

    async def link(self, email: str, *, role: str = "ROLE_MEMBER") -> str:
        """The secret of an invitation to `main`."""
        made = await self.http.post(
            "/api/v1/teams/main/invitations",
            json={"email": email, "role": role},
            headers=bearer(self.quota.tokens.admin),
        )
        assert made.status_code == 200, made.text
        return str(made.json()["secret"])

    async def member(self, email: str) -> dict[str, Any]:
        """Somebody who has come in without a cookie: the session."""
        body = {"secret": await self.link(email), "password": PASSWORD, "display_name": "Ada"}
        accepted = await self.http.post("/api/v1/invitations:accept", json=body)
        assert accepted.status_code == 200, accepted.text
        return dict(accepted.json())

    async def cairn(self, *arguments: str, config: Path, stdin: str = "", fails: bool = False) -> str:
        """Runs the command line, logged in as `config` says; gives stdout, or stderr where it fails."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("CAIRN_")}
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("cairn")), *arguments,
            env={**env, "CAIRN_CONFIG": str(config)},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate(stdin.encode())
        assert (process.returncode != 0) is fails, out.decode() + err.decode()
        return (err if fails else out).decode()


@asynccontextmanager
async def entry(
    *, postgres_url: str, nats_url: str, folder: Path, http_port: int = 0, **settings: Any
) -> AsyncIterator[Place]:
    """Both, for the block; `settings` are fields of QuotaSettings."""
    async with (
        running(postgres_url=postgres_url, nats_url=nats_url, folder=folder, **settings) as quota,
        AsyncExitStack() as stack,
    ):
        made = gateway(
            nats_url,
            quota.address,
            service_token=quota.tokens.services["gateway"],
            http_bind=f"127.0.0.1:{http_port}",
        )
        yield Place(quota, stack, nats_url, await stack.enter_async_context(made))
