"""The wiring of the tracker, to be read from top to bottom."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from typing import Any, NoReturn

import structlog

from cairn.tracker.v1 import (
    evaluation_pb2_grpc,
    keeping_pb2_grpc,
    lineage_pb2_grpc,
    logged_model_pb2_grpc,
    media_pb2_grpc,
    mlflow_file_pb2_grpc,
    mlflow_pb2_grpc,
    promotion_pb2_grpc,
    registry_pb2_grpc,
    sharing_pb2_grpc,
    trace_pb2_grpc,
    tracker_pb2_grpc,
)
from cairn_common import outbox, rpc
from cairn_common.auth import Authenticate, TokenChecker
from cairn_common.bus import Bus, connect
from cairn_common.clock import Clock, SystemClock
from cairn_common.db import Database, pool
from cairn_common.errors import Unavailable
from cairn_common.migrate import migrate
from cairn_common.objects import ObjectStore
from cairn_common.settings import required
from cairn_common.subjects import STREAMS
from cairn_tracker.ahead import LANES, Ahead
from cairn_tracker.api import ACCESS, NAMES
from cairn_tracker.api.artifacts import ArtifactApi
from cairn_tracker.api.evaluations import EvaluationApi
from cairn_tracker.api.keeping import KeepingApi
from cairn_tracker.api.lineage import LineageApi
from cairn_tracker.api.logged_models import LoggedModelApi
from cairn_tracker.api.media import MediaApi
from cairn_tracker.api.mlflow import MlflowApi
from cairn_tracker.api.mlflow_files import MlflowFileApi
from cairn_tracker.api.promotions import PromotionApi
from cairn_tracker.api.registry import RegistryApi
from cairn_tracker.api.runs import TrackerApi
from cairn_tracker.api.sharing import ShareApi
from cairn_tracker.api.traces import TraceApi
from cairn_tracker.artifacts import Artifacts
from cairn_tracker.assessments import Assessments
from cairn_tracker.clickhouse import ClickHouse, clickhouse
from cairn_tracker.collection import Collector
from cairn_tracker.expiry import Expiry
from cairn_tracker.handlers import JobEvents, Steps, reconcile
from cairn_tracker.ingest import Ingest
from cairn_tracker.intake import Intake
from cairn_tracker.keeping import Keeping
from cairn_tracker.logged_models import LoggedModels
from cairn_tracker.mlflow.files import Files
from cairn_tracker.mlflow.uploads import Uploads
from cairn_tracker.pending import Pending
from cairn_tracker.promotions import Promotions
from cairn_tracker.registration import Registrations
from cairn_tracker.registry import Registry
from cairn_tracker.retention import Retention
from cairn_tracker.rounds import every
from cairn_tracker.scrub import Scrub
from cairn_tracker.settings import TrackerSettings
from cairn_tracker.traces import Traces

log = structlog.get_logger(__name__)

SCHEMA = "tracker"
# Seconds after the start in which nothing is collected.
_CALM = 1800.0
# Between two tries to reach a store that is away, or refuses.
_STORE_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of, once its stores are there."""

    db: Database
    store: ClickHouse
    objects: ObjectStore
    ahead: Ahead
    artifacts: Artifacts
    mlflow_files: Files
    uploads: Uploads
    clock: Clock
    collector: Collector
    pending: Pending
    expiry: Expiry
    # Held by whoever works out what metrics come to.
    writing: asyncio.Lock


