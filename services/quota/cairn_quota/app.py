"""The wiring of the quota service, to be read from top to bottom."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

import structlog

from cairn.quota.v1 import (
    allocation_pb2_grpc,
    audit_pb2_grpc,
    quota_pb2_grpc,
    secret_service_pb2_grpc,
    user_service_pb2_grpc,
    webhook_service_pb2_grpc,
)
from cairn.scheduler.v1 import scheduler_pb2_grpc
from cairn_common import outbox, rpc
from cairn_common.auth import WHO_IS_WHO
from cairn_common.bus import Bus, connect
from cairn_common.clock import Clock, SystemClock
from cairn_common.db import Database, pool
from cairn_common.errors import Unavailable
from cairn_common.log import configure_logging
from cairn_common.migrate import migrate
from cairn_common.once import Once
from cairn_common.sealing import Sealer, keys_of, reseal
from cairn_common.settings import required
from cairn_common.subjects import STREAMS
from cairn_quota.allocation_api import ALLOCATION, ALLOCATION_ACCESS, AllocationApi
from cairn_quota.api import ACCESS, IDENTITY, QUOTA, QuotaApi
from cairn_quota.audit_api import AUDIT, AUDIT_ACCESS, AuditApi
from cairn_quota.authentication import Authenticator
from cairn_quota.authority import Authority
from cairn_quota.bootstrap import bootstrap, read_bootstrap
from cairn_quota.callout import Callout, answer_callouts
from cairn_quota.connection import RECONNECT_WAIT, connection
from cairn_quota.handlers import Metering
from cairn_quota.identity import IdentityApi
from cairn_quota.identity_store import IdentityStore
from cairn_quota.jwt import Issuer
from cairn_quota.kick import Kicker
from cairn_quota.meter import Meter
from cairn_quota.noting import HEARD, Noting
from cairn_quota.oidc import Party, party_of
from cairn_quota.passwords import Passwords
from cairn_quota.plan_store import PlanStore
from cairn_quota.reconcile import Reconciler
from cairn_quota.secret_api import SECRET_ACCESS, SECRETS, SecretApi
from cairn_quota.secret_store import SecretStore
from cairn_quota.settings import QuotaSettings
from cairn_quota.store import Store
from cairn_quota.team_store import TeamStore
from cairn_quota.team_streams import TeamStreams
from cairn_quota.tree_store import TreeStore
from cairn_quota.usage_store import UsageStore
from cairn_quota.user_api import USER_ACCESS, USERS, UserApi
from cairn_quota.user_store import UserStore
from cairn_quota.webhook import Reach
from cairn_quota.webhook_api import WEBHOOK_ACCESS, WEBHOOKS, WebhookApi
from cairn_quota.webhook_facts import TELLABLE, Telling
from cairn_quota.webhook_sender import Sender
from cairn_quota.webhook_store import WebhookStore

SCHEMA = "quota"
# What changes what is held or owed: nothing is when a job comes, or is on its way to its place.
JOBS = [
    f"cairn.v1.scheduler.job.{event}.>"
    for event in (
        "admitted",
        "running",
        "priced",
        "recovering",
        "requeued",
        "held",
        "preempting",
        "preempted",
        "stopping",
        "finished",
    )
]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of, once its database is there."""

    db: Database
    teams: TeamStore
    store: Store
    authority: Authority
    identities: IdentityStore
    authenticator: Authenticator
    # None: there is no key to keep webhooks and secrets by.
    sealer: Sealer | None
    vault: Sealer | None
    sender: Sender | None
    streams: TeamStreams
    # None: there is no single sign-on.
    party: Party | None
    clock: Clock

    @classmethod
    def over(cls, db: Database, clock: Clock, settings: QuotaSettings | None = None) -> Parts:
        """All parts over one database; without settings none that tell others. Raises SettingsError."""
        keys = _keys(settings) if settings is not None else []
        sealer = Sealer(*keys, purpose=b"cairn-webhooks") if keys else None
        reach = Reach.of(settings.webhook_networks if settings is not None else "")
        identities = IdentityStore(db)
        authority = Authority(db)
        teams = TeamStore(db)
        most, total = (settings.job_stream_bytes, settings.job_streams_bytes) if settings else (2**30, 2**33)
        return cls(
            db=db,
            teams=teams,
            streams=TeamStreams(teams, total=total, most=most),
            store=Store(db, authority),
            authority=authority,
            identities=identities,
            authenticator=Authenticator(identities, clock),
            sealer=sealer,
            vault=Sealer(*keys, purpose=b"cairn-secrets") if keys else None,
            sender=Sender(WebhookStore(db), sealer, reach, clock) if sealer is not None else None,
            party=party_of(settings) if settings is not None else None,
            clock=clock,
        )


