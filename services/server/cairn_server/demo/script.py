"""The demo's story: queue four trainings, kill one, see all end well, keep the best. Only HTTP is spoken."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from cairn._http import Event
from cairn.client import Client
from cairn_server.demo.facts import ACCURACY, LOSS, Training, faults_of_curve

STEPS_PER_EPOCH = 45
LAST_STEP = 1080  # 24 epochs of 45 steps
MODEL = "digits"
DEADLINE = 900.0  # seconds for the four trainings


class Screen(Protocol):
    """Who is told how the story goes: a terminal, or nobody."""

    def say(self, text: str) -> None: ...
    def show(self, trainings: list[Training]) -> None: ...


class DemoFailed(Exception):
    """Something that the demo promises did not hold."""


@dataclass(slots=True)
class Outcome:
    """What the demo found in the end, and what of it is not as promised."""

    jobs: list[dict[str, Any]] = field(default_factory=list)
    comparison: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def play(client: Client, sweep: Mapping[str, Any], screen: Screen) -> Outcome:
    """Follows a queued sweep to its end, kills one training on the way, and judges what came of it.

    Raises `DemoFailed` if it does not end in time, `cairn._http.Unreachable` if the platform is gone.
    """
    trainings = {job["uid"]: Training(job["uid"], job["spec"].get("params", {})) for job in sweep["jobs"]}
    victim = follow(client, trainings, screen)
    await_complete(client, trainings)
    outcome = Outcome(jobs=[describe(client, training) for training in trainings.values()])
    if victim is None:
        outcome.faults.append("no training was killed: none was seen at work past a checkpoint")
    outcome.faults += judge(client, trainings, outcome.jobs, victim)
    outcome.comparison = client.compare(list(trainings), [ACCURACY, LOSS])
    outcome.model, outcome.lineage = register(client, trainings)
    outcome.faults += [
        f"the model's lineage does not name its {part}"
        for part in ("run", "code_digest", "inputs")
        if not outcome.lineage.get(part)
    ]
    return outcome


def follow(client: Client, trainings: dict[str, Training], screen: Screen) -> str | None:
    """Hears facts until every training has ended; kills one in mid-epoch and gives its uid."""
    victim: str | None = None
    end = time.monotonic() + DEADLINE
    for event in client.events():
        if time.monotonic() > end:
            raise DemoFailed(f"the trainings did not end within {DEADLINE:.0f} s")
        if event.type == "open":
            # Whatever was told before we listened (or while the line was cut) is in the resources.
            for uid, training in trainings.items():
                training.hear_job(client.job(uid))
        hear(event, trainings)
        if victim is None and (target := kill_one(trainings)) is not None:
            victim = target.uid
            screen.say(
                f"killed the worker of [bold]{label(target)}[/] with SIGKILL at step {target.step}, "
                f"in mid-epoch; its last checkpoint is at step {target.checkpoint_step}"
            )
        screen.show(list(trainings.values()))
        if all(training.ended for training in trainings.values()):
            break
    return victim


def hear(event: Event, trainings: Mapping[str, Training]) -> None:
    """Takes what one event says of our trainings; others' are passed over."""
    if event.type.startswith("job."):
        if (training := trainings.get(event.data.get("uid", ""))) is not None:
            training.hear_job(event.data)
    elif event.type in ("run.progressed", "artifact.committed"):
        if (training := trainings.get(str(event.data.get("run", "")).rpartition("/")[2])) is None:
            return
        training.hear_progress(event.data.get("summary", {}))
        if event.data.get("kind") == "ARTIFACT_KIND_CHECKPOINT":
            training.hear_checkpoint(event.data.get("step", 0))


def kill_one(trainings: Mapping[str, Training]) -> Training | None:
    """SIGKILLs the Python process of the first training that is in mid-epoch past a checkpoint, if any."""
    for training in trainings.values():
        if training.in_mid_epoch(STEPS_PER_EPOCH) and (worker := worker_of(training.pids[0])) is not None:
            os.kill(worker, signal.SIGKILL)
            return training
    return None


def worker_of(pid: int) -> int | None:
    """The training process at or below ``pid``: the shell that a job's command runs in is not it."""
    try:
        shell = psutil.Process(pid)
        family = [shell, *shell.children(recursive=True)]
        named = [process.pid for process in family if "train.py" in process.cmdline()[1:2]]
    except psutil.Error:
        return None
    return named[-1] if named else None


def await_complete(client: Client, trainings: Mapping[str, Training], deadline: float = 120.0) -> None:
    """Waits until everything that the trainings logged has arrived at the tracker. Raises `DemoFailed`."""
    waiting = set(trainings)
    end = time.monotonic() + deadline
    for _ in client.events(types=["run.updated"]):
        waiting = {uid for uid in waiting if not client.run(uid).get("complete")}
        if not waiting:
            return
        if time.monotonic() > end:
            break
    raise DemoFailed(f"the tracker did not have all of {', '.join(sorted(waiting))} within {deadline:.0f} s")


def describe(client: Client, training: Training) -> dict[str, Any]:
    """The facts of one job that ``--json`` prints."""
    job = client.job(training.uid)
    run = client.run(training.uid)
    resumed = [attempt["resumed_step"] for attempt in run.get("attempts", []) if "resumed_step" in attempt]
    accuracy = run.get("summary", {}).get(ACCURACY, {}).get("max")
    return {
        "id": training.uid,
        "state": job["state"],
        "attempts": len(job.get("attempts", [])),
        "resumed_step": resumed[-1] if resumed else None,
        "best_accuracy": accuracy,
    }


def judge(
    client: Client, trainings: Mapping[str, Training], jobs: list[dict[str, Any]], victim: str | None
) -> list[str]:
    """Everything that is not as promised, in words."""
    faults = []
    for job in jobs:
        name = label(trainings[job["id"]])
        if job["state"] != "SUCCEEDED":
            faults.append(f"{name} ended {job['state']}")
        if job["id"] == victim and (job["attempts"] < 2 or not (job["resumed_step"] or 0) > 0):
            faults.append(f"{name} was killed and did not go on from a checkpoint")
        found = client.series([job["id"]], [LOSS], max_buckets=10_000)
        steps = found[0].get("steps", []) if found else []
        faults += [f"{name}: {fault}" for fault in faults_of_curve(steps, LAST_STEP)]
    return faults


def register(client: Client, trainings: Mapping[str, Training]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Makes the most accurate checkpoint of all a version of the model, without sending a byte again.

    Gives the version and its lineage.
    """
    checkpoints = [version for uid in trainings for version in client.checkpoints(uid)]
    if not checkpoints:
        raise DemoFailed("no training left a checkpoint")
    artifact, _, number = max(checkpoints, key=accuracy_of)["name"].rpartition("/versions/")
    best = client.version(artifact, number)  # with its files, which a listing leaves out
    model = client.commit_version(
        MODEL,
        {
            "kind": "ARTIFACT_KIND_MODEL",
            "aliases": ["best"],
            "sources": [best["name"]],
            **{key: best[key] for key in ("run", "step", "metadata", "entries")},
        },
    )
    return model, client.lineage(MODEL, model["version"])


def accuracy_of(version: Mapping[str, Any]) -> float:
    """The accuracy that a checkpoint was saved with."""
    return float(version.get("metadata", {}).get("metrics", {}).get(ACCURACY, 0.0))


def label(training: Training) -> str:
    """What tells one training of the sweep from another."""
    return " ".join(f"{key}={value}" for key, value in sorted(training.params.items()))


def training_folder() -> Path:
    """Where the demo's script and task file lie."""
    return Path(__file__).parent / "training"
