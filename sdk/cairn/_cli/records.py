"""Jobs and runs as one list: a job knows its state best, its run knows what was measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cairn._cli.errors import CliError
from cairn._cli.text import clean, moment, number
from cairn._http import ApiError, Json, Unreachable
from cairn.client import Client

FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT"})
STATES = (
    "PENDING",
    "ADMITTED",
    "LAUNCHING",
    "RUNNING",
    "RECOVERING",
    "PREEMPTING",
    "HELD",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
    "TIMED_OUT",
)
# What a job used of its machine: not what it measured, and shown apart.
SYSTEM = "system/"
# A runner tells something every five seconds.
SILENT_SECONDS = 30.0
RUN_STATES = frozenset(STATES) - {"ADMITTED", "LAUNCHING", "PREEMPTING", "HELD"}


@dataclass(frozen=True, slots=True)
class Record:
    """A run, with its job if it has one. Times in seconds since 1970; text is clean."""

    uid: str
    name: str
    experiment: str
    state: str
    attempts: int = 0
    created: float | None = None
    started: float | None = None
    ended: float | None = None
    # When something of it last arrived.
    seen: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    # Why it waits, or how it ended.
    note: str = ""
    sweep: str = ""
    # What a sweep chose for it.
    point: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    # What people said of it.
    notes: str = ""
    tags: tuple[str, ...] = ()

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def silent(self) -> float | None:
        """Seconds since a running job was last heard from, where that is too long ago; else None."""
        if self.state != "RUNNING" or self.seen is None or not self.attempts:
            return None
        since = time.time() - max(self.seen, self.started or 0.0)
        return since if since > SILENT_SECONDS else None

    @property
    def duration(self) -> float | None:
        """Seconds from its first start to its end, or to now."""
        if self.started is None:
            return None
        return (self.ended or time.time()) - self.started

    def json(self) -> Json:
        return {
            "id": self.uid,
            "name": self.name,
            "experiment": self.experiment,
            "state": self.state,
            "attempts": self.attempts,
            "create_time": self.created,
            "start_time": self.started,
            "end_time": self.ended,
            "duration": self.duration,
            "last_seen_time": self.seen,
            "metrics": self.metrics,
            "params": self.params,
            "note": self.note,
            "sweep": self.sweep,
            "group": self.group,
            "notes": self.notes,
            "tags": list(self.tags),
        }


def merge(job: Json | None, run: Json | None) -> Record:
    """One record of a job and its run; one of them may be missing."""
    job, run = job or {}, run or {}
    first = job or run
    params = {**_spec(job).get("params", {}), **run.get("params", {})}
    summary = {key: value for key, value in run.get("summary", {}).items() if not key.startswith(SYSTEM)}
    metrics = {clean(key): found for key, value in summary.items()
               if (found := number(value.get("last", 0))) is not None}  # fmt: skip
    state = str(first.get("state", "")) or "PENDING"
    return Record(
        uid=str(first.get("uid", "")),
        name=clean(str(run.get("display_name") or job.get("display_name") or "")),
        experiment=clean(str(first.get("experiment") or "default").rsplit("/", 1)[-1]),
        state=state,
        attempts=len(job.get("attempts", []) or run.get("attempts", [])),
        created=moment(first.get("create_time")),
        started=moment(first.get("start_time")) or moment(run.get("start_time")),
        seen=moment(run.get("last_seen_time")),
        ended=moment(first.get("end_time")),
        metrics=metrics,
        params={clean(key): value for key, value in params.items()},
        note=headline(first.get("reason") or first.get("message")),
        point={clean(key): value for key, value in _spec(job).get("params", {}).items()},
        sweep=str(first.get("sweep", "")).rsplit("/", 1)[-1],
        group=clean(str(run.get("group") or "")),
        notes=clean(str(run.get("notes") or "")),
        tags=tuple(clean(str(tag)) for tag in run.get("tags", [])),
    )


def headline(message: Any) -> str:
    """The first line of a message; the platform's may be followed by the command's last lines."""
    return clean(str(message or "").split("\n", 1)[0]).removesuffix("Last lines:").rstrip()


def listing(
    client: Client, *, states: Sequence[str] = (), experiment: str = "", expression: str = "",
    limit: int | None = 50,
) -> tuple[list[Record], list[str]]:  # fmt: skip
    """The newest records, and what of the platform could not be asked. With an
    expression the runs that it holds for, as the tracker knows them: their jobs are not asked for."""
    run_states = [state for state in states if state in RUN_STATES]

    def runs() -> list[Json]:
        if states and not run_states:
            return []
        return list(client.runs(states=run_states, experiment=experiment, filter=expression, limit=limit))

    if expression:
        return join([], runs()), []
    with ThreadPoolExecutor(2) as pool:
        jobs = pool.submit(lambda: list(client.jobs(states=states, experiment=experiment, limit=limit)))
        told = pool.submit(runs)
    found: list[list[Json]] = []
    missing: list[str] = []
    for name, future in (("jobs", jobs), ("runs", told)):
        try:
            found.append(future.result())
        except ApiError as error:
            if error.status not in (502, 503, 504) or missing:
                raise
            missing.append(f"{name} are not listed: {clean(error.detail)}")
            found.append([])
    records = join(found[0], found[1])
    if states:
        records = [record for record in records if record.state in states]
    return records[:limit], missing


def join(jobs: Iterable[Json], runs: Iterable[Json]) -> list[Record]:
    """Records by uid, newest first."""
    by_job = {str(job["uid"]): job for job in jobs}
    by_run = {str(run["uid"]): run for run in runs}
    records = [merge(by_job.get(uid), by_run.get(uid)) for uid in by_job.keys() | by_run.keys()]
    return sorted(records, key=lambda record: (record.created or 0.0, record.uid), reverse=True)


def fetch(client: Client, uid: str) -> tuple[Json | None, Json | None]:
    """The job and the run of a uid; not both are None. Raises `CliError` where there is neither."""
    job, run = _or_none(client.job, uid), _or_none(client.run, uid)
    if job is None and run is None:
        raise CliError(f"there is no job or run {uid}", code=3, hint="`cairn ls` lists what there is")
    return job, run


def _or_none(get: Any, uid: str) -> Json | None:
    try:
        found: Json = get(uid)
        return found
    except ApiError as error:
        if error.status != 404:
            raise
        return None


def _spec(job: Json) -> Json:
    spec = job.get("spec")
    return spec if isinstance(spec, dict) else {}


__all__ = ["FINAL", "STATES", "Record", "Unreachable", "fetch", "join", "listing", "merge"]
