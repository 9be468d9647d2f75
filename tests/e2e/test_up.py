"""`cairn up`, `status` and `down` as a person uses them, and what goes wrong around them."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn_server import processes
from tests.harness.platform import Platform

PARTS = {"postgres", "nats", "s3", "scheduler", "quota", "tracker", "gateway"}


@pytest.fixture
def platform(data_folder: Path) -> Iterator[Platform]:
    platform = Platform(data_folder)
    yield platform
    platform.cairn("down")


def of(platform: Platform, key: str) -> dict[str, object]:
    return {process["name"]: process[key] for process in platform.status()["processes"]}


def test_up_status_second_up_and_down(platform: Platform) -> None:
    up = platform.cairn("up", "--detach")
    assert up.returncode == 0, up.stderr
    url = platform.status()["url"]
    assert up.stdout.count(f"{url}\n") == up.stdout.count(f"{url}/#setup=") == 1
    assert stat.S_IMODE(Path(platform.env["CAIRN_CONFIG"]).stat().st_mode) == 0o600
    states = of(platform, "state")
    assert states.keys() - {"cairn up"} == PARTS
    assert set(states.values()) == {"ready"}

    second = platform.cairn("up")
    assert second.returncode != 0
    assert f"pid {platform.status()['pid']}" in second.stderr
    assert url in second.stderr

    pids = {int(str(pid)): processes.start_time(int(str(pid))) for pid in of(platform, "pid").values()}
    assert platform.cairn("down").returncode == 0
    assert platform.cairn("status").returncode == 3
    assert not [pid for pid, began in pids.items() if began and processes.is_same(pid, began)]


def test_after_kill_9_of_the_supervisor_it_goes_on_where_it_was(platform: Platform) -> None:
    platform.up("--only", "gateway")
    before, ports = platform.status(), of(platform, "port")
    team = platform.cairn("team", "--json")
    assert team.returncode == 0, team.stderr
    os.kill(before["pid"], signal.SIGKILL)
    platform.up("--only", "gateway")
    after = platform.status()
    assert after["pid"] != before["pid"]
    assert (after["url"], of(platform, "port")) == (before["url"], ports)
    assert platform.cairn("team", "--json").stdout == team.stdout


def test_a_port_that_is_taken_is_named_and_nothing_is_left_running(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = platform.cairn("up", "--detach", "--port", str(port))
    assert refused.returncode != 0
    assert f"port {port} is taken" in refused.stderr
    assert platform.status()["state"] == "stopped"
