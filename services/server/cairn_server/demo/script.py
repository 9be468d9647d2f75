"""The demo's story: queue four trainings, kill one, see all end well, keep the best. Only HTTP is spoken."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from cairn._events import events
from cairn._http import Api, Event
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


def play(api: Api, team: str, sweep: Mapping[str, Any], screen: Screen) -> Outcome:
    """Follows a queued sweep to its end, kills one training on the way, and judges what came of it.

    Raises `DemoFailed` if it does not end in time, `cairn._http.Unreachable` if the platform is gone.
    """
    trainings = {job["uid"]: Training(job["uid"], job["spec"].get("params", {})) for job in sweep["jobs"]}
    victim = follow(api, team, trainings, screen)
    await_complete(api, team, trainings)
    outcome = Outcome(jobs=[describe(api, team, training) for training in trainings.values()])
    if victim is None:
        outcome.faults.append("no training was killed: none was seen at work past a checkpoint")
    outcome.faults += judge(api, team, trainings, outcome.jobs, victim)
    outcome.comparison = api.post(
        f"/api/v1/teams/{team}/runs:compare", {"runs": list(trainings), "metrics": [ACCURACY, LOSS]}
    )
    outcome.model, outcome.lineage = register(api, team, trainings)
    if not outcome.lineage.get("run") or not outcome.lineage.get("code_digest"):
        outcome.faults.append("the model's lineage names no run or no code")
    return outcome


def follow(api: Api, team: str, trainings: dict[str, Training], screen: Screen) -> str | None:
    """Hears facts until every training has ended; kills one in mid-epoch and gives its uid."""
    victim: str | None = None
    end = time.monotonic() + DEADLINE
    for event in events(api, f"/api/v1/teams/{team}/events"):
        if time.monotonic() > end:
            raise DemoFailed(f"the trainings did not end within {DEADLINE:.0f} s")
        if event.type == "open":
            # Whatever was told before we listened (or while the line was cut) is in the resources.
            for uid, training in trainings.items():
                training.hear_job(api.get(f"/api/v1/teams/{team}/jobs/{uid}"))
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


def await_complete(api: Api, team: str, trainings: Mapping[str, Training], deadline: float = 120.0) -> None:
    """Waits until everything that the trainings logged has arrived at the tracker. Raises `DemoFailed`."""
    waiting = set(trainings)
    end = time.monotonic() + deadline
    for _ in events(api, f"/api/v1/teams/{team}/events", {"types": "run.updated"}):
        waiting = {uid for uid in waiting if not api.get(run_path(team, uid)).get("complete")}
        if not waiting:
            return
        if time.monotonic() > end:
            break
    raise DemoFailed(f"the tracker did not have all of {', '.join(sorted(waiting))} within {deadline:.0f} s")


def describe(api: Api, team: str, training: Training) -> dict[str, Any]:
    """The facts of one job that ``--json`` prints."""
    job = api.get(f"/api/v1/teams/{team}/jobs/{training.uid}")
    run = api.get(run_path(team, training.uid))
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
    api: Api, team: str, trainings: Mapping[str, Training], jobs: list[dict[str, Any]], victim: str | None
) -> list[str]:
    """Everything that is not as promised, in words."""
    faults = []
    for job in jobs:
        name = label(trainings[job["id"]])
        if job["state"] != "SUCCEEDED":
            faults.append(f"{name} ended {job['state']}")
        if job["id"] == victim and (job["attempts"] < 2 or not (job["resumed_step"] or 0) > 0):
            faults.append(f"{name} was killed and did not go on from a checkpoint")
        series = api.get(
            f"/api/v1/teams/{team}/series",
            {"run": f"teams/{team}/runs/{job['id']}", "key": LOSS, "max_buckets": 10_000},
        )
        found = series.get("series", [])
        steps = found[0].get("steps", []) if found else []
        faults += [f"{name}: {fault}" for fault in faults_of_curve(steps, LAST_STEP)]
    return faults


def register(
    api: Api, team: str, trainings: Mapping[str, Training]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Makes the most accurate checkpoint of all a version of the model, without sending a byte again."""
    best: dict[str, Any] = {}
    for uid in trainings:
        for version in api.get(f"{run_path(team, uid)}/checkpoints").get("versions", []):
            if not best or accuracy_of(version) > accuracy_of(best):
                best = version
    if not best:
        raise DemoFailed("no training left a checkpoint")
    best = api.get(f"/api/v1/{best['name']}")  # a listing leaves the entries out
    model = api.post(f"/api/v1/teams/{team}/artifacts/{MODEL}/versions", {
        "kind": "ARTIFACT_KIND_MODEL",
        "run": best["run"],
        "step": best["step"],
        "metadata": best.get("metadata", {}),
        "entries": best["entries"],
        "aliases": ["best"],
        "sources": [best["name"]],
        "request_id": str(uuid.uuid4()),
    })
    return model, api.get(f"/api/v1/{model['name']}/lineage")


def accuracy_of(version: Mapping[str, Any]) -> float:
    """The accuracy that a checkpoint was saved with."""
    return float(version.get("metadata", {}).get("metrics", {}).get(ACCURACY, 0.0))


def label(training: Training) -> str:
    """What tells one training of the sweep from another."""
    return " ".join(f"{key}={value}" for key, value in sorted(training.params.items()))


def run_path(team: str, uid: str) -> str:
    """The run's address below the API."""
    return f"/api/v1/teams/{team}/runs/{uid}"


def training_folder() -> Path:
    """Where the demo's script and task file lie."""
    return Path(__file__).parent / "training"
