"""How jobs end on a whole platform: stopped with a last checkpoint, explained, tried again by their cause."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn.client import Client
from tests.harness.platform import Platform

TRAIN = """
import time
import cairn

cairn.stopping()
print("training")
step = 0
while not cairn.stopping():
    step += 1
    cairn.log({"loss": 1 / step}, step=step)
    time.sleep(0.05)
open("weights.txt", "w").write(f"weights {step}")
cairn.save_checkpoint("weights.txt", step=step)
print("saved", step)
"""


@pytest.fixture(scope="module")
def platform(session_folder: Path) -> Iterator[Platform]:
    folder = session_folder / "endings"
    folder.mkdir()
    platform = Platform(folder)
    platform.up()
    yield platform
    platform.down()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


def submit(platform: Platform, folder: Path, task: str) -> str:
    (folder / "task.yaml").write_text(task)
    done = platform.cairn("run", "task.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["uid"])


def texts(client: Client, uid: str) -> list[str]:
    return [line["text"] for line in client.logs(uid)["lines"]]


def until(fact: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def ended(client: Client, uid: str) -> dict[str, Any]:
    def final() -> dict[str, Any] | None:
        job = client.job(uid)
        return job if job.get("end_time") else None

    return dict(until(final))


def test_a_stop_lets_the_training_save_its_checkpoint(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    # More than one command, so that bash stands between the runner and the training.
    task = f"workdir: .\nrun: |\n  echo first\n  {sys.executable} train.py | tee out.txt\n  echo never\n"
    uid = submit(platform, tmp_path, task)
    until(lambda: "training" in texts(client, uid))
    stopped = platform.cairn("stop", uid)
    assert stopped.returncode == 0, stopped.stderr
    job = ended(client, uid)
    assert (job["state"], len(job["attempts"])) == ("CANCELLED", 1)
    (version,) = until(lambda: client.checkpoints(uid))
    until(lambda: f"saved {version['step']}" in texts(client, uid))
    assert "never" not in texts(client, uid)


def test_a_known_message_is_explained_and_not_tried_again(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    told = r"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate \0\33[31m2 GiB\n"
    uid = submit(platform, tmp_path, f"run: |\n  printf '{told}'\n  exit 1\n")
    job = ended(client, uid)
    assert (job["state"], job["cause"], len(job["attempts"])) == ("FAILED", "CAUSE_OOM", 1)
    assert "use a smaller batch" in job["message"]
    shown = platform.cairn("show", uid)
    assert "use a smaller batch" in " ".join(shown.stdout.split())


def test_each_cause_has_its_own_allowance(platform: Platform, client: Client, tmp_path: Path) -> None:
    run = "run: |\n  echo 'CUDA error: uncorrectable ECC error encountered'\n  exit 1\n"
    task = run + "cairn: {max_retries: 0, retries: {infra: 1}}\n"
    job = ended(client, submit(platform, tmp_path, task))
    assert (job["state"], job["cause"], len(job["attempts"])) == ("FAILED", "CAUSE_INFRA", 2)
    assert job["spec"]["retries"] == {"infra": 1}


def test_a_run_that_logs_nothing_shows_no_noise_but_its_system(
    platform: Platform, client: Client, tmp_path: Path
) -> None:
    uid = submit(platform, tmp_path, "run: sleep 12; head -c 100000 /dev/urandom; exit 0\n")
    job = ended(client, uid)
    assert job["state"] == "SUCCEEDED"
    run = until(lambda: found if (found := client.run(uid)).get("summary") else None)
    assert run["summary"].keys() >= {"system/cpu", "system/memory", "system/disk_percent"}
    assert run["last_seen_time"]
    assert client.series([uid]) == []
    assert client.series([uid], ["system/cpu"])[0]["key"] == "system/cpu"
    assert client.compare([uid])["metric_keys"] == []
    (listed,) = [one for one in json.loads(platform.cairn("ls", "--json").stdout) if one["id"] == uid]
    assert listed["metrics"] == {}
    page = platform.cairn("show", uid).stdout
    assert "System" in page
    assert "Metrics" not in page
