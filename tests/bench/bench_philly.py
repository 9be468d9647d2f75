"""Microsoft's Philly trace on 480 GPUs, in virtual time: how long jobs wait, and what work is lost.

``python -m tests.bench.bench_philly TRACE.csv [--jobs N] [--nominal equal|demand]`` prints one JSON line.
It is the engine alone, told of every change as the scheduler tells it. Teams are the trace's clusters with
more than 100 jobs (11, with 82,229 jobs); they share the GPUs as one cohort and reclaim what they lent. How
long a job will run is not known before it ends. Every job saves a checkpoint each half hour of its run and
goes on from there when it was evicted: what it did since is lost. A job's delay is its end minus its
submission minus its length, so lost work counts as delay.

The policy is what an admin of such a cluster sets in the tree file: `preemption: {borrowing: never}`,
`patience: 1h` (two checkpoints), `order: smallest`; `--usual` is the policy of a tree that says nothing.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cairn_scheduler.engine.decide import Engine, Gone
from cairn_scheduler.engine.world import (
    UNIT,
    Admitted,
    Borrowing,
    Flavor,
    JobRequest,
    Node,
    Option,
    Order,
    Plan,
    Quota,
    Snapshot,
    option,
)

GPUS = 480
FEWEST_JOBS = 100
CHECKPOINT = 1_800_000
HOUR = 3_600_000
KEY = ("gpu", "gpu")
FITTING: dict[str, Any] = {
    "borrowing": Borrowing.NEVER,
    "patience": 2 * CHECKPOINT,
    "order": Order.SMALLEST,
}


@dataclass(frozen=True, slots=True)
class Job:
    """One line of the trace; times in milliseconds."""

    uid: str
    team: str
    gpus: int
    submitted: int
    length: int


def trace(path: Path) -> list[Job]:
    """The jobs of the teams that count, in the order of submission."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    sizes = Counter(row["cluster"] for row in rows)
    jobs = [
        (
            int(datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC).timestamp() * 1000),
            number,
            row["cluster"],
            int(row["num_gpus"]),
            int(float(row["duration"]) * 1000),
        )
        for number, row in enumerate(rows)
        if sizes[row["cluster"]] > FEWEST_JOBS
    ]
    return [Job(f"j{number:05}", team, gpus, at, length) for at, number, team, gpus, length in sorted(jobs)]


def shares(jobs: list[Job], nominal: str) -> dict[str, int]:
    """Whole GPUs by team, all of them given: equally, or by what each team's jobs use in the end."""
    weight: Counter[str] = Counter()
    for job in jobs:
        weight[job.team] += 1 if nominal == "equal" and job.team not in weight else 0
        weight[job.team] += job.gpus * job.length if nominal == "demand" else 0
    exact = {team: GPUS * part / weight.total() for team, part in weight.items()}
    whole = {team: int(part) for team, part in exact.items()}
    by_rest = sorted(exact, key=lambda team: (whole[team] - exact[team], team))
    for team in by_rest[: GPUS - sum(whole.values())]:
        whole[team] += 1
    return whole