def _keys(settings: QuotaSettings) -> list[str]:
    """Without any where there is neither a key nor a folder to keep one in."""
    given = settings.secrets_key.get_secret_value() or settings.secrets_key_old.get_secret_value()
    if not given and settings.data_dir is None:
        return []
    return keys_of(settings.secrets_key, settings.secrets_key_old, settings.data_dir or Path())


async def _reseal(parts: Parts) -> None:
    """What is kept under an earlier key is kept under the present one from now on."""
    if parts.sealer is not None and parts.vault is not None:
        await reseal(parts.db, parts.sealer, table="webhooks", key="uid", name="uid")
        await reseal(
            parts.db, parts.vault, table="secrets", key="uid", name="owner || '/secrets/' || variable"
        )


async def serve(settings: QuotaSettings) -> None:
    """Runs until SIGTERM or SIGINT. Raises SettingsError for settings that cannot be used."""
    configure_logging(SCHEMA, settings.log_level)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(settings, stop=stop)


async def run(
    settings: QuotaSettings,
    *,
    stop: asyncio.Event,
    clock: Clock | None = None,
    ready: Callable[[rpc.Server], None] | None = None,
) -> None:
    """Runs until `stop` is set; tells `ready` the gRPC server once it serves."""
    required(settings, "postgres_url")
    first = read_bootstrap(settings.bootstrap) if settings.bootstrap else None
    await migrate(settings.postgres_url, SCHEMA, files("cairn_quota") / "migrations")
    async with pool(settings.postgres_url, schema=SCHEMA) as db, asyncio.TaskGroup() as tasks:
        parts = Parts.over(db, clock or SystemClock(), settings)
        if first is not None:
            await bootstrap(
                first,
                teams=parts.teams,
                users=UserStore(db),
                identities=parts.identities,
                clock=parts.clock,
            )
        await _reseal(parts)
        works = [tasks.create_task(work) for work in _works(settings, parts)]
        # Needs nothing but the database: callers are answered while the bus or the scheduler is away.
        async with _server(settings, parts) as server:
            if ready is not None:
                ready(server)
            await stop.wait()
        for work in works:
            work.cancel()


def _server(settings: QuotaSettings, parts: Parts) -> AbstractAsyncContextManager[rpc.Server]:
    once = Once(parts.db, parts.clock)
    quota = QuotaApi(parts.teams, parts.store, once, parts.clock)
    allocation = AllocationApi(
        parts.authority,
        TreeStore(parts.db, parts.authority),
        PlanStore(parts.authority),
        UsageStore(parts.db),
        parts.clock,
    )
    identity = IdentityApi(parts.identities, parts.authenticator, once, parts.clock)
    hooks = WebhookApi(WebhookStore(parts.db), parts.sealer, once, parts.clock)
    hidden = SecretApi(SecretStore(parts.db), parts.vault, parts.clock)
    noted = AuditApi(parts.db, parts.clock)
    users = UserApi(parts.db, Passwords(), parts.clock, parts.party)
    return rpc.server(
        bind=settings.grpc_bind,
        tls=settings.tls,
        rates=settings.rates(),
        access={
            **ACCESS,
            **ALLOCATION_ACCESS,
            **USER_ACCESS,
            **AUDIT_ACCESS,
            **WEBHOOK_ACCESS,
            **SECRET_ACCESS,
        },
        authenticate=parts.authenticator,
        services=[
            lambda server: quota_pb2_grpc.add_QuotaServiceServicer_to_server(quota, server),
            lambda server: quota_pb2_grpc.add_IdentityServiceServicer_to_server(identity, server),
            lambda server: allocation_pb2_grpc.add_AllocationServiceServicer_to_server(allocation, server),
            lambda server: user_service_pb2_grpc.add_UserServiceServicer_to_server(users, server),
            lambda server: audit_pb2_grpc.add_AuditServiceServicer_to_server(noted, server),
            lambda server: webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server(hooks, server),
            lambda server: secret_service_pb2_grpc.add_SecretServiceServicer_to_server(hidden, server),
        ],
        names=[QUOTA, IDENTITY, ALLOCATION, USERS, AUDIT, WEBHOOKS, SECRETS],
    )