async def serve(settings: TrackerSettings) -> None:
    """Runs until SIGTERM or SIGINT: then stops accepting, finishes what runs, and returns.

    Raises SettingsError for settings that cannot be used, or a folder that another process has open.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(settings, stop=stop)


async def run(
    settings: TrackerSettings,
    *,
    stop: asyncio.Event,
    clock: Clock | None = None,
    authenticate: Authenticate | None = None,
    ready: Callable[[rpc.Server], None] | None = None,
) -> None:
    """Runs until `stop` is set; tells `ready` the gRPC server once it serves.

    `authenticate` tells whose a token is; without it the quota service is asked.
    """
    required(settings, "postgres_url", "s3_endpoint", "clickhouse_url")
    # A batch is thousands of objects that all live until it is committed: to look through them again and
    # again for what is unreachable takes as long as all else that is done with small messages.
    gc.set_threshold(50_000)
    async with AsyncExitStack() as stack:
        parts = await _parts(settings, clock or SystemClock(), stack)
        tokens = None
        if authenticate is None:
            required(settings, "quota_address")
            quota = await stack.enter_async_context(
                rpc.channel(settings.quota_address, settings.service_token, tls=settings.tls)
            )
            tokens = TokenChecker(quota, parts.clock)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        works = [tasks.create_task(work) for work in _works(settings, parts, tokens)]
        check = authenticate or (tokens.check if tokens is not None else None)
        assert check is not None, "one of the two is set"
        # Callers are answered while the bus, the scheduler or the object store is away.
        async with _server(settings, parts, check) as server:
            if ready is not None:
                ready(server)
            await stop.wait()
        for work in works:
            work.cancel()


async def _parts(settings: TrackerSettings, clock: Clock, stack: AsyncExitStack) -> Parts:
    # The engine first: a second process on the same folder ends here, before it touches anything.
    url = settings.clickhouse_url.get_secret_value()
    store = await stack.enter_async_context(clickhouse(url, readers=settings.clickhouse_readers))
    await store.migrate(files("cairn_tracker") / "migrations" / "clickhouse")
    await migrate(settings.postgres_url, SCHEMA, files("cairn_tracker") / "migrations" / "postgres")
    db = await stack.enter_async_context(pool(settings.postgres_url, schema=SCHEMA))
    objects = ObjectStore(
        settings.s3_endpoint,
        settings.s3_access_key,
        settings.s3_secret_key,
        settings.s3_bucket,
        region=settings.s3_region,
        public_endpoint=settings.s3_public_endpoint or None,
        data_dir=settings.s3_data_dir,
    )
    grace = timedelta(seconds=settings.collection_grace)
    collector = Collector(db=db, objects=objects, clock=clock, grace=grace)
    writing = asyncio.Lock()
    pending = Pending(db=db, store=store, clock=clock, writing=writing)
    ahead = Ahead(objects)
    artifacts = Artifacts(db=db, objects=objects, clock=clock, ahead=ahead)
    mlflow_files = Files(db=db, artifacts=artifacts, clock=clock)
    uploads = Uploads(db=db, objects=objects, artifacts=artifacts, files=mlflow_files, clock=clock)
    return Parts(
        db=db,
        store=store,
        objects=objects,
        ahead=ahead,
        artifacts=artifacts,
        mlflow_files=mlflow_files,
        uploads=uploads,
        clock=clock,
        collector=collector,
        pending=pending,
        expiry=Expiry(db=db, store=store, clock=clock, writing=writing),
        writing=writing,
    )


def _works(settings: TrackerSettings, parts: Parts, tokens: TokenChecker | None) -> Iterator[Any]:
    """All that goes on beside answering calls."""
    yield _on_the_bus(settings, parts, tokens)
    yield parts.pending.keep_going()
    for _ in range(LANES):
        yield parts.ahead.keep_going()
    yield _reconcile(settings, parts)
    yield _ensure_bucket(parts.objects)
    keeping = Keeping(db=parts.db, clock=parts.clock)
    retention = Retention(db=parts.db, keeping=keeping, clock=parts.clock)
    yield every(settings.collection_interval, retention.step, name="retention")
    # A platform that is stopped every evening drops what is old, too.
    soon = min(settings.expiry_interval, settings.collection_interval)
    yield every(settings.expiry_interval, parts.expiry.step, name="expiry", first=soon)
    yield every(settings.collection_interval, parts.uploads.round, name="uploads")
    # What a tracker that was away has not heard yet may keep bytes, too.
    calm = min(settings.collection_grace, _CALM) + settings.collection_interval
    yield every(settings.collection_interval, parts.collector.round, name="collection", first=calm)
    yield every(settings.collection_interval, _scrub(settings, parts).round, name="scrub")


async def _on_the_bus(settings: TrackerSettings, parts: Parts, tokens: TokenChecker | None) -> NoReturn:
    """Takes in job events, follows jobs, tells facts. A bus that stays away is waited for."""
    while True:
        try:
            async with connect(settings.nats_url, seed=settings.nats_seed, name=SCHEMA) as bus:
                await _consume(settings, parts, tokens, bus)
        except Unavailable as error:
            log.warning("tracker.bus_away", error=error.message)
            await asyncio.sleep(1.0)


async def _consume(settings: TrackerSettings, parts: Parts, tokens: TokenChecker | None, bus: Bus) -> None:
    await bus.ensure_stream("TRACKER", STREAMS["TRACKER"])
    await bus.ensure_stream("ATTEMPT", STREAMS["ATTEMPT"])
    ingest = Ingest(
        db=parts.db,
        store=parts.store,
        clock=parts.clock,
        interval=settings.ingest_interval,
        writing=parts.writing,
    )
    jobs = JobEvents(db=parts.db, clock=parts.clock)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(outbox.relay(parts.db, bus))
        tasks.create_task(Intake(bus=bus, db=parts.db, handler=ingest).run())
        tasks.create_task(
            bus.consume(
                stream="ATTEMPT",
                durable="tracker-attempts",
                subjects=list(STREAMS["ATTEMPT"]),
                handler=ingest,
                db=parts.db,
            )
        )
        tasks.create_task(
            bus.consume(
                stream="SCHEDULER",
                durable="tracker-runs",
                subjects=["cairn.v1.scheduler.job.>"],
                handler=jobs,
                db=parts.db,
            )
        )
        tasks.create_task(
            bus.consume(
                stream="SCHEDULER",
                durable="tracker-steps",
                subjects=["cairn.v1.scheduler.attempt.stepped.>"],
                handler=Steps(ingest),
                db=parts.db,
            )
        )
        if tokens is not None:
            tasks.create_task(tokens.follow(bus))


async def _reconcile(settings: TrackerSettings, parts: Parts) -> None:
    seen = parts.collector.jobs_seen
    if not settings.scheduler_address:
        await reconcile(db=parts.db, scheduler=None, clock=parts.clock, seen=seen)
    async with rpc.channel(settings.scheduler_address, settings.service_token, tls=settings.tls) as scheduler:
        await reconcile(db=parts.db, scheduler=scheduler, clock=parts.clock, seen=seen)


async def _ensure_bucket(objects: ObjectStore) -> None:
    while True:
        try:
            await objects.ensure_bucket()
            return
        except Unavailable as error:
            log.warning("tracker.object_store_away", error=error.message)
            await asyncio.sleep(_STORE_PAUSE)


def _scrub(settings: TrackerSettings, parts: Parts) -> Scrub:
    return Scrub(
        db=parts.db,
        objects=parts.objects,
        clock=parts.clock,
        rate=settings.scrub_rate,
        period=timedelta(seconds=settings.scrub_period),
    )


def _server(
    settings: TrackerSettings, parts: Parts, authenticate: Authenticate
) -> AbstractAsyncContextManager[rpc.Server]:
    artifacts = parts.artifacts
    tracker_api = TrackerApi(db=parts.db, store=parts.store, clock=parts.clock)
    artifact_api = ArtifactApi(db=parts.db, artifacts=artifacts, clock=parts.clock)
    media_api = MediaApi(db=parts.db, artifacts=artifacts, clock=parts.clock)
    keeping = Keeping(db=parts.db, clock=parts.clock)
    keeping_api = KeepingApi(
        db=parts.db,
        artifacts=artifacts,
        keeping=keeping,
        collector=parts.collector,
        retention=Retention(db=parts.db, keeping=keeping, clock=parts.clock),
        expiry=parts.expiry,
        scrub=_scrub(settings, parts),
    )
    registry = Registry(db=parts.db, clock=parts.clock)
    registrations = Registrations(db=parts.db, artifacts=artifacts, registry=registry, clock=parts.clock)
    registry_api = RegistryApi(db=parts.db, registry=registry, registrations=registrations)
    trace_api = TraceApi(
        db=parts.db,
        traces=Traces(db=parts.db, clock=parts.clock),
        assessments=Assessments(db=parts.db, clock=parts.clock),
    )
    logged_models = LoggedModels(db=parts.db, clock=parts.clock)
    logged_model_api = LoggedModelApi(models=logged_models)
    promotions = Promotions(db=parts.db, clock=parts.clock)
    promotion_api = PromotionApi(db=parts.db, artifacts=artifacts, promotions=promotions, clock=parts.clock)
    evaluation_api = EvaluationApi(db=parts.db, artifacts=artifacts)
    mlflow_api = MlflowApi(db=parts.db, store=parts.store, pending=parts.pending, clock=parts.clock)
    share_api = ShareApi(db=parts.db, store=parts.store, clock=parts.clock)
    lineage_api = LineageApi(db=parts.db, artifacts=artifacts)
    file_api = MlflowFileApi(files=parts.mlflow_files, uploads=parts.uploads, models=logged_models)
    return rpc.server(
        bind=settings.grpc_bind,
        tls=settings.tls,
        rates=settings.rates(),
        access=ACCESS,
        authenticate=authenticate,
        services=[
            lambda server: tracker_pb2_grpc.add_TrackerServiceServicer_to_server(tracker_api, server),
            lambda server: tracker_pb2_grpc.add_ArtifactServiceServicer_to_server(artifact_api, server),
            lambda server: media_pb2_grpc.add_MediaServiceServicer_to_server(media_api, server),
            lambda server: mlflow_file_pb2_grpc.add_MlflowFileServiceServicer_to_server(file_api, server),
            lambda server: mlflow_pb2_grpc.add_MlflowServiceServicer_to_server(mlflow_api, server),
            lambda server: keeping_pb2_grpc.add_KeepingServiceServicer_to_server(keeping_api, server),
            lambda server: trace_pb2_grpc.add_TraceServiceServicer_to_server(trace_api, server),
            lambda server: registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry_api, server),
            lambda server: logged_model_pb2_grpc.add_LoggedModelServiceServicer_to_server(
                logged_model_api, server
            ),
            lambda server: lineage_pb2_grpc.add_LineageServiceServicer_to_server(lineage_api, server),
            lambda server: sharing_pb2_grpc.add_ShareServiceServicer_to_server(share_api, server),
            lambda server: promotion_pb2_grpc.add_PromotionServiceServicer_to_server(promotion_api, server),
            lambda server: evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(
                evaluation_api, server
            ),
        ],
        names=list(NAMES),
    )
