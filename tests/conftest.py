"""Real servers for every test that asks for one: started once a session, as processes."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.harness import servers, slurm
from tests.harness.mlflow import rest  # noqa: F401 - a fixture
from tests.harness.platform import Platform
from tests.harness.runner import make_job, runner_bus  # noqa: F401 - fixtures
from tests.harness.tracker import Tracker, start_tracker
from tests.harness.workers import Together

# The services that run within a test log here. structlog would show an exception with the values of all local
# variables: most of a second of a slow machine for each, and a burst of them is what a test would wait for.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


def _folder() -> Iterator[Path]:
    # Not below pytest's own folder: PostgreSQL under root could not reach it on a machine without mounts.
    folder = Path(tempfile.mkdtemp(prefix="cairn-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """How tests are given to workers, where there are several."""
    return Together(config, log)


@pytest.fixture(scope="session", autouse=True)
def _nobodys_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests may be logged in somewhere; the tests are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAIRN_CONFIG", str(tmp_path_factory.mktemp("login") / "none.json"))
        for name in ("CAIRN_URL", "CAIRN_TOKEN", "CAIRN_TEAM"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """A fresh 0700 folder for a platform or a PostgreSQL of this test's own."""
    yield from _folder()


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """As `data_folder`, for all tests of a module."""
    yield from _folder()


@pytest.fixture(scope="session")
def session_folder() -> Iterator[Path]:
    """As `data_folder`, for the session's servers."""
    yield from _folder()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Nats]:
    """A NATS server with JetStream, open to all (no accounts, no auth callout)."""
    server = servers.start_nats(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nats_url(nats_server: servers.Nats) -> str:
    """The URL of `nats_server`. Streams outlive a test: use subjects or stream names of your own."""
    return nats_server.url


@pytest.fixture(scope="session")
def postgres(session_folder: Path) -> Iterator[servers.Postgres]:
    """A PostgreSQL server; take a database of your own by `database` or `database_url`."""
    server = servers.start_postgres(session_folder, durable=False)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def database(postgres: servers.Postgres, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a fresh, empty database of this test module."""
    name = re.sub(r"\W", "_", request.node.name.removesuffix(".py").rsplit("/", 1)[-1])[:60]
    postgres.drop_database(name)
    postgres.create_database(name)
    yield name
    postgres.drop_database(name)


@pytest.fixture(scope="module")
def database_url(postgres: servers.Postgres, database: str) -> Callable[[str], str]:
    """`database_url("quota")`: role and schema `quota` in this module's database; the URL of that role."""
    return lambda schema: postgres.create_schema(database, schema)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    """An S3 server: `s3.endpoint`, `s3.access_key`, `s3.secret_key`, `s3.bucket`, `s3.folder`."""
    server = servers.start_s3(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def tracker(
    tmp_path_factory: pytest.TempPathFactory, database_url: Callable[[str], str], s3: servers.S3
) -> Iterator[Tracker]:
    """A tracker of this module's, with a bus of its own."""
    folder = tmp_path_factory.mktemp("tracker")
    bus = servers.start_nats(folder / "nats")
    server = start_tracker(folder / "tracker", nats_url=bus.url, postgres_url=database_url("tracker"), s3=s3)
    yield server
    server.stop()
    bus.stop()


@pytest.fixture(scope="session")
def cli_platform(session_folder: Path) -> Iterator[Platform]:
    """A whole platform, of the modules `test_cli_platform...`, which one worker has together."""
    platform = Platform(session_folder / "cli")
    (session_folder / "cli").mkdir()
    platform.up()
    yield platform
    platform.down()


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[slurm.Slurm]:
    """A Slurm of four nodes with SkyPilot in front; skips, with a sentence, where there can be none."""
    reason = slurm.why_not()
    if reason is not None:
        if slurm.must():
            pytest.fail(f"{reason}; in CI these tests have to run")
        pytest.skip(reason)
    cluster = slurm.up()
    yield cluster
    slurm.down(cluster)


@pytest.fixture(scope="session")
def slurm_platform(slurm_cluster: slurm.Slurm, session_folder: Path) -> Iterator[Platform]:
    """A whole platform with a SkyPilot of its own, which reaches that Slurm."""
    folder = session_folder / "slurm"
    folder.mkdir()
    platform = Platform(folder, CAIRN_LOCAL_CPUS="2", **slurm_cluster.equip(folder / "data"))
    try:
        platform.up("--skypilot")
        yield platform
    finally:
        platform.down()
