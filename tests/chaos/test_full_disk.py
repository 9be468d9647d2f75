"""The disk of the data folder fills up under running jobs: nothing is lost, and with room all goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cairn
from cairn._http import ApiError
from cairn.client import Client
from tests.harness.platform import Platform

SIZE = "600M"
POINTS = 1500
TRAINING = f"""
import pathlib, time, cairn
folder = pathlib.Path(@FOLDER@)
for step in range({POINTS}):
    cairn.log({{"loss": 1.0 / (step + 1)}}, step=step)
    if step == 300:
        (folder / "begun").touch()
        while not (folder / "full").exists():
            time.sleep(0.05)
    time.sleep(0.002)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from _mounted(tmp_path / "disk", SIZE)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    yield from _mounted(tmp_path / "disk", "1M")


def _mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; only root can make one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.chaos
@pytest.mark.timeout(240)
def test_a_disk_that_fills_up_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    platform = Platform(small_disk, CAIRN_LOCAL_CPUS="2")
    platform.up()
    try:
        _fill_and_free(platform, small_disk, tmp_path)
    finally:
        platform.down()


ALONE = """
import cairn
run = cairn.init(params={"lr": 0.1})
for step in range(50_000):
    cairn.log({"loss": step, "acc": 0.5}, step=step)
print("trained", run.dropped)
"""


@pytest.mark.chaos
def test_a_run_of_its_own_on_a_full_disk_ends_well_and_says_what_it_lost(tiny_disk: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tiny_disk, capture_output=True, text=True, check=True, timeout=100
    )
    assert ended.stdout == "trained 0\n"
    begun, end = ended.stderr.splitlines()
    assert "keeping up to 64 MiB in memory" in begun
    (run,) = cairn.local_runs(tiny_disk)
    kept = len(run.history("loss"))
    assert 0 < kept < 50_000
    assert f"cairn: {2 * (50_000 - kept)} points of this run are lost" in end


def _fill_and_free(platform: Platform, disk: Path, folder: Path) -> None:
    client = platform.client()
    script = folder / "train.py"
    script.write_text(TRAINING.replace("@FOLDER@", repr(str(folder))))
    training = client.submit(f"run: python {script}")["uid"]
    until((folder / "begun").exists)

    _fill(disk / "filler")
    (folder / "full").touch()
    # The training logs on, the stream and the stores are written to, and a caller is told to come again.
    orders = {f"while-full-{number}": f"run: echo once >> {folder}/ran-{number}" for number in range(40)}
    assert 503 in {_answer(client, order, request_id) for request_id, order in orders.items()}
    until(lambda: "write error" in (platform.data / "logs/nats.log").read_text())
    (disk / "filler").unlink()

    jobs = {client.submit(order, request_id=request_id)["uid"] for request_id, order in orders.items()}
    until(lambda: {job["uid"] for job in client.jobs(states=["SUCCEEDED"])} == {training, *jobs})
    assert len(jobs) == len(orders)
    assert {file.read_text() for file in folder.glob("ran-*")} == {"once\n"}
    assert len(client.job(training)["attempts"]) == 1
    until(lambda: client.run(training).get("complete", False))
    assert client.run(training)["summary"]["loss"]["count"] == POINTS


def _answer(client: Client, order: str, request_id: str) -> int:
    """The status of a submit that is sent once."""
    body = {"task": order, "request_id": request_id}
    try:
        client.api.post("/api/v1/teams/main/jobs", body, patience=0.0)
    except ApiError as error:
        return error.status
    return 200


def _fill(file: Path) -> None:
    """Takes all the room there is."""
    with open(file, "ab", buffering=0) as stream:
        for size in (1 << 20, 4096, 1):
            while True:
                try:
                    stream.write(bytes(size))
                except OSError:
                    break


def until(holds: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
