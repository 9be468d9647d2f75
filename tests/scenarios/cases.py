"""Scenario files (Kueue's quota tables as JSON) as worlds for the engine, and whether it decides as expected.

A case is a state, an incoming job, and the expected victims with reasons (`want_preempted`); or a state with
use, and the expected dominant shares (`want`). `cluster_queues` and `cohorts` become nodes of one tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from cairn_scheduler.engine.decide import decide
from cairn_scheduler.engine.quota import SHARE_BITS, Seat, Tree
from cairn_scheduler.engine.world import (
    UNIT,
    Admitted,
    Amounts,
    JobRequest,
    Key,
    Node,
    Option,
    Plan,
    Policy,
    Quota,
    Reclaim,
    Sharing,
    Snapshot,
    Why,
    Within,
)
from tests.scenarios.rounds import settle

WITHIN = {
    "PreemptionPolicyNever": Within.NEVER,
    "PreemptionPolicyLowerPriority": Within.LOWER,
    "PreemptionPolicyLowerOrNewerEqualPriority": Within.LOWER_OR_NEWER,
}
RECLAIM = {
    "PreemptionPolicyNever": Reclaim.NEVER,
    "PreemptionPolicyLowerPriority": Reclaim.LOWER,
    "PreemptionPolicyAny": Reclaim.ANY,
}
REASONS = {
    "InClusterQueue": Why.WITHIN,
    "InCohortReclamation": Why.RECLAIM,
    "InCohortFairSharing": Why.FAIR,
    "InCohortReclaimWhileBorrowing": Why.RECLAIM_BORROWING,
}
ANY_PRIORITY = 1 << 40
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case; `wrong` is empty where all was as expected."""

    name: str
    wrong: str


def outcomes(path: Path) -> Iterator[Outcome]:
    """Runs every case of a file."""
    for case in json.loads(path.read_text()):
        yield Outcome(case["name"], run(case))


def run(case: Mapping[str, Any]) -> str:
    """What is wrong with the decision, in words; empty for nothing."""
    if "want" in case:
        return _shares(case)
    world = snapshot(case)
    plan = decide(world)
    wanted = {(name, REASONS[why.removesuffix("Reason")]) for name, why in case["want_preempted"]}
    # A victim that is entitled to come back may have victims of its own; the case is about the incoming job.
    mine = case["incoming"]["name"]
    got = {(one.uid, one.why) for one in plan.preemptions if one.by == mine}
    if got != wanted:
        return f"victims {_words(got)}, expected {_words(wanted)}"
    return _unstable(world, plan)


def snapshot(case: Mapping[str, Any]) -> Snapshot:
    """The case's state, with the incoming job pending."""
    fair = "assignment_flavor" in case
    strategies = case.get("strategies") or ["LessThanOrEqualToFinalShare", "LessThanInitialShare"]
    policy = Policy(
        sharing=Sharing.FAIR if fair else Sharing.PRIORITY,
        initial_share_rule="LessThanInitialShare" in strategies,
    )
    return Snapshot(
        now=1_000_000,
        nodes=tuple(nodes(case)),
        admitted=tuple(_admitted(job) for job in case["admitted"]),
        pending=(_incoming(case),),
        policy=policy,
    )


def nodes(case: Mapping[str, Any]) -> Iterator[Node]:
    """Queues and cohorts; cohorts that are only named, too."""
    cohorts = {one["name"]: one for one in case["cohorts"]}
    named = {one["cohort"] for one in case["cluster_queues"]} | {one["parent"] for one in case["cohorts"]}
    for name in sorted((named | cohorts.keys()) - {None}):
        one = cohorts.get(name, {"parent": None, "weight": 1.0, "quotas": {}})
        yield Node(
            f"cohort {name}",
            f"cohort {one['parent']}" if one["parent"] else "",
            quotas=_quotas(one["quotas"]),
            weight=_milli(one["weight"]),
        )
    for one in case["cluster_queues"]:
        policies = one.get("preemption", {})
        yield Node(
            one["name"],
            f"cohort {one['cohort']}" if one["cohort"] else "",
            quotas=_quotas(one["quotas"]),
            weight=_milli(one["weight"]),
            within=WITHIN[policies.get("WithinClusterQueue", "PreemptionPolicyNever")],
            reclaim=RECLAIM[policies.get("ReclaimWithinCohort", "PreemptionPolicyNever")],
            borrow_reclaim=_threshold(policies.get("BorrowWithinCohort")),
        )