@dataclass(slots=True)
class Replay:
    """The cluster of the trace: what runs until when, and what was done of each job."""

    engine: Engine
    jobs: dict[str, Job]
    options: dict[int, tuple[Option, ...]] = field(default_factory=dict)
    # Of each running job when it was started; what is left of each that was evicted; ends by time.
    started: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    ends: list[tuple[int, str]] = field(default_factory=list)
    # When each saves its next checkpoint, and when it was started.
    saves: list[tuple[int, str, int]] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    evictions: int = 0
    lost: int = 0
    passes: int = 0
    wake_at: int | None = None

    def submit(self, job: Job) -> None:
        options = self.options.setdefault(job.gpus, (option("gpu", {"gpu": job.gpus * UNIT}),))
        self.left[job.uid] = job.length
        self.engine.apply([JobRequest(job.uid, job.team, options, create_time=job.submitted)])

    def end_those_due(self, now: int) -> None:
        while self.ends and self.ends[0][0] <= now:
            end, uid = heapq.heappop(self.ends)
            if self.started.get(uid, -1) + self.left[uid] != end:
                continue  # of an attempt that was evicted
            del self.started[uid]
            job = self.jobs[uid]
            self.delays.append(end - job.submitted - job.length)
            self.engine.apply([Gone(uid)])

    def save_those_due(self, now: int) -> None:
        """Checkpoints until now."""
        while self.saves and self.saves[0][0] <= now:
            at, uid, begun = heapq.heappop(self.saves)
            if self.started.get(uid) != begun:
                continue
            self.engine.apply([replace(self.engine.admitted[uid], checkpoint_time=at)])
            heapq.heappush(self.saves, (at + CHECKPOINT, uid, begun))

    def decide(self, now: int) -> None:
        self.passes += 1
        plan = self.engine.decide(now)
        for victim in plan.preemptions:
            self._evict(victim.uid, now)
        self._start(plan, now)
        for uid, count in plan.overtaken.items():
            if (waiting := self.engine.pending.get(uid)) is not None:
                self.engine.apply([replace(waiting, overtaken=count)])
        self.engine.edit(holds=plan.holds, claims=plan.claims)
        # Evicted here is gone at once: who was promised the place takes it in the next pass.
        self.wake_at = now if plan.preemptions else plan.wake_at

    def _start(self, plan: Plan, now: int) -> None:
        for one in plan.admissions:
            request = self.engine.pending[one.uid]
            self.engine.apply([Admitted(request, one.option, one.machines, now)])
            self.started[one.uid] = now
            heapq.heappush(self.ends, (now + self.left[one.uid], one.uid))
            heapq.heappush(self.saves, (now + CHECKPOINT, one.uid, now))

    def _evict(self, uid: str, now: int) -> None:
        begun = self.started.pop(uid)
        lost = (now - begun) % CHECKPOINT
        self.left[uid] -= now - begun - lost
        self.lost += lost * self.jobs[uid].gpus
        self.evictions += 1
        request = replace(self.engine.admitted[uid].request, requeued=True, attempted=True)
        self.engine.apply([Gone(uid), request])


def moments(replay: Replay, jobs: list[Job]) -> Iterator[int]:
    """The times at which something happens, with all that happens then brought about."""
    coming = 0
    while coming < len(jobs) or replay.started or replay.engine.pending:
        times = [replay.ends[0][0]] if replay.ends else []
        times += [jobs[coming].submitted] if coming < len(jobs) else []
        times += [replay.wake_at] if replay.wake_at is not None else []
        # Who waits for a victim's checkpoint looks again when there is one.
        times += [replay.saves[0][0]] if replay.saves and replay.engine.pending else []
        now = min(times)
        replay.save_those_due(now)
        replay.end_those_due(now)
        while coming < len(jobs) and jobs[coming].submitted <= now:
            replay.submit(jobs[coming])
            coming += 1
        if now == replay.wake_at or replay.engine.stirred:
            yield now


def percentile(values: list[int], part: float) -> int:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("trace", type=Path)
    asked.add_argument("--jobs", type=int, help="only so many, the first ones")
    asked.add_argument("--nominal", choices=("equal", "demand"), default="equal")
    asked.add_argument("--usual", action="store_true", help="the policy of a tree that says nothing of it")
    args = asked.parse_args()
    policy = {} if args.usual else FITTING
    jobs = trace(args.trace)[: args.jobs]
    nominal = shares(jobs, args.nominal)
    nodes = [Node("org")]
    nodes += [Node(t, "org", quotas={KEY: Quota(n * UNIT)}, **policy) for t, n in nominal.items()]
    engine = Engine(Snapshot(jobs[0].submitted, tuple(nodes), (Flavor("gpu"),)))
    replay = Replay(engine, {job.uid: job for job in jobs})
    begin = seen = time.perf_counter()
    for now in moments(replay, jobs):
        replay.decide(now)
        if time.perf_counter() > seen + 10 and sys.stderr.isatty():
            seen = time.perf_counter()
            day = datetime.fromtimestamp(now / 1000, UTC).date()
            waiting, done = len(replay.engine.pending), len(replay.delays)
            print(f"{day}: {done} of {len(jobs)} done, {waiting} wait", file=sys.stderr)
    told = {"policy": policy, **figures(replay, args.nominal, time.perf_counter() - begin)}
    print(json.dumps(told))


def figures(replay: Replay, nominal: str, seconds: float) -> dict[str, object]:
    delays = replay.delays
    return {
        "jobs": len(delays),
        "nominal": nominal,
        "mean_h": round(sum(delays) / len(delays) / HOUR, 2),
        "p50_min": round(percentile(delays, 0.5) / 60_000, 1),
        "p99_h": round(percentile(delays, 0.99) / HOUR, 1),
        "lost_gpu_h": round(replay.lost / HOUR, 1),
        "evictions": replay.evictions,
        "passes": replay.passes,
        "seconds": round(seconds, 1),
        "cpu_s": round(time.process_time(), 1),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