def _works(settings: QuotaSettings, parts: Parts) -> Iterator[Coroutine[Any, Any, NoReturn]]:
    """What runs beside the gRPC server."""
    yield _on_the_bus(settings, parts)
    yield Meter(parts.store, parts.clock).run()
    if parts.sender is not None:
        yield parts.sender.run()
    if settings.scheduler_address:
        yield _reconcile(settings, parts)
    else:
        log.warning("reconcile.off", missing="CAIRN_SCHEDULER_ADDRESS")
    issuer = settings.nats_issuer_seed.get_secret_value()
    seed = settings.nats_callout_seed.get_secret_value()
    if issuer and seed:
        callout = Callout(
            Issuer(issuer), parts.authenticator, parts.clock, settings.nats_account, parts.streams
        )
        yield answer_callouts(callout, url=settings.nats_url, seed=seed)
    else:
        log.warning("callout.off", missing="CAIRN_NATS_ISSUER_SEED or CAIRN_NATS_CALLOUT_SEED")


async def _on_the_bus(settings: QuotaSettings, parts: Parts) -> NoReturn:
    """Tells and hears, whenever the bus is there."""
    while True:
        try:
            async with connect(settings.nats_url, seed=settings.nats_seed, name=SCHEMA) as bus:
                await _talk(bus, settings, parts)
        except Unavailable as error:
            log.warning("bus.waiting", reason=str(error.reason))


async def _talk(bus: Bus, settings: QuotaSettings, parts: Parts) -> None:
    await bus.ensure_stream("QUOTA", STREAMS["QUOTA"])
    metering = Metering(parts.store, parts.clock)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(outbox.relay(parts.db, bus))
        tasks.create_task(parts.streams.keep(bus))
        tasks.create_task(
            bus.consume(
                stream="SCHEDULER",
                durable="quota-metering",
                subjects=JOBS,
                handler=metering,
                db=parts.db,
            )
        )
        for stream, heard in HEARD.items():
            tasks.create_task(
                bus.consume(
                    stream=stream,
                    durable="quota-audit",
                    subjects=heard,
                    handler=Noting(parts.db),
                    db=parts.db,
                )
            )
        if parts.sender is not None:
            telling = Telling(WebhookStore(parts.db), parts.clock, parts.sender.wake)
            for stream, tellable in TELLABLE.items():
                tasks.create_task(
                    bus.consume(
                        stream=stream,
                        durable="quota-webhooks",
                        subjects=tellable,
                        handler=telling,
                        db=parts.db,
                    )
                )
        if seed := settings.nats_system_seed.get_secret_value():
            tasks.create_task(_kick(bus, settings.nats_url, seed, parts.db))


async def _kick(bus: Bus, url: str, seed: str, db: Database) -> NoReturn:
    while True:
        async with connection(url, seed=seed, name="quota-system") as system, asyncio.TaskGroup() as tasks:
            work = tasks.create_task(
                bus.consume(
                    stream="QUOTA",
                    durable="quota-kick",
                    subjects=WHO_IS_WHO,
                    handler=Kicker(system.client, IdentityStore(db).good_tokens),
                    db=db,
                )
            )
            await system.closed.wait()
            work.cancel()
        await asyncio.sleep(RECONNECT_WAIT)


async def _reconcile(settings: QuotaSettings, parts: Parts) -> NoReturn:
    async with rpc.channel(settings.scheduler_address, settings.service_token, tls=settings.tls) as channel:
        await Reconciler(parts.store, scheduler_pb2_grpc.SchedulerServiceStub(channel), parts.clock).run()
