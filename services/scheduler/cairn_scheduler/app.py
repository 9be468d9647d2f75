"""The wiring of the scheduler, to be read from top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

import structlog

from cairn.scheduler.v1 import attach_pb2_grpc, infra_pb2_grpc, orphan_pb2_grpc, scheduler_pb2_grpc
from cairn_common import outbox, rpc
from cairn_common.auth import TokenChecker
from cairn_common.bus import Bus, connect
from cairn_common.clock import Clock, SystemClock
from cairn_common.db import Database, pool
from cairn_common.errors import Unavailable
from cairn_common.log import configure_logging
from cairn_common.migrate import migrate
from cairn_common.settings import SettingsError, required
from cairn_common.subjects import STREAMS
from cairn_scheduler import attach, handlers, orphans, reach
from cairn_scheduler.api import ACCESS, NAME, SchedulerApi
from cairn_scheduler.cluster import Cluster
from cairn_scheduler.custody import Custody
from cairn_scheduler.local import open_local
from cairn_scheduler.loop import Loop, Outside
from cairn_scheduler.machine import measure
from cairn_scheduler.quota import Quota
from cairn_scheduler.settings import SchedulerSettings
from cairn_scheduler.sky.opening import open_sky
from cairn_scheduler.sky.order import Surroundings
from cairn_scheduler.vault import open_vault
from cairn_scheduler.watch import STREAM, Watch

SCHEMA = "scheduler"
_LOCK_SECONDS = 15.0
log = structlog.get_logger(__name__)


async def serve(settings: SchedulerSettings) -> None:
    """Runs until SIGTERM or SIGINT. Raises SettingsError for settings that cannot be used."""
    configure_logging(SCHEMA, settings.log_level)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(settings, stop=stop)


async def run(
    settings: SchedulerSettings,
    *,
    stop: asyncio.Event,
    clock: Clock | None = None,
    ready: Callable[[rpc.Server], None] | None = None,
) -> None:
    """Runs until `stop` is set; tells `ready` the gRPC server once it serves. Jobs that run go on."""
    required(settings, "postgres_url", "quota_address", "data_dir")
    assert settings.data_dir is not None
    capacity = measure(cpus=settings.local_cpus, gpus=settings.local_gpus)
    clock = clock or SystemClock()
    await migrate(settings.postgres_url, SCHEMA, files("cairn_scheduler") / "migrations")
    async with (
        _alone(settings.data_dir),
        pool(settings.postgres_url, schema=SCHEMA) as db,
        rpc.channel(settings.quota_address, settings.service_token) as channel,
        open_local(
            settings.data_dir,
            capacity=capacity,
            url=settings.public_url,
            bus_url=settings.public_nats_url or settings.nats_url,
            environments_bytes=settings.local_environments_gib * 2**30,
        ) as local,
        _elsewhere(settings, settings.data_dir) as others,
        asyncio.TaskGroup() as tasks,
    ):
        clusters: dict[str, Cluster] = {cluster.name: cluster for cluster in (local, *others)}
        quota = Quota(channel)
        vault = open_vault(settings.secrets_key, settings.data_dir)
        loop = Loop(Outside(db=db, quota=quota, clusters=clusters, clock=clock, vault=vault))
        custody = Custody(db=db, quota=quota, clusters=clusters, clock=clock)
        checker = TokenChecker(channel, clock)
        watch = Watch(db)
        facts = handlers.QuotaFacts(wake=loop.wake, forget=checker.forget)
        checkpoints = handlers.Checkpoints(db=db, clock=clock)
        works = [
            tasks.create_task(_on_the_bus(settings, db, facts=facts, checkpoints=checkpoints, watch=watch)),
            *(tasks.create_task(loop.listen(cluster)) for cluster in clusters.values()),
            tasks.create_task(loop.run()),
            tasks.create_task(custody.run(loop.tidy)),
        ]
        api = SchedulerApi(db, clusters=clusters, clock=clock, watch=watch, wake=loop.wake, vault=vault)
        audit = orphans.OrphanApi(db, clusters=clusters)
        reaching = reach.InfraApi(clusters=clusters, clock=clock)
        attaching = attach.AttachApi(db, clock=clock, watch=watch, check=checker.check)
        async with rpc.server(
            bind=settings.grpc_bind,
            access={**ACCESS, **attach.ACCESS, **orphans.ACCESS, **reach.ACCESS},
            authenticate=checker.check,
            services=[
                lambda server: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(api, server),
                lambda server: attach_pb2_grpc.add_AttachServiceServicer_to_server(attaching, server),
                lambda server: infra_pb2_grpc.add_InfraServiceServicer_to_server(reaching, server),
                lambda server: orphan_pb2_grpc.add_OrphanServiceServicer_to_server(audit, server),
            ],
            names=[NAME, attach.NAME, orphans.NAME, reach.NAME],
        ) as server:
            log.info("scheduler.ready", cpu_milli=capacity.cpu_milli, gpus=capacity.gpus)
            if ready is not None:
                ready(server)
            await stop.wait()
        for work in works:
            work.cancel()


@contextlib.asynccontextmanager
async def _elsewhere(settings: SchedulerSettings, data_dir: Path) -> AsyncIterator[list[Cluster]]:
    """What SkyPilot reaches, where there is one."""
    if not settings.skypilot_url:
        yield []
        return
    async with open_sky(
        data_dir / "sky",
        api_url=settings.skypilot_url,
        around=Surroundings(settings.public_url, settings.public_nats_url or settings.nats_url),
        nats_url=settings.nats_url,
        seed=settings.nats_seed,
    ) as cluster:
        yield [cluster]


async def _on_the_bus(
    settings: SchedulerSettings,
    db: Database,
    *,
    facts: handlers.QuotaFacts,
    checkpoints: handlers.Checkpoints,
    watch: Watch,
) -> NoReturn:
    """Tells and hears, whenever the bus is there; callers are answered without it."""
    while True:
        try:
            async with connect(settings.nats_url, seed=settings.nats_seed, name=SCHEMA) as bus:
                await _talk(bus, db, facts=facts, checkpoints=checkpoints, watch=watch)
        except* Unavailable:
            log.warning("bus.waiting")
        finally:
            watch.bus = None


async def _talk(
    bus: Bus, db: Database, *, facts: handlers.QuotaFacts, checkpoints: handlers.Checkpoints, watch: Watch
) -> None:
    await bus.ensure_stream(STREAM, STREAMS[STREAM])
    # The tracker's to make; whoever comes first makes the same.
    await bus.ensure_stream("TRACKER", STREAMS["TRACKER"])
    watch.bus = bus
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(outbox.relay(db, bus))
        tasks.create_task(
            bus.consume(
                stream="QUOTA",
                durable="scheduler-quota",
                subjects=handlers.SUBJECTS,
                handler=facts,
                db=db,
            )
        )
        tasks.create_task(
            bus.consume(
                stream="TRACKER",
                durable="scheduler-tracker",
                subjects=handlers.COMMITTED,
                handler=checkpoints,
                db=db,
            )
        )


@contextlib.asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    """Holds the data folder for this process. Raises SettingsError where another scheduler has it."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(_LOCK_SECONDS):
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # One that stops just now lets go within its grace; the kernel has no event for it.
                    await asyncio.sleep(0.2)
    except TimeoutError:
        os.close(handle)
        raise SettingsError(f"CAIRN_DATA_DIR: another scheduler works in {folder}") from None
    try:
        yield
    finally:
        os.close(handle)
