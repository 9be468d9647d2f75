"""A pass over 100,000 pending jobs of 1,000 teams and 20 flavors, and taking one GPU back: one JSON line.

``python tests/bench/bench_pass.py [PENDING TEAMS FLAVORS]``. The engine alone, as the scheduler uses it: cold
is a new engine and its first decision; incremental is one change (a job ended, or came) and a decision.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from random import Random

from cairn_scheduler.engine.decide import Engine, Gone
from cairn_scheduler.engine.world import (
    UNIT,
    Admitted,
    Flavor,
    JobRequest,
    Node,
    Plan,
    Quota,
    Snapshot,
    option,
)

NOW = 1_000_000_000
SIZES = (1, 1, 2, 4, 8)


def world(pending: int, teams: int, flavors: int) -> Snapshot:
    """Teams with 8 GPUs of two flavors each, users below them, all of it asked for many times over."""
    random = Random(1)
    names = [f"flavor-{n}" for n in range(flavors)]
    nodes = [Node("org")]
    choices = {}
    for number in range(teams):
        mine = [names[number % flavors], names[(number * 7 + 3) % flavors]]
        nodes.append(Node(f"t{number}", "org", quotas={(f, "gpu"): Quota(8 * UNIT) for f in set(mine)}))
        for size in SIZES:
            amounts = {"gpu": size * UNIT, "cpu": 8 * size * UNIT}
            choices[number, size] = tuple(option(flavor, amounts) for flavor in mine)
    jobs = []
    for number in range(pending):
        team = random.randrange(teams)
        options = choices[team, random.choice(SIZES)]
        user, priority = f"u{random.randrange(3)}", random.choice((0, 0, 1))
        jobs.append(JobRequest(f"j{number:06}", f"t{team}", options, user, priority, create_time=number))
    return Snapshot(NOW, tuple(nodes), tuple(Flavor(name) for name in names), pending=tuple(jobs))


def carry_out(engine: Engine, plan: Plan, now: int) -> None:
    """The plan's effects, as the scheduler would tell them."""
    engine.apply(Admitted(engine.pending[one.uid], one.option, one.machines, now) for one in plan.admissions)
    engine.apply(Gone(one.uid) for one in plan.preemptions)
    engine.edit(holds=plan.holds, claims=plan.claims)


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def reclaim() -> list[float]:
    """b borrows all that a does not use; then a asks for one GPU at a time."""
    gpu = ("f", "gpu")
    nodes = (Node("org"), Node("a", "org", quotas={gpu: Quota(2000 * UNIT)}),
             Node("b", "org", quotas={gpu: Quota(2000 * UNIT)}))  # fmt: skip
    one = (option("f", {"gpu": UNIT}),)
    held = [Admitted(JobRequest(f"b{n:04}", "b", one), admit_time=n) for n in range(4000)]
    engine = Engine(Snapshot(NOW, nodes, (Flavor("f"),), admitted=tuple(held)))
    taken = []
    for number in range(200):
        engine.apply([JobRequest(f"a{number}", "a", one, create_time=NOW + number)])
        begin = time.perf_counter()
        plan = engine.decide(NOW + number)
        taken.append(time.perf_counter() - begin)
        assert len(plan.preemptions) == 1
        engine.apply(Gone(one.uid) for one in plan.preemptions)
        engine.apply([Admitted(engine.pending[f"a{number}"], admit_time=NOW)])
    return taken


def main() -> None:
    pending, teams, flavors = (int(a) for a in sys.argv[1:4]) if len(sys.argv) > 3 else (100_000, 1_000, 20)
    snapshot = world(pending, teams, flavors)
    start = time.perf_counter()
    engine = Engine(snapshot)
    built = time.perf_counter()
    plan = engine.decide(NOW)
    cold = time.perf_counter() - start
    admitted = len(plan.admissions)
    carry_out(engine, plan, NOW)
    # The pass that sees all of that done; what comes after it is the daily round.
    engine.decide(NOW + 1)
    gc.collect()
    gc.freeze()
    taken = []
    random = Random(2)
    changes = 0
    for number in range(200):
        now = NOW + 2 + number
        if number % 2:
            uid = random.choice(sorted(engine.admitted))
            engine.apply([Gone(uid)])
        else:
            like = random.choice(snapshot.pending)
            engine.apply([JobRequest(f"n{number}", like.node, like.options, like.user, create_time=now)])
        begin = time.perf_counter()
        plan = engine.decide(now)
        taken.append(time.perf_counter() - begin)
        changes += len(plan.admissions) + len(plan.preemptions)
        carry_out(engine, plan, now)
    one = reclaim()
    print(
        json.dumps(
            {
                "pending": pending,
                "teams": teams,
                "flavors": flavors,
                "admitted": admitted,
                "build_s": round(built - start, 3),
                "cold_s": round(cold, 3),
                "incremental_p50_ms": round(percentile(taken, 0.5) * 1000, 1),
                "incremental_p99_ms": round(percentile(taken, 0.99) * 1000, 1),
                "changes": changes,
                "reclaim_one_p99_ms": round(percentile(one, 0.99) * 1000, 1),
                "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
