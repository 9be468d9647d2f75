"""What only the scheduler that decides does: clusters, the loop, custody, telling and hearing facts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import structlog

from cairn_common import outbox
from cairn_common.bus import Bus, connect
from cairn_common.cancellation import heed_cancellation
from cairn_common.clock import Clock
from cairn_common.db import Database
from cairn_common.errors import Unavailable
from cairn_scheduler import handlers, lease
from cairn_scheduler.cluster import Cluster
from cairn_scheduler.custody import Custody
from cairn_scheduler.lease import Fenced, Lead
from cairn_scheduler.local import open_local
from cairn_scheduler.loop import Loop
from cairn_scheduler.model import Resources
from cairn_scheduler.outside import Outside
from cairn_scheduler.quota import Quota
from cairn_scheduler.recent import Recent
from cairn_scheduler.settings import SchedulerSettings
from cairn_scheduler.sky.opening import open_sky
from cairn_scheduler.sky.order import Surroundings
from cairn_scheduler.vault import Vault

log = structlog.get_logger(__name__)

WAKE = "scheduler_wake"
_PAUSE = 0.5


class Bell:
    """Wakes the loop that decides, here or in another process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.here: Callable[[], None] | None = None
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Something has changed: look again now."""
        if self.here is not None:
            self.here()
        else:
            self._rung.set()

    async def carry(self) -> NoReturn:
        """Tells the others, for ever."""
        while True:
            heed_cancellation()
            await self._rung.wait()
            self._rung.clear()
            try:
                await self._db.execute("SELECT pg_notify($1, '')", WAKE)
            except Unavailable:
                # The other looks again every 15 s in any case.
                log.warning("bell.not_heard")


@dataclass(frozen=True, slots=True)
class Office:
    """What deciding takes."""

    settings: SchedulerSettings
    data_dir: Path
    capacity: Resources
    db: Database
    quota: Quota
    clock: Clock
    bell: Bell
    vault: Vault
    # Opens the places to run, once this process decides.
    opening: Opening
    # Those of this process while it decides, else none.
    clusters: dict[str, Cluster] = field(default_factory=dict)
    # Whether this process decides, or another, is known.
    settled: asyncio.Event = field(default_factory=asyncio.Event)


Opening = Callable[[Office], AbstractAsyncContextManager[Sequence[Cluster]]]


async def decide_for_ever(office: Office, holder: str) -> NoReturn:
    """Waits for the lease, and decides for as long as nobody else does."""
    while True:
        heed_cancellation()
        try:
            async with lease.held(office.db, holder, waiting=office.settled.set) as lead:
                await _decide(office, lead)
        except* Fenced:
            log.warning("lease.lost")
            # Whoever has it lives; asking at once would only be in its way.
            await asyncio.sleep(_PAUSE)


async def _decide(office: Office, lead: Lead) -> None:
    db, clock, quota, vault = office.db, office.clock, office.quota, office.vault
    async with _clusters(office) as clusters, asyncio.TaskGroup() as tasks:
        outside = Outside(
            db=db, lead=lead, quota=quota, clusters=clusters, clock=clock, vault=vault, recent=Recent(db)
        )
        loop = Loop(outside)
        custody = Custody(db=db, lead=lead, quota=quota, clusters=clusters, clock=clock)
        office.bell.here = loop.wake
        try:
            tasks.create_task(lead.keep())
            tasks.create_task(_hear_bell(db, loop.wake))
            tasks.create_task(_on_the_bus(office, lead, loop.wake))
            tasks.create_task(loop.listen(list(clusters.values())))
            tasks.create_task(loop.run())
            await custody.run(loop.tidy)
        finally:
            office.bell.here = None


@asynccontextmanager
async def _clusters(office: Office) -> AsyncIterator[Mapping[str, Cluster]]:
    async with office.opening(office) as opened:
        office.clusters.update({cluster.name: cluster for cluster in opened})
        office.settled.set()
        try:
            yield office.clusters
        finally:
            office.clusters.clear()


@asynccontextmanager
async def open_clusters(office: Office) -> AsyncIterator[Sequence[Cluster]]:
    """This machine, and what SkyPilot reaches."""
    settings = office.settings
    async with (
        open_local(
            office.data_dir,
            capacity=office.capacity,
            url=settings.public_url,
            bus_url=settings.public_nats_url or settings.nats_url,
            environments_bytes=settings.local_environments_gib * 2**30,
        ) as local,
        _elsewhere(settings, office.data_dir) as others,
    ):
        yield [local, *others]


@asynccontextmanager
async def _elsewhere(settings: SchedulerSettings, data_dir: Path) -> AsyncIterator[list[Cluster]]:
    """What SkyPilot reaches, where there is one."""
    if not settings.skypilot_url:
        yield []
        return
    async with open_sky(
        data_dir / "sky",
        api_url=settings.skypilot_url,
        provision_seconds=settings.skypilot_provision_seconds,
        around=Surroundings(settings.public_url, settings.public_nats_url or settings.nats_url),
        nats_url=settings.nats_url,
        seed=settings.nats_seed,
        look_seconds=settings.skypilot_look_seconds,
    ) as cluster:
        yield [cluster]


async def _hear_bell(db: Database, wake: Callable[[], None]) -> NoReturn:
    while True:
        heed_cancellation()
        closed = asyncio.Event()
        try:
            async with db.dedicated() as connection:
                connection.add_termination_listener(lambda _, closed=closed: closed.set())
                await connection.add_listener(WAKE, lambda *_: wake())
                wake()
                heed_cancellation()
                await closed.wait()
        except Unavailable:
            log.info("bell.waiting")
        await asyncio.sleep(_PAUSE)


async def _on_the_bus(office: Office, lead: Lead, wake: Callable[[], None]) -> NoReturn:
    """Tells and hears, whenever the bus is there."""
    settings = office.settings

    def changed() -> None:
        office.quota.forget_tree()
        wake()

    facts = handlers.QuotaFacts(wake=changed)
    checkpoints = handlers.Checkpoints(db=office.db, lead=lead, clock=office.clock)
    while True:
        heed_cancellation()
        try:
            async with connect(settings.nats_url, seed=settings.nats_seed, name="scheduler-loop") as bus:
                await _talk(bus, office.db, facts=facts, checkpoints=checkpoints)
        except* Unavailable:
            log.warning("bus.waiting")


async def _talk(
    bus: Bus, db: Database, *, facts: handlers.QuotaFacts, checkpoints: handlers.Checkpoints
) -> None:
    await handlers.ensure_streams(bus)
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
