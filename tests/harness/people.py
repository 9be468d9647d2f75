"""Everybody who may come to a platform's door: what each of them shows there."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import grpc

from cairn.quota.v1 import quota_pb2, quota_pb2_grpc, token_pb2
from cairn_common.auth import hash_token, new_token
from cairn_common.ids import new_uid

MAIN, OTHER = "main", "rivals"


@dataclass(frozen=True, kw_only=True)
class People:
    """Secrets of tokens, and what they are for."""

    admin: str
    member: str
    viewer: str
    # An owner, by a token of scope read.
    reader: str
    # Owner of the team OTHER alone.
    stranger: str
    expired: str
    revoked: str
    # Tokens of two runs in the team MAIN.
    run: str
    other_run: str
    run_uid: str
    other_run_uid: str


def invite(data: Path) -> People:
    """Makes them all, on the running platform of a data folder, without the links by which people come."""
    return asyncio.run(_invite(data))


def secrets_in(data: Path) -> dict[str, Any]:
    """What `secrets.json` holds."""
    found: dict[str, Any] = json.loads((data / "secrets.json").read_text())
    return found


def port_of(data: Path, name: str) -> int:
    """Where a part of the platform listens."""
    return int(json.loads((data / "run" / "ports.json").read_text())[name])


async def _invite(data: Path) -> People:
    secrets = secrets_in(data)
    url = f"postgresql://quota:{secrets['postgres']['quota']}@127.0.0.1:{port_of(data, 'postgres')}/cairn"
    db = await asyncpg.connect(url)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port_of(data, 'quota')}") as channel:
            admin = secrets["admin_token"]
            teams = quota_pb2_grpc.QuotaServiceStub(channel)
            await teams.CreateTeam(quota_pb2.CreateTeamRequest(team_id=OTHER), metadata=bearer(admin))
            # The admin leaves: nothing of the other team is then to be seen from here.
            await db.execute("DELETE FROM memberships WHERE team = $1", OTHER)
            scheduler = bearer(secrets["service_tokens"]["scheduler"])
            run, other_run = [await _run(channel, scheduler) for _ in range(2)]
        past = datetime.now(UTC) - timedelta(seconds=30)
        return People(
            admin=admin,
            member=await _person(db, MAIN, token_pb2.ROLE_MEMBER),
            viewer=await _person(db, MAIN, token_pb2.ROLE_VIEWER),
            reader=await _person(db, MAIN, token_pb2.ROLE_OWNER, scope=token_pb2.SCOPE_READ),
            stranger=await _person(db, OTHER, token_pb2.ROLE_OWNER),
            expired=await _person(db, MAIN, token_pb2.ROLE_OWNER, expire_time=past),
            revoked=await _person(db, MAIN, token_pb2.ROLE_OWNER, revoke_time=past),
            run=run.secret,
            other_run=other_run.secret,
            run_uid=run.token.run_uid,
            other_run_uid=other_run.token.run_uid,
        )
    finally:
        await db.close()


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call with a token."""
    return (("authorization", f"Bearer {secret}"),)


async def _person(
    db: Any,
    team: str,
    role: int,
    *,
    scope: int = token_pb2.SCOPE_ADMIN,
    expire_time: datetime | None = None,
    revoke_time: datetime | None = None,
) -> str:
    subject, secret = f"users/u{new_uid()}", new_token()
    await db.execute(
        "INSERT INTO memberships (team, subject, role) VALUES ($1, $2, $3)", team, subject, int(role)
    )
    await db.execute(
        "INSERT INTO tokens (uid, hash, display_name, subject, scope, create_time, creator, expire_time,"
        " revoke_time) VALUES ($1, $2, '', $3, $4, now(), $3, $5, $6)",
        *(new_uid(), hash_token(secret), subject, int(scope), expire_time, revoke_time),
    )
    return secret


async def _run(
    channel: grpc.aio.Channel, scheduler: tuple[tuple[str, str], ...]
) -> quota_pb2.CreateTokenResponse:
    request = quota_pb2.CreateTokenRequest(
        scope=token_pb2.SCOPE_RUN, team=MAIN, run_uid=new_uid(), attempt_uid=new_uid()
    )
    request.ttl.FromSeconds(3600)
    identity = quota_pb2_grpc.IdentityServiceStub(channel)
    return await identity.CreateToken(request, metadata=scheduler)
