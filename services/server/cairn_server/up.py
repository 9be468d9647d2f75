"""`cairn up`: embedded servers, then services, kept running until somebody says stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from cairn_server import SERVICES, bootstrap, credentials, login, logs, ports, processes, services
from cairn_server import home as homes
from cairn_server.backends import nats, postgres, s3, skypilot
from cairn_server.backends.program import Program, SetupError
from cairn_server.credentials import Credentials
from cairn_server.home import Home
from cairn_server.services import Wiring
from cairn_server.supervisor import Supervisor, stop_leftovers

log = structlog.get_logger()

_EMBEDDED = ("postgres", "nats", "s3")
_SKYPILOT = "skypilot"
_LOOK_AFTER_LOGS = 60.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STORES = {"postgres": "CAIRN_POSTGRES_URL", "nats": "CAIRN_NATS_URL", "s3": "CAIRN_S3_ENDPOINT"}


@dataclass(frozen=True, slots=True)
class Request:
    """What the operator asked for. `operator` is the environment that `cairn up` was started with."""

    data: Path
    only: tuple[str, ...] = ()
    port: int | None = None
    # Whether SkyPilot's API server is to run here as well.
    skypilot: bool = False
    operator: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a person needs to begin. `hint` says how to log in where the login was not written."""

    url: str
    token: str = field(repr=False)
    data: Path
    hint: str | None
    # A link, good once, by which the first admin sets a password; None once that is done.
    setup: str | None = None


async def run(request: Request, *, announce: Callable[[Ready], None]) -> None:
    """Brings the platform up, calls `announce` once when it answers, and returns after SIGINT or SIGTERM.

    Raises `SetupError` where this machine or folder does not allow it, `StartError` where a process does
    not come up. A second signal kills what has not stopped yet.
    """
    home = homes.prepare(request.data)
    with homes.locked(home):
        await asyncio.to_thread(stop_leftovers, homes.read_json(home.state).get("children", []))
        board = _Board(home, skypilot=request.operator.get(skypilot.URL_SETTING, ""))
        board.show("starting")
        task = asyncio.create_task(_platform(request, home=home, board=board, announce=announce))
        with _signals(task, board):
            try:
                await task
            except asyncio.CancelledError:
                pass
            finally:
                board.show("stopped")
        log.info("platform.stopped", data=str(home.root))


async def _platform(
    request: Request, *, home: Home, board: _Board, announce: Callable[[Ready], None]
) -> None:
    plan = _Plan.make(request, home)
    async with board.supervisor.running(plan.servers()):
        wiring = await plan.wiring()
        if board.stop.is_set():
            return  # the database's client can swallow a cancellation
        async with board.supervisor.running(plan.services(wiring)), _log_keeper(home):
            board.url = wiring.public_url
            board.show("ready")
            announce(await asyncio.to_thread(_ready, request, home=home, plan=plan, wiring=wiring))
            try:
                await board.stop.wait()
            finally:
                board.show("stopping")


@dataclass
class _Board:
    """Keeps `run/state.json` true: written at each change, read by `cairn status`."""

    home: Home
    url: str = ""
    # SkyPilot's API server, where it is one elsewhere.
    skypilot: str = ""
    state: str = "starting"
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    supervisor: Supervisor = field(init=False)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(self.home.logs, self._write)

    def show(self, state: str) -> None:
        """Sets the platform's state."""
        self.state = state
        self._write()

    def _write(self) -> None:
        children = [
            {
                "name": child.program.name,
                "pid": child.pid,
                "began": child.began,
                "state": child.state,
                "port": child.program.port,
                "restarts": child.restarts,
            }
            for child in self.supervisor.children
        ]
        me = {
            "pid": os.getpid(),
            "began": processes.start_time(os.getpid()),
            "url": self.url,
            "skypilot": self.skypilot,
        }
        try:
            homes.write_private(self.home.state, json.dumps(me | {"state": self.state, "children": children}))
        except SetupError as error:
            # A full disk must not end the supervisor: it is needed most then.
            log.warning("state.unwritten", error=str(error))


