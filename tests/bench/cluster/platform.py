"""The services that are measured, each a process of its own, on real servers; any of them can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from grpc import aio

from cairn.quota.v1 import allocation_pb2, allocation_pb2_grpc
from cairn.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from cairn_common.db import Database, pool
from cairn_common.rpc import channel
from cairn_server import ports
from tests.bench.cluster.timed import FILE, GPUS
from tests.harness import servers
from tests.harness.quota import Tokens
from tests.harness.service_process import ServiceProcess

# What Python is to run: a scheduler at a place where time ends jobs.
ARGUMENTS = {"quota": (), "scheduler": ("-m", "tests.bench.cluster.serve")}
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Platform:
    """Quota, scheduler, PostgreSQL (which waits for the disk) and NATS with JetStream."""

    folder: Path
    postgres: servers.Postgres
    nats: servers.Nats
    services: dict[str, ServiceProcess]
    addresses: dict[str, str]
    tokens: Tokens
    stack: AsyncExitStack
    databases: dict[str, Database] = field(default_factory=dict)

    @property
    def journal(self) -> Path:
        """What happened at the place where jobs run."""
        return self.folder / "data" / FILE

    async def jobs(self) -> scheduler_pb2_grpc.SchedulerServiceAsyncStub:
        """The scheduler, for the admin, over a connection of its own."""
        made = await self._channel("scheduler")
        return scheduler_pb2_grpc.SchedulerServiceStub(made)

    async def allocation(self) -> allocation_pb2_grpc.AllocationServiceAsyncStub:
        """The quota service, for the admin."""
        return allocation_pb2_grpc.AllocationServiceStub(await self._channel("quota"))

    async def apply_tree(self, document: str) -> None:
        """Another tree."""
        request = allocation_pb2.ApplyTreeRequest(document=document)
        await (await self.allocation()).ApplyTree(request, timeout=120)

    async def database(self, schema: str) -> Database:
        """A service's tables."""
        if schema not in self.databases:
            url = _url(self.postgres, schema)
            made = pool(url, schema=schema, size=2, name="cairn-bench")
            self.databases[schema] = await self.stack.enter_async_context(made)
        return self.databases[schema]

    async def serves(self, name: str, *, timeout: float = 60.0) -> None:
        """Waits until a service answers what its database must be there for."""
        async with asyncio.timeout(timeout), channel(self.addresses[name], self.tokens.admin) as calls:
            while True:
                try:
                    await _ask(name, calls)
                    return
                except aio.AioRpcError:
                    await asyncio.sleep(0.02)

    def cpu_seconds(self) -> dict[str, float]:
        """What each process, with all below it, has used so far."""
        pids = {name: service.pid for name, service in self.services.items()}
        pids |= {"postgres": self.postgres.pid, "nats": self.nats.pid, "client": os.getpid()}
        return {name: round(_used(pid, below=name == "postgres"), 1) for name, pid in pids.items()}

    async def _channel(self, service: str) -> aio.Channel:
        made: aio.Channel = await self.stack.enter_async_context(
            channel(self.addresses[service], self.tokens.admin)
        )
        return made


async def _ask(name: str, calls: aio.Channel) -> None:
    if name == "quota":
        stub = allocation_pb2_grpc.AllocationServiceStub(calls)
        await stub.GetTree(allocation_pb2.GetTreeRequest(), timeout=2)
    else:
        request = scheduler_pb2.ListJobsRequest(parent="teams/main", page_size=1)
        await scheduler_pb2_grpc.SchedulerServiceStub(calls).ListJobs(request, timeout=2)


def _url(postgres: servers.Postgres, schema: str) -> str:
    return postgres.create_schema("cairn", schema)


def _used(pid: int, *, below: bool) -> float:
    total = 0.0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        mine = int(folder.name) == pid
        if mine or (below and int(fields[1]) == pid):
            # Of those that it has waited for, too: PostgreSQL has a process for each connection.
            ticks = fields[11:15] if mine else fields[11:13]
            total += sum(map(int, ticks)) / _TICKS
    return total


@asynccontextmanager
async def running(tree: str, *, gpus: int = 0) -> AsyncIterator[Platform]:
    """All of it for the block, under this quota tree; `gpus`: what the place has (0: no bound)."""
    # Ended from outside it leaves no process behind.
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with tempfile.TemporaryDirectory(prefix="cairn-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "data").mkdir()
        # From this thread: they end with it, whatever happens.
        postgres, nats = servers.start_postgres(folder / "pg"), servers.start_nats(folder / "nats")
        postgres.create_database("cairn")
        tokens = Tokens()
        taken = ports.free(["quota", "scheduler"])
        addresses = {service: f"127.0.0.1:{port}" for service, port in taken.items()}
        common = {
            "PYTHONPATH": os.getcwd(),
            "CAIRN_NATS_URL": nats.url,
            "CAIRN_LOG_LEVEL": os.environ.get("CAIRN_LOG_LEVEL", "WARNING"),
            "CAIRN_QUOTA_ADDRESS": addresses["quota"],
            "CAIRN_SCHEDULER_ADDRESS": addresses["scheduler"],
            "CAIRN_BOOTSTRAP": str(tokens.write(folder / "bootstrap.json")),
            "CAIRN_DATA_DIR": str(folder / "data"),
            "CAIRN_LOCAL_GPUS": "1024",
            "CAIRN_LOCAL_CPUS": "100000",
            GPUS: str(gpus),
        }
        services = {
            one: ServiceProcess(
                one,
                common
                | {
                    "CAIRN_GRPC_BIND": addresses[one],
                    "CAIRN_SERVICE_TOKEN": tokens.services[one],
                    "CAIRN_POSTGRES_URL": _url(postgres, one),
                },
                folder / f"{one}.log",
                arguments,
            )
            for one, arguments in ARGUMENTS.items()
        }
        try:
            async with AsyncExitStack() as stack:
                made = Platform(folder, postgres, nats, services, addresses, tokens, stack)
                services["quota"].start()
                await made.serves("quota")
                # Before the scheduler's first call: who a caller is, is remembered for a while.
                await made.apply_tree(tree)
                services["scheduler"].start()
                await made.serves("scheduler")
                yield made
        except BaseException as error:
            for one in services.values():
                error.add_note(f"{one.name}:\n{one.log.read_text(errors='replace')[-3000:]}")
            raise
        finally:
            for one in services.values():
                one.kill()
            nats.stop()
            postgres.stop()
