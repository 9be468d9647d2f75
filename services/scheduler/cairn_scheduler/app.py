"""The wiring of the scheduler, to be read from top to bottom.

Each replica answers callers; the one that has the lease decides (`leading`).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NoReturn

import structlog

from cairn.scheduler.v1 import (
    attach_pb2_grpc,
    infra_pb2_grpc,
    orphan_pb2_grpc,
    outlook_pb2_grpc,
    scheduler_pb2_grpc,
)
from cairn_common import rpc
from cairn_common.auth import TokenChecker
from cairn_common.bus import connect
from cairn_common.cancellation import heed_cancellation
from cairn_common.clock import Clock, SystemClock
from cairn_common.db import pool
from cairn_common.errors import Unavailable
from cairn_common.log import configure_logging
from cairn_common.migrate import migrate
from cairn_common.sealing import reseal
from cairn_common.settings import SettingsError, required
from cairn_scheduler import attach, handlers, lease, orphans, outlook, reach
from cairn_scheduler.api import ACCESS, NAME, SchedulerApi
from cairn_scheduler.inflow import Gate
from cairn_scheduler.intake import Intake
from cairn_scheduler.leading import Bell, Office, Opening, decide_for_ever, open_clusters
from cairn_scheduler.machine import measure
from cairn_scheduler.model import Resources
from cairn_scheduler.places import Place
from cairn_scheduler.quota import Quota
from cairn_scheduler.settings import SchedulerSettings
from cairn_scheduler.sky import cluster as sky
from cairn_scheduler.terms import Reading
from cairn_scheduler.vault import open_vault
from cairn_scheduler.watch import Watch

SCHEMA = "scheduler"
# So long a quota tree that may have changed is decided by: changes are told, and plans name its version.
TREE_SECONDS = 1.0
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
    opening: Opening = open_clusters,
) -> None:
    """Runs until `stop` is set; tells `ready` the gRPC server once it serves. Jobs that run go on.

    `opening` opens the places to run.
    """
    required(settings, "postgres_url", "quota_address", "data_dir")
    assert settings.data_dir is not None
    capacity = measure(cpus=settings.local_cpus, gpus=settings.local_gpus)
    clock = clock or SystemClock()
    await migrate(settings.postgres_url, SCHEMA, files("cairn_scheduler") / "migrations")
    holder = lease.new_holder()
    async with (
        pool(settings.postgres_url, schema=SCHEMA, name=holder) as db,
        rpc.channel(settings.quota_address, settings.service_token, tls=settings.tls) as channel,
        asyncio.TaskGroup() as tasks,
    ):
        _own(settings.data_dir, await lease.platform(db))
        bell, watch, checker = Bell(db), Watch(db), TokenChecker(channel, clock)
        vault = open_vault(settings.secrets_key, settings.secrets_key_old, settings.data_dir)
        await reseal(db, vault.sealer, table="job_secrets", key="job_uid", name="job_uid")
        intake = Intake(db, vault=vault, gate=Gate(Quota(channel)))
        quota = Quota(channel, remember=TREE_SECONDS)
        office = Office(settings, settings.data_dir, capacity, db, quota, clock, bell, vault, opening)
        works = [
            tasks.create_task(_on_the_bus(settings, watch=watch, checker=checker)),
            tasks.create_task(bell.carry()),
            tasks.create_task(intake.run()),
            tasks.create_task(decide_for_ever(office, holder)),
        ]
        # Whether this one decides is known, and if so its places are open: what is asked of them is answered.
        await office.settled.wait()
        places = _places(settings, capacity)
        reading = Reading(Quota(channel), places=lambda: places, clock=clock)
        api = SchedulerApi(
            db,
            places=lambda: places,
            clock=clock,
            watch=watch,
            wake=bell.ring,
            intake=intake,
            reading=reading,
        )
        audit = orphans.OrphanApi(db, clusters=office.clusters)
        looking = outlook.OutlookApi(db, quota=Quota(channel), places=lambda: places, clock=clock)
        reaching = reach.InfraApi(
            db, clusters=office.clusters, clock=clock, forecast=looking.forecast, quota=Quota(channel)
        )
        attaching = attach.AttachApi(db, clock=clock, watch=watch, check=checker.check)
        async with rpc.server(
            bind=settings.grpc_bind,
            access={**ACCESS, **attach.ACCESS, **orphans.ACCESS, **outlook.ACCESS, **reach.ACCESS},
            authenticate=checker.check,
            services=[
                lambda server: scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(api, server),
                lambda server: attach_pb2_grpc.add_AttachServiceServicer_to_server(attaching, server),
                lambda server: infra_pb2_grpc.add_InfraServiceServicer_to_server(reaching, server),
                lambda server: orphan_pb2_grpc.add_OrphanServiceServicer_to_server(audit, server),
                lambda server: outlook_pb2_grpc.add_OutlookServiceServicer_to_server(looking, server),
            ],
            names=[NAME, attach.NAME, orphans.NAME, outlook.NAME, reach.NAME],
            tls=settings.tls,
            rates=settings.rates(),
        ) as server:
            log.info("scheduler.ready", cpu_milli=capacity.cpu_milli, gpus=capacity.gpus)
            if ready is not None:
                ready(server)
            await stop.wait()
        for work in works:
            work.cancel()


def _places(settings: SchedulerSettings, capacity: Resources) -> list[Place]:
    """What there is to run on, as every replica knows it."""
    places = [Place("local", capacity)]
    return [*places, Place(sky.NAME, sky.BOUNDLESS)] if settings.skypilot_url else places


async def _on_the_bus(settings: SchedulerSettings, *, watch: Watch, checker: TokenChecker) -> NoReturn:
    """What every replica needs of the bus; callers are answered without it."""
    while True:
        heed_cancellation()
        try:
            async with connect(settings.nats_url, seed=settings.nats_seed, name=SCHEMA) as bus:
                await handlers.ensure_streams(bus)
                watch.bus = bus
                await checker.follow(bus)
        except Unavailable:
            log.warning("bus.waiting")
        finally:
            watch.bus = None


def _own(folder: Path, platform: str) -> None:
    """Takes the data folder for this platform's schedulers. Raises SettingsError where it is another's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark = folder / "platform"
    try:
        with open(mark, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(platform)
    except FileExistsError:
        if (found := mark.read_text().strip()) not in ("", platform):
            raise SettingsError(
                f"CAIRN_DATA_DIR: {folder} belongs to the platform {found}, this database to {platform}"
            ) from None
