"""`cairn check --deep`: an ordinary job on the ordinary road, told step by step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.status import Status
from rich.text import Text

from cairn._cli.session import Session
from cairn._cli.text import clean, short
from cairn._http import ApiError, Json, Unreachable

ARTIFACT = "cairn-check"
_LOOK_SECONDS = 0.4
_FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT"})
_BEGUN = frozenset({"LAUNCHING", "RUNNING", *_FINAL})
# What the job does: it writes to the store by its own token, and says so over the bus.
_SCRIPT = f'''set -e
echo "hello from $(hostname)"
echo "cairn check" > cairn-check.txt
python3 -c 'import sys, cairn; sys.exit(cairn.save_artifact("cairn-check.txt", "{ARTIFACT}") is None)'
echo "written"
'''
_STEPS = (
    ("queued", "the job is accepted"),
    ("admitted", "quota and a place are given"),
    ("launched", "the machine is there, and its runner calls back over the bus"),
    ("ran", "it wrote to the store, and its end was told"),
    ("read back", "what it wrote is read from the store"),
    ("torn down", "nothing of it is left"),
)
_REMEDIES = {
    "queued": "correct what the message names",
    "admitted": "`cairn ls` shows what is ahead; `cairn team` the limits",
    "launched": "`cairn check` shows whether the infra answers; the nodes must reach CAIRN_PUBLIC_URL and "
    "CAIRN_PUBLIC_NATS_URL",
    "ran": "`cairn logs` shows its output; the node must reach the S3 endpoint that the server names",
    "read back": "is the S3 endpoint reached from here, too? `cairn status`",
    "torn down": "`cairn show` tells what is left; the scheduler's log says why",
}


@dataclass(slots=True)
class _Run:
    """How far it is."""

    session: Session
    infra: str
    deadline: float
    status: Status
    job: Json = field(default_factory=dict)
    steps: list[Json] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def done(self, step: str) -> None:
        """Notes a step with its time, and shows it."""
        now = time.monotonic()
        self.steps.append({"step": step, "ok": True, "seconds": round(now - self.since, 2)})
        self.since = now
        if not self.session.as_json:
            self.session.out.print(_line(self.steps[-1]))

    def failed(self, step: str, reason: str) -> Json:
        """The result where a step did not come about."""
        seconds = round(time.monotonic() - self.since, 2)
        self.steps.append(
            {
                "step": step,
                "ok": False,
                "seconds": seconds,
                "reason": reason,
                "remedy": _REMEDIES[step],
            }
        )
        return self.result(ok=False)

    def result(self, *, ok: bool) -> Json:
        return {"infra": self.infra, "ok": ok, "job": self.job.get("name", ""), "steps": self.steps}


def probe(session: Session, infra: str, *, timeout: float) -> Json:
    """Runs the job; returns `{infra, ok, job, steps: [{step, ok, seconds, reason, remedy}]}`.

    One that does not come to its end in `timeout` seconds is cancelled, as it is by Ctrl-C.
    """
    with session.err.status("queueing") as status:
        run = _Run(session, infra, time.monotonic() + timeout, status)
        try:
            return _go(run)
        except (ApiError, Unreachable) as error:
            step = _STEPS[min(len(run.steps), len(_STEPS) - 1)][0]
            return run.failed(step, clean(str(error)))
        finally:
            if run.job and run.job.get("state") not in _FINAL:
                session.client.cancel(str(run.job["uid"]))


def say_probe(session: Session, result: Json) -> None:
    """What is left to be said when the steps were shown as they came."""
    last = result["steps"][-1]
    if result["ok"]:
        total = sum(float(step["seconds"]) for step in result["steps"])
        session.out.print(Text("good  ", "green").append(f"{clean(result['infra'])} works", "default")
                          .append(f"  {total:.1f} s", "dim"))  # fmt: skip
        return
    session.out.print(_line(last))
    session.out.print(Text(f"    {clean(last['reason'])}", "default"), soft_wrap=True)
    session.out.print(Text(f"    → {last['remedy']}", "dim"), soft_wrap=True)
    if result["job"]:
        uid = short(str(result["job"]).rpartition("/")[2], None)
        session.out.print(Text(f"    → cairn show {uid}; cairn logs {uid}", "dim"))


def _go(run: _Run) -> Json:
    run.job = run.session.client.submit(_task(run.infra), name="cairn check")
    run.done("queued")
    for step, reached in (
        ("admitted", lambda: run.job["state"] != "PENDING" or bool(run.job.get("attempts"))),
        ("launched", lambda: bool(run.job.get("start_time")) or run.job["state"] == "SUCCEEDED"),
        ("ran", lambda: run.job["state"] == "SUCCEEDED"),
    ):
        if (reason := _await(run, step, reached)) is not None:
            return run.failed(step, reason)
        run.done(step)
    # It was committed before the job ended, or it never will be.
    if not _written(run):
        return run.failed("read back", f"the newest version of {ARTIFACT} is not this job's")
    run.done("read back")
    if (reason := _await(run, "torn down", lambda: _closed(run.job))) is not None:
        return run.failed("torn down", reason)
    run.done("torn down")
    return run.result(ok=True)


def _await(run: _Run, step: str, reached: Callable[[], bool]) -> str | None:
    """Waits for a fact; a reason where it cannot come about any more, or not in time."""
    uid = str(run.job["uid"])
    while True:
        run.job = run.session.client.job(uid)
        if reached():
            return None
        state = str(run.job["state"])
        told = clean(str(run.job.get("message") or run.job.get("reason") or ""))
        if state in _FINAL and state != "SUCCEEDED":
            return told or f"the job is {state}"
        if time.monotonic() > run.deadline:
            return f"not within the time: it is {state.lower()}" + (f" ({told})" if told else "")
        what = next(what for name, what in _STEPS if name == step)
        run.status.update(f"{step}: until {what}" + (f" [{told[:100]}]" if told else ""))
        time.sleep(_LOOK_SECONDS)


def _written(run: _Run) -> bool:
    try:
        version = run.session.client.version(ARTIFACT, "latest")
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return str(version.get("run", "")).endswith(str(run.job["uid"]))


def _closed(job: Json) -> bool:
    attempts: list[Json] = job.get("attempts") or []
    return bool(attempts) and all(attempt.get("close_time") for attempt in attempts)


def _task(infra: str) -> str:
    import json

    task: dict[str, Any] = {
        "name": "cairn-check",
        "resources": {"infra": infra, "cpus": 1},
        "run": _SCRIPT,
        "cairn": {"experiment": "cairn-check", "max_runtime": "5m", "max_retries": 0},
    }
    return json.dumps(task)


def _line(step: Json) -> Text:
    sign, style = ("✓", "green") if step["ok"] else ("✗", "red")
    what = next(what for name, what in _STEPS if name == step["step"])
    text = Text(f"{sign} ", style).append(f"{step['step']:<10}", "bold default")
    return text.append(f"{float(step['seconds']):>7.2f} s  ", "default").append(what, "dim")