def _threshold(policy: Mapping[str, Any] | None) -> int | None:
    if policy is None or policy["Policy"] == "BorrowWithinCohortPolicyNever":
        return None
    most = policy.get("MaxPriorityThreshold")
    return ANY_PRIORITY if most is None else int(most)


def _quotas(quotas: Mapping[str, Mapping[str, float | None]]) -> dict[Key, Quota]:
    return {
        _key(name): Quota(
            nominal=_milli(one["nominal"] or 0),
            borrow_limit=None if one["borrow"] is None else _milli(one["borrow"]),
            lend_limit=None if one["lend"] is None else _milli(one["lend"]),
        )
        for name, one in quotas.items()
    }


def _key(name: str) -> Key:
    flavor, _, resource = name.partition("/")
    return flavor, "gpu" if resource == "cpu" else resource


def _milli(number: float) -> int:
    return round(Fraction(str(number)) * UNIT)


def _usage(usage: Mapping[str, float]) -> Amounts:
    return tuple(sorted((_key(name), _milli(amount)) for name, amount in usage.items()))


def _admitted(job: Mapping[str, Any]) -> Admitted:
    usage = _usage(job["usage"])
    flavor = usage[0][0][0] if usage else ""
    request = JobRequest(
        job["name"],
        job["cq"],
        (Option(flavor, usage),),
        priority=job["priority"],
        create_time=_time(job.get("created") or 0),
    )
    # All at one time unless said: then nobody has more to lose than another.
    stopping = "-" if job["evicted"] else ""
    return Admitted(request, admit_time=1_000_000 + _time(job["at"]), stopping=stopping)


def _time(seconds: float) -> int:
    return int(seconds * 1000)


def _incoming(case: Mapping[str, Any]) -> JobRequest:
    job = case["incoming"]
    usage = job.get("usage")
    if usage is None:
        usage = {f"{case['assignment_flavor']}/{name}": amount for name, amount in job["requests"].items()}
    amounts = _usage(usage)
    created = job.get("created")
    return JobRequest(
        job["name"],
        job["cq"],
        (Option(amounts[0][0][0], amounts),),
        priority=job["priority"],
        create_time=_time(created if created is not None else 1_000),
    )


def _unstable(world: Snapshot, plan: Plan) -> str:
    for number in range(ROUNDS):
        world = settle(world, plan)
        plan = decide(replace(world, now=world.now + 1_000))
        if plan.preemptions or plan.admissions or plan.promises:
            return f"not stable: round {number + 1} after it brings {plan.admissions} {plan.preemptions}"
    return ""


def _shares(case: Mapping[str, Any]) -> str:
    tree = Tree(nodes(case))
    for job in case["admitted"]:
        tree.take(tree.seats[job["cq"]], _usage(job["usage"]))
    tree.take(tree.seats["cq"], _usage(case["usage"]))
    tree.take(tree.seats["cq"], _usage(case["extra_request"]))
    wrong = []
    for want in case["want"]:
        inner = want["NodeType"] == "nodeTypeCohort"
        seat = tree.seats[f"cohort {want['Name']}" if inner else want["Name"]]
        name, _ = seat.dominant()
        got = ("cpu" if name == "gpu" else name, _thousandths(seat))
        if (*got, seat.parent is not None and bool(seat.over)) != (
            want["DrName"],
            want["DrValue"],
            want["Borrowing"],
        ):
            wrong.append(f"{want['Name']} has {got}, expected {want['DrName']} {want['DrValue']}")
    return "; ".join(wrong)


def _thousandths(seat: Seat) -> int:
    """Its share as the files have it; the last bits are rounded down, and the file rounds up."""
    return -(-seat.share() * 1000 >> SHARE_BITS)


def _words(victims: set[tuple[str, Why]]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in sorted(victims)) or "nobody"
