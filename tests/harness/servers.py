"""Real servers as processes, for tests: start, kill -9, start again on the same port with the same data.

All methods block; from an async test call them by `await asyncio.to_thread(server.restart)`.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import asyncpg

from cairn_server import ports
from cairn_server.backends import nats, postgres, s3
from cairn_server.backends.program import Program, command, environment, wait_ready

T = TypeVar("T")


def run_apart(work: Callable[[], T]) -> T:
    """Runs `work` in a thread, so that it may use an event loop of its own whoever calls."""
    result: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


@dataclass
class Server:
    """One server process. `log` is where its output goes."""

    program: Program
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def port(self) -> int:
        assert self.program.port is not None
        return self.program.port

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.program.name} was not started"
        return self.process.pid

    def start(self) -> None:
        """Starts it and waits until it answers."""
        if self.program.reclaim:
            self.program.reclaim()
        with self.log.open("ab") as log:
            # The test process may start servers in threads, and a thread's end must not end its servers.
            self.process = subprocess.Popen(
                command(self.program, dies_with_parent=threading.current_thread() is threading.main_thread()),
                env=environment(self.program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = self.process
        try:
            run_apart(
                lambda: asyncio.run(
                    wait_ready(self.program, deadline=60, alive=lambda: process.poll() is None)
                )
            )
        except BaseException as error:
            self.kill()
            error.add_note(self.log.read_text(errors="replace")[-4000:])
            raise

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def stop(self) -> None:
        """Stops it as `cairn down` does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self.program.stop_signal)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def restart(self) -> None:
        """kill -9, then the same port and data again."""
        self.kill()
        self.start()


@dataclass
class Nats(Server):
    """A NATS server with JetStream."""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"


@dataclass
class Postgres(Server):
    """A PostgreSQL server. Databases are made by name; `admin_url` is the superuser's."""

    password: str = field(default="", repr=False)

    def admin_url(self, database: str = "postgres") -> str:
        return postgres.url(port=self.port, password=self.password, database=database)

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """A new database, empty or a copy of `template`; returns its admin URL."""
        like = f' TEMPLATE "{template}"' if template else ""
        self.execute(f'CREATE DATABASE "{name}"{like}')
        return self.admin_url(name)

    def drop_database(self, name: str) -> None:
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def create_schema(self, database: str, schema: str) -> str:
        """Role and schema of one service in `database`, as the platform has them; returns the role's URL."""
        self.execute(
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{schema}') THEN "
            f"CREATE ROLE \"{schema}\" LOGIN PASSWORD '{schema}'; END IF; END $$",
            f'CREATE SCHEMA IF NOT EXISTS "{schema}" AUTHORIZATION "{schema}"',
            f'ALTER ROLE "{schema}" IN DATABASE "{database}" SET search_path = "{schema}"',
            database=database,
        )
        return postgres.url(port=self.port, password=schema, database=database, user=schema)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        async def work() -> None:
            connection = await asyncpg.connect(self.admin_url(database), timeout=30)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        run_apart(lambda: asyncio.run(work()))


@dataclass
class S3(Server):
    """An S3 server with one pair of keys."""

    keys: s3.S3Keys = field(default_factory=lambda: s3.S3Keys("test", "test-secret-key"), repr=False)
    bucket: str = "cairn"
    folder: Path = Path()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def access_key(self) -> str:
        return self.keys.access

    @property
    def secret_key(self) -> str:
        return self.keys.secret


def start_nats(folder: Path, *, keys: nats.NatsKeys | None = None) -> Nats:
    """A NATS server that stores in `folder`: open to all, or by `keys` with the platform's accounts."""
    folder.mkdir(parents=True, exist_ok=True)
    port = ports.free(["nats"])["nats"]
    program = nats.prepare(folder / "store", port=port, config=folder / "nats.conf", keys=keys)
    server = Nats(program, folder / "nats.log")
    server.start()
    return server


def start_postgres(folder: Path, *, durable: bool = True) -> Postgres:
    """A PostgreSQL server in `folder`; not `durable`: it does not wait for the disk (kill -9 stays safe)."""
    folder.mkdir(parents=True, exist_ok=True)
    port = ports.free(["postgres"])["postgres"]
    password = "test-password"
    options = {"max_connections": "200"} | ({} if durable else {"fsync": "off", "full_page_writes": "off"})
    program = postgres.prepare(folder / "postgres", port=port, password=password, options=options)
    server = Postgres(program, folder / "postgres.log", password=password)
    server.start()
    return server


def start_s3(folder: Path) -> S3:
    """An S3 server with the bucket `cairn` in it."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "s3"
    keys = s3.S3Keys("test", "test-secret-key")
    program = s3.prepare(data, port=ports.free(["s3"])["s3"], keys=keys, bucket="cairn")
    server = S3(program, folder / "s3.log", keys=keys, folder=data)
    server.start()
    return server