@dataclass(frozen=True)
class _Plan:
    """Which processes, on which ports, with which secrets."""

    request: Request
    home: Home
    names: tuple[str, ...]
    ports: Mapping[str, int]
    credentials: Credentials

    @classmethod
    def make(cls, request: Request, home: Home) -> _Plan:
        """Chooses ports, reads or makes the secrets, and writes the config files."""
        secrets = credentials.load(home)
        numbers = ports.assign(home.ports, (*_EMBEDDED, _SKYPILOT, *SERVICES, ports.HTTP), http=request.port)
        homes.write_private(home.config / "bootstrap.json", secrets.bootstrap())
        homes.write_private(home.config / "accounts.conf", nats.accounts(secrets.nats))
        names = services.complete(request.only, request.operator)
        return cls(request, home, names, numbers, secrets)

    def servers(self) -> list[Program]:
        """The embedded servers that no URL replaces and that some service needs."""
        prepare = {"postgres": self._postgres, "nats": self._nats, "s3": self._s3}
        return [prepare[name]() for name in _EMBEDDED if self._embedded(name)]

    def services(self, wiring: Wiring) -> list[Program]:
        """The services that were asked for, and beside them SkyPilot, which only jobs wait for."""
        operator = self.request.operator
        return ([self._skypilot()] if self._starts_skypilot else []) + [
            services.program(name, wiring=wiring, credentials=self.credentials, operator=operator)
            for name in self.names
        ]

    async def wiring(self) -> Wiring:
        """Where everything is, once the database is there and has its roles."""
        operator, root = self.request.operator, self.home.root
        admin = operator.get(_STORES["postgres"]) or postgres.url(
            port=self.ports["postgres"], password=self.credentials.postgres[postgres.SUPERUSER]
        )
        roles = {role: self.credentials.postgres[role] for role in credentials.DATABASE_ROLES}
        bind = operator.get("CAIRN_HTTP_BIND") or f"127.0.0.1:{self.ports[ports.HTTP]}"
        return Wiring(
            root=root,
            ports=self.ports,
            http_bind=bind,
            public_url=operator.get("CAIRN_PUBLIC_URL") or f"http://127.0.0.1:{bind.rpartition(':')[2]}",
            nats_url=operator.get(_STORES["nats"]) or f"nats://127.0.0.1:{self.ports['nats']}",
            postgres_urls=await bootstrap.bootstrap(admin, roles),
            s3_endpoint=operator.get(_STORES["s3"]) or f"http://127.0.0.1:{self.ports['s3']}",
            clickhouse_url=operator.get("CAIRN_CLICKHOUSE_URL") or f"chdb://{root / 'clickhouse'}",
            embedded_s3=None if operator.get(_STORES["s3"]) else root / "s3",
            bootstrap=self.home.config / "bootstrap.json",
            skypilot_url=operator.get(skypilot.URL_SETTING)
            or (f"http://127.0.0.1:{self.ports[_SKYPILOT]}" if self._starts_skypilot else ""),
        )

    @property
    def _starts_skypilot(self) -> bool:
        there = self.request.operator.get(skypilot.URL_SETTING)
        return self.request.skypilot and not there and "scheduler" in self.names

    def _skypilot(self) -> Program:
        return skypilot.prepare(
            self.home.root / "skypilot", port=self.ports[_SKYPILOT], operator=self.request.operator
        )

    def _embedded(self, name: str) -> bool:
        needed = name != "s3" or "tracker" in self.names
        return needed and not self.request.operator.get(_STORES[name])

    def _postgres(self) -> Program:
        return postgres.prepare(
            self.home.root / "postgres",
            port=self.ports["postgres"],
            password=self.credentials.postgres[postgres.SUPERUSER],
            env=self.request.operator,
        )

    def _nats(self) -> Program:
        return nats.prepare(
            self.home.root / "nats",
            port=self.ports["nats"],
            config=self.home.config / "nats.conf",
            keys=self.credentials.nats,
        )

    def _s3(self) -> Program:
        return s3.prepare(
            self.home.root / "s3",
            port=self.ports["s3"],
            keys=self.credentials.s3,
            bucket=self.request.operator.get("CAIRN_S3_BUCKET") or "cairn",
        )


def _ready(request: Request, *, home: Home, plan: _Plan, wiring: Wiring) -> Ready:
    token = plan.credentials.admin_token
    hint = None
    if "gateway" in plan.names:
        hint = login.write(login.path(request.operator), url=wiring.public_url, token=token)
    setup = login.setup_link(wiring.public_url, token) if "gateway" in plan.names else None
    return Ready(wiring.public_url, token, home.root, hint, setup)


@asynccontextmanager
async def _log_keeper(home: Home) -> AsyncIterator[None]:
    """Keeps the logs small while the platform runs."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(_LOOK_AFTER_LOGS)
            with suppress(OSError):
                for file in home.logs.glob("*.log"):
                    await asyncio.to_thread(logs.rotate, file)

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@contextmanager
def _signals(task: asyncio.Task[None], board: _Board) -> Iterator[None]:
    """The first signal ends `task` in order; the next one kills what still runs."""
    loop = asyncio.get_running_loop()

    def hear() -> None:
        if board.stop.is_set():
            board.supervisor.kill()
        board.stop.set()
        if board.state == "starting":
            task.cancel()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, hear)
    try:
        yield
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
