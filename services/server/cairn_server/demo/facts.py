"""What the demo has learnt so far, as values: no network, no clock, no screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT"})
LOSS = "train.loss"
ACCURACY = "val.accuracy"


@dataclass(slots=True)
class Training:
    """One job of the sweep as last heard of."""

    uid: str
    params: Mapping[str, str]
    state: str = "PENDING"
    reason: str = ""
    attempts: int = 0
    pids: tuple[int, ...] = ()
    step: int = 0
    loss: float | None = None
    accuracy: float | None = None
    checkpoint_step: int = 0
    history: list[float] = field(default_factory=list)
    revision: int = -1

    @property
    def ended(self) -> bool:
        return self.state in FINAL

    def hear_job(self, job: Mapping[str, Any]) -> None:
        """Takes a job's later version; an earlier one that arrives late changes nothing."""
        if job["revision"] <= self.revision:
            return
        self.revision = job["revision"]
        self.state = job["state"]
        self.reason = job.get("reason", "")
        attempts = job.get("attempts", [])
        self.attempts = len(attempts)
        self.pids = tuple(attempts[-1].get("pids", [])) if attempts else ()

    def hear_progress(self, summary: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes the metrics' last values."""
        if (loss := summary.get(LOSS)) is not None:
            self.step = loss["last_step"]
            self.loss = float(loss["last"])
            self.history.append(self.loss)
        if (accuracy := summary.get(ACCURACY)) is not None:
            self.accuracy = float(accuracy["last"])

    def hear_checkpoint(self, step: int) -> None:
        """Takes the step of a checkpoint that has been committed."""
        self.checkpoint_step = max(self.checkpoint_step, step)

    def in_mid_epoch(self, steps_per_epoch: int) -> bool:
        """It runs, has a checkpoint to go back to, and has done work since that a death would lose."""
        return (
            self.state == "RUNNING"
            and bool(self.pids)
            and 0 < self.checkpoint_step < self.step
            and self.step % steps_per_epoch != 0
        )


def faults_of_curve(steps: Sequence[int], last_step: int) -> list[str]:
    """What is wrong with a curve that should have exactly one point at each step from 1 to ``last_step``."""
    faults = []
    missing = sorted(set(range(1, last_step + 1)) - set(steps))
    if missing:
        faults.append(f"{len(missing)} points are missing, the first at step {missing[0]}")
    if len(steps) != len(set(steps)):
        faults.append(f"{len(steps) - len(set(steps))} points are there twice")
    if extra := sorted(set(steps) - set(range(1, last_step + 1))):
        faults.append(f"{len(extra)} points were never logged, the first at step {extra[0]}")
    return faults
