"""Reasons, counterfactuals, what-if and snapshot files."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cairn_scheduler.engine import snapshot_file, whatif
from cairn_scheduler.engine.decide import decide
from cairn_scheduler.engine.explain import explain, refusal, starts
from cairn_scheduler.engine.world import (
    Admitted,
    Budget,
    Circuit,
    Code,
    Flavor,
    JobRequest,
    Machine,
    Node,
    Overrun,
    Pool,
    Quota,
    Reservation,
    Snapshot,
    Stop,
    Why,
    option,
)
from tests.scenarios.worlds import Kind, history

GPU = ("f", "gpu")
FEW = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def job(name: str, gpus: int = 1, *, team: str = "a", **more: object) -> JobRequest:
    return JobRequest(name, team, (option("f", {"gpu": gpus * 1000}),), **more)  # type: ignore[arg-type]


def world(*pending: JobRequest, running: int = 0, **more: object) -> Snapshot:
    held = tuple(Admitted(job(f"r{n}", max_runtime=600_000), admit_time=n) for n in range(running))
    nodes = (Node("org"), Node("a", "org", quotas={GPU: Quota(4000)}), Node("b", "org"))
    return replace(Snapshot(1000, nodes, (Flavor("f"),), pending=pending, admitted=held), **more)  # type: ignore[arg-type]


@FEW
@given(st.integers(0, 2**32), st.booleans())
def test_every_change_that_is_offered_lets_the_job_start(seed: int, pools: bool) -> None:
    for snapshot, plan in history(Random(seed), Kind(pools=pools, steps=3)):
        for uid in sorted(plan.reasons)[:2]:
            found = explain(snapshot, uid)
            assert found is not None
            for change in found.changes:
                assert starts(change.snapshot, uid), change.words


def test_a_full_quota_says_who_holds_it_and_what_would_help() -> None:
    found = explain(world(job("x", 2), running=3), "x")
    assert found is not None
    assert (found.reason.code, found.reason.node, found.reason.limit) == (Code.QUOTA_FULL, "org", 4000)
    assert (found.reason.requested, found.reason.used) == (2000, 3000)
    assert [one.uid for one in found.holders] == ["r0", "r1", "r2"]
    assert (found.position, found.waiting, found.eta) == (1, 1, 600_000)
    assert {change.kind for change in found.changes} >= {"quota", "end", "size"}
    quota = next(change for change in found.changes if change.kind == "quota")
    assert quota.words == "1 more gpu of f in the quota of org"


GATES: list[tuple[str, Snapshot, Code]] = [
    ("held", world(job("x", held="by ada")), Code.HELD),
    ("dependency", world(job("x", waits_for=("y",))), Code.DEPENDENCY_WAIT),
    ("retry", world(job("x", not_before=9000)), Code.RETRY_WAIT),
    ("too large", world(job("x", 5)), Code.EXCEEDS_MAX),
    ("no such flavor", world(JobRequest("x", "a", (option("g", {"gpu": 1000}),))), Code.NO_MATCHING_FLAVOR),
    ("stopped", world(job("x"), nodes=(Node("a", quotas={GPU: Quota(4000)}, stop=Stop.HOLD),)), Code.HELD),
    ("exhausted", world(job("x"), budgets=(Budget("b", "org", 0),)), Code.BUDGET_EXHAUSTED),
    ("no runtime", world(job("x"), budgets=(Budget("b", "org", 10**9, safe=True),)), Code.BUDGET_UNSAFE),
    ("unsafe", world(job("x", max_runtime=3000), budgets=(Budget("b", "org", 2000, safe=True),)),
     Code.BUDGET_UNSAFE),
    ("circuit", world(job("x"), circuits=(Circuit("f", "eu", 5000),)), Code.CIRCUIT_OPEN),
    ("window", world(job("x", 4), reservations=(Reservation("w", "b", ((GPU, 1000),), 0, 9000),)),
     Code.RESERVED_FOR),
    ("unknown node", world(job("x", team="z")), Code.NOT_EVALUATED),
]  # fmt: skip


@pytest.mark.parametrize(("snapshot", "code"), [one[1:] for one in GATES], ids=[one[0] for one in GATES])
def test_what_capacity_cannot_cure_has_its_own_reason(snapshot: Snapshot, code: Code) -> None:
    plan = decide(snapshot)
    assert plan.admissions == ()
    assert plan.reasons["x"].code is code


def test_a_safe_budget_is_drawn_down_by_what_starts_before() -> None:
    jobs = [job(f"x{n}", max_runtime=1000, create_time=n) for n in range(3)]
    plan = decide(world(*jobs, budgets=(Budget("b", "org", 2500, safe=True),)))
    assert [one.uid for one in plan.admissions] == ["x0", "x1"]
    assert plan.reasons["x2"].code is Code.BUDGET_UNSAFE


def test_an_exhausted_budget_lets_go_on_what_ran_before_or_stops_what_runs() -> None:
    again = job("x", attempted=True)
    assert decide(world(again, budgets=(Budget("b", "org", 0),))).admissions
    drained = Budget("b", "org", 0, overrun=Overrun.DRAIN)
    assert not decide(world(again, budgets=(drained,))).admissions
    stopping = decide(world(running=2, budgets=(Budget("b", "org", 0, overrun=Overrun.PREEMPT),)))
    assert [(one.uid, one.why) for one in stopping.preemptions] == [("r0", Why.BUDGET), ("r1", Why.BUDGET)]


def test_an_open_circuit_lets_one_probe_through() -> None:
    jobs = [job(f"x{n}", create_time=n) for n in range(3)]
    plan = decide(world(*jobs, circuits=(Circuit("f", probe_at=500),)))
    assert [one.uid for one in plan.admissions] == ["x0"]
    assert plan.reasons["x1"].code is Code.CIRCUIT_OPEN


def test_a_submission_that_could_never_start_is_refused() -> None:
    assert refusal(world(), job("x")) is None
    too_large = refusal(world(running=4), job("x", 5))
    assert too_large is not None
    assert (too_large.code, too_large.node) == (Code.EXCEEDS_MAX, "org")
    full = world(job("y"), nodes=(Node("a", quotas={GPU: Quota(4000)}, max_pending=1),))
    found = refusal(full, job("x"))
    assert found is not None
    assert (found.resource, found.limit) == ("pending", 1)


def test_what_if_says_who_would_start_and_who_would_be_lost() -> None:
    snapshot = world(job("x", 2), running=3)
    more = (Node("org"), Node("a", "org", quotas={GPU: Quota(9000)}), Node("b", "org"))
    assert whatif.compare(snapshot, whatif.with_nodes(snapshot, more)).starts == ("x",)
    pool = Pool("p", machines=(Machine("m", {"gpu": 4000}),))
    placed = replace(snapshot, flavors=(Flavor("f", "p"),), pools=(pool,))
    lost = whatif.compare(placed, whatif.without_pool(placed, "p"))
    assert (lost.lost, lost.starts) == (("r0", "r1", "r2"), ())


@FEW
@given(st.integers(0, 2**32), st.booleans())
def test_a_snapshot_file_is_read_back_as_it_was_and_decided_alike(seed: int, pools: bool) -> None:
    for snapshot, plan in history(Random(seed), Kind(pools=pools, steps=2)):
        text = snapshot_file.dump(snapshot)
        again = snapshot_file.load(text)
        assert again == snapshot
        assert snapshot_file.dump(again) == text
        assert decide(again) == plan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "no field cairn_snapshot"),
        ('{"cairn_snapshot": 2}', "version 2"),
        ('{"cairn_snapshot": 1, "snapshot": {"now": "x"}}', "snapshot.now: 'x' is no int"),
        ('{"cairn_snapshot": 1, "snapshot": {"now": 1, "nodes": [{"id": 1}]}}', r"snapshot.nodes\[0\].id"),
        ('{"cairn_snapshot": 1, "snapshot": {"now": 1, "what": 1}}', "unknown field what"),
        (json.dumps({"cairn_snapshot": 1, "snapshot": {}}), "now"),
    ],
)
def test_a_file_that_is_no_snapshot_is_refused_with_the_place(text: str, words: str) -> None:
    with pytest.raises(snapshot_file.BadFile, match=words):
        snapshot_file.load(text)
