"""Scheduler, SkyPilot's API server and nats-server killed at random moments of jobs on a real Slurm."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import httpx
import pytest

from cairn.client import Client
from cairn_common.ids import new_uid
from tests.harness.platform import Platform
from tests.harness.slurm import CLUSTER, Slurm
from tests.harness.told import new_folder, said, submit
from tests.harness.waiting import ended, until

# Slurm's own start, the first time, is the longest part.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

SEED = int(os.environ.get("CAIRN_TEST_SEED", "3"))
# In a random order, and one of them again.
VICTIMS = ("scheduler", "skypilot", "nats")
PATIENCE = 600.0


@pytest.fixture
def told(slurm_cluster: Slurm) -> Path:
    return new_folder(slurm_cluster)


def test_nothing_is_lost_or_run_twice_and_no_orphan_stays(
    slurm_platform: Platform, slurm_cluster: Slurm, told: Path
) -> None:
    chance = random.Random(SEED)
    client = slurm_platform.client(patience=300)
    good = submit(client, told)
    bad = submit(client, told, steps=2, code=5)
    stopped = submit(client, told, steps=10_000)
    victims = [*chance.sample(VICTIMS, len(VICTIMS)), chance.choice(VICTIMS)]
    for victim in victims:
        time.sleep(chance.uniform(1, 12))
        slurm_platform.kill(victim)
    until(lambda: f"{stopped} began" in said(told), PATIENCE)
    client.cancel(stopped)
    jobs = {uid: ended(client, uid, PATIENCE) for uid in (good, bad, stopped)}

    states = {uid: (job["state"], len(job["attempts"])) for uid, job in jobs.items()}
    assert states == {
        good: ("SUCCEEDED", 1),
        # A user's error is not tried again, and no part's death costs an attempt.
        bad: ("FAILED", 1),
        stopped: ("CANCELLED", 1),
    }
    lines = said(told)
    assert not [line for line in lines if line.endswith("at once")]
    for uid in (good, bad):
        assert lines.count(f"{uid} done") == 1, lines
        assert steps(client, uid) == [f"step {step}" for step in range(1, (2 if uid == bad else 20) + 1)]
    until(lambda: not client.orphans(), 120)
    attempts = [attempt["uid"] for job in jobs.values() for attempt in job["attempts"]]
    # Slurm takes a moment to clear away what SkyPilot has given back.
    until(lambda: not [uid for uid in attempts if slurm_cluster.allocations(uid)], 120)


def test_an_orphan_is_listed_with_its_age_and_removed(slurm_platform: Platform, slurm_cluster: Slurm) -> None:
    client = slurm_platform.client()
    assert slurm_platform.cairn("infra", "orphans").returncode == 0
    # As a platform leaves it that was lost with its books: our name, and an attempt that nobody knows.
    (book,) = slurm_platform.data.rglob("sky/id")
    name = f"cairn-{book.read_text().strip()}-{new_uid()}"
    launch(slurm_platform, name)
    (orphan,) = until(client.orphans, 60)
    assert (orphan["display_name"], orphan["job"]) == (name, "")
    assert orphan["create_time"]
    until(lambda: slurm_cluster.allocations(name), 60)
    shown = slurm_platform.cairn("infra", "orphans")
    assert (shown.returncode, name in shown.stdout) == (1, True), shown
    removed = slurm_platform.cairn("infra", "orphans", "--remove", "--json", timeout=180)
    assert (removed.returncode, json.loads(removed.stdout)) == (0, []), removed
    until(lambda: not slurm_cluster.allocations(name), 60)


def launch(platform: Platform, name: str) -> None:
    """A cluster that nobody ordered."""
    (ports,) = platform.data.rglob("ports.json")
    port = json.loads(ports.read_text())["skypilot"]
    who = {"SKYPILOT_USER_ID": "0a0b0c0d", "SKYPILOT_USER": "cairn"}
    task = {"name": "left", "resources": {"infra": f"slurm/{CLUSTER}", "cpus": 1}, "run": "sleep 600"}
    body = {
        "env_vars": who, "entrypoint": "x", "entrypoint_command": "x", "task": json.dumps(task),
        "cluster_name": name,
    }  # fmt: skip
    answer = httpx.post(
        f"http://127.0.0.1:{port}/launch", json=body, headers={"X-SkyPilot-API-Version": "62"},
        trust_env=False, timeout=30,
    )  # fmt: skip
    assert answer.status_code == 200, answer.text


def steps(client: Client, uid: str) -> list[str]:
    """What it printed, in the order of its numbers, once all of it is here."""
    until(lambda: client.run(uid).get("complete"), 90)
    lines = sorted(client.logs(uid)["lines"], key=lambda line: line["number"])
    return [line["text"] for line in lines if line["text"].startswith("step ")]
