"""Worked examples: small worlds with the decision that a person would expect, and then nothing moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cairn_scheduler.engine.decide import decide
from cairn_scheduler.engine.world import (
    ANY,
    Admitted,
    Code,
    Flavor,
    JobRequest,
    Machine,
    Node,
    Option,
    Plan,
    Policy,
    Pool,
    Quota,
    Snapshot,
    Why,
)
from tests.scenarios.rounds import settle

GPU = ("f", "gpu")
MINUTE = 60_000


def node(name: str, nominal: float = 3, *, parent: str = "org", weight: int = 1000, **quota: int) -> Node:
    limits = {kind: amount * 1000 for kind, amount in quota.items()}
    return Node(
        name,
        parent,
        quotas={GPU: Quota(int(nominal * 1000), **limits)},
        weight=weight,  # type: ignore[arg-type]
    )


def job(name: str, team: str, gpus: float, *, priority: int = 0, at: int = 0) -> JobRequest:
    return JobRequest(
        name, team, (Option("f", ((GPU, int(gpus * 1000)),)),), priority=priority, create_time=at
    )


def running(team: str, *gpus: float) -> list[Admitted]:
    return [Admitted(job(f"{team}{n}", team, size), admit_time=1000) for n, size in enumerate(gpus, 1)]


def world(
    teams: Sequence[Node], admitted: Sequence[Admitted], pending: Sequence[JobRequest], **more: object
) -> Snapshot:
    nodes = (Node("org"), *teams)
    return Snapshot(1000, nodes, admitted=tuple(admitted), pending=tuple(pending), **more)  # type: ignore[arg-type]


def calm(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """Carries the plan out and sees that nothing moves for five more rounds."""
    after = settle(snapshot, plan)
    again = after
    for _ in range(5):
        plan = decide(replace(again, now=again.now + 1000))
        assert (plan.admissions, plan.promises, plan.preemptions) == ((), (), ())
        again = settle(again, plan)
    return after


ABC = [node("a"), node("b"), node("c")]
RECLAIM, FAIR = Why.RECLAIM, Why.FAIR
WORLDS: list[tuple[str, list[Node], list[Admitted], JobRequest, dict[str, Why]]] = [
    ("nominal is taken back from who has the most", ABC,
     [*running("a", 1, 1, 1), *running("b", 1, 1, 1, 1, 1), *running("c", 1)], job("x", "c", 1),
     {"b1": RECLAIM}),
    ("the one that is large enough, alone", ABC,
     [*running("a", 3, 1), *running("b", 2, 3)], job("x", "c", 3), {"a1": RECLAIM}),
    ("everyone is within nominal", ABC,
     [*running("a", 1, 1, 1), *running("b", 1, 1, 1), *running("c", 1, 1, 1)], job("x", "c", 1), {}),
    ("it would flip the imbalance", ABC,
     [*running("a", 1, 1, 1), *running("b", 1, 1, 1, 1, 1)], job("x", "a", 2), {}),
    ("a huge one goes where there is no other", ABC, running("b", 9), job("x", "a", 2), {"b1": RECLAIM}),
    ("twice the weight, twice the share", [node("a", weight=2000), node("b"), node("c")],
     [*running("a", 1, 1, 1), *running("b", 1, 1, 1, 1, 1, 1)], job("x", "a", 2), {"b1": FAIR, "b2": FAIR}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("teams", "admitted", "incoming", "victims"), [one[1:] for one in WORLDS], ids=[one[0] for one in WORLDS]
)
def test_the_victims_are_the_expected_ones(
    teams: list[Node], admitted: list[Admitted], incoming: JobRequest, victims: dict[str, Why]
) -> None:
    snapshot = world(teams, admitted, [incoming])
    plan = decide(snapshot)
    assert {one.uid: one.why for one in plan.preemptions} == victims
    calm(snapshot, plan)


def test_what_was_evicted_does_not_take_it_back() -> None:
    snapshot = world(ABC, [*running("b", 2, 2.5), *running("c", 2, 2.5)], [job("x", "a", 3.5)])
    plan = decide(snapshot)
    assert {one.uid for one in plan.preemptions} == {"b1", "c1"}
    after = calm(snapshot, plan)
    assert {one.uid for one in after.pending} == {"b1", "c1"}


def test_what_is_not_lent_is_not_had() -> None:
    teams = [node("lend-a", 3, lend_limit=2), node("lend-b", 2)]
    snapshot = world(teams, running("lend-b", 2), [job("x", "lend-b", 3)])
    plan = decide(snapshot)
    assert plan.admissions == ()
    assert plan.reasons["x"].code is Code.LENDING_LIMITED
    snapshot = world(teams, running("lend-b", 2), [job("x", "lend-b", 2), job("y", "lend-b", 1, at=1)])
    plan = decide(snapshot)
    assert [one.uid for one in plan.admissions] == ["x"]
    assert plan.reasons["y"].code is Code.LENDING_LIMITED


def test_full_on_demand_falls_back_to_spot() -> None:
    on_demand, spot = ("on-demand", "gpu"), ("spot", "gpu")
    team = Node("a", "org", quotas={on_demand: Quota(50_000, borrow_limit=10_000), spot: Quota(100_000)})
    full = Admitted(JobRequest("r", "a", (Option("on-demand", ((on_demand, 60_000),)),)))
    asks = JobRequest(
        "x", "a", (Option("on-demand", ((on_demand, 60_000),)), Option("spot", ((spot, 60_000),)))
    )
    (admission,) = decide(world([team], [full], [asks])).admissions
    assert (admission.flavor, admission.option) == ("spot", 1)


def test_more_than_the_quota_can_never_start() -> None:
    reason = decide(world([node("a", 50)], [], [job("x", "a", 100)])).reasons["x"]
    assert (reason.code, reason.requested, reason.limit) == (Code.EXCEEDS_MAX, 100_000, 50_000)


def test_two_that_need_the_same_borrowed_unit_evict_once() -> None:
    admitted = [*running("a", 1, 1, 1), *running("b", 1, 1, 1, 1), *running("c", 1, 1)]
    snapshot = world(ABC, admitted, [job("x", "c", 1), job("y", "c", 1, at=1)])
    plan = decide(snapshot)
    assert [(one.by, one.why) for one in plan.preemptions] == [("x", RECLAIM)]
    assert plan.reasons["y"].code is not Code.WAITING_FOR_VICTIMS
    # While the victim is in its grace the first keeps the claim, and nobody is evicted for the second.
    victim = plan.preemptions[0].uid
    told = tuple(
        replace(one, stopping="x", gone_at=9000) if one.request.uid == victim else one for one in admitted
    )
    again = decide(replace(snapshot, admitted=told, now=2000))
    assert (again.admissions, again.preemptions) == ((), ())
    assert again.reasons["x"].code is Code.WAITING_FOR_VICTIMS
    calm(snapshot, plan)


def test_a_group_of_at_most_one_shares_with_another() -> None:
    teams = [Node("one", "org", quotas={GPU: Quota(most=1000)}), Node("two", "org")]
    tasks = [job(f"{team}-{n}", team, 1, at=n) for team in ("one", "two") for n in range(4)]
    snapshot = replace(world(teams, [], tasks), nodes=(Node("org", quotas={GPU: Quota(4000)}), *teams))
    plan = decide(snapshot)
    started = sorted(one.uid.partition("-")[0] for one in plan.admissions)
    assert started == ["one", "two", "two", "two"]
    calm(snapshot, plan)


def machines(count: int) -> dict[str, object]:
    return {
        "flavors": (Flavor("f", "cluster"),),
        "pools": (Pool("cluster", machines=(Machine("n", {"gpu": 1000}, count),)),),
    }


def gang(name: str, ranks: int, *, priority: int = 0, minutes: int = 10, at: int = 0) -> JobRequest:
    return replace(
        job(name, "a", ranks, priority=priority, at=at),
        ranks=ranks,
        per_rank=(("gpu", 1000),),
        max_runtime=minutes * MINUTE,
    )


def test_of_two_gangs_of_two_on_two_slots_exactly_one_runs() -> None:
    snapshot = world([node("a", 9)], [], [gang("x", 2), gang("y", 2, at=1)], **machines(2))
    plan = decide(snapshot)
    assert [one.uid for one in plan.admissions] == ["x"]
    assert sum(count for _, count in plan.admissions[0].machines) == 2
    assert plan.reasons["y"].code is Code.CAPACITY_FULL
    calm(snapshot, plan)


def test_small_ones_fill_in_before_a_reservation_and_never_delay_it() -> None:
    jobs = [
        gang("1", 1, priority=10),
        gang("2", 32, priority=5),
        gang("3", 31, priority=1, minutes=5),
        gang("4", 9, priority=1, minutes=5, at=1),
    ]
    policy = Policy(reserve_after=0)
    snapshot = world([node("a", 32)], [], jobs, policy=policy, **machines(32))
    started: dict[str, int] = {}
    for minute in range(21):
        snapshot = replace(snapshot, now=minute * MINUTE)
        ended = [
            one
            for one in snapshot.admitted
            if one.admit_time + (one.request.max_runtime or 0) <= snapshot.now
        ]
        snapshot = replace(snapshot, admitted=tuple(one for one in snapshot.admitted if one not in ended))
        plan = decide(snapshot)
        started |= {one.uid: minute for one in plan.admissions}
        if minute == 0:
            assert [(hold.uid, hold.start) for hold in plan.holds] == [("2", 10 * MINUTE)]
        snapshot = settle(snapshot, plan)
    assert started == {"1": 0, "2": 10, "3": 0, "4": 5}


def test_a_cap_over_all_flavors_counts_them_together() -> None:
    team = Node("a", "org", quotas={(ANY, "gpu"): Quota(most=2000)})
    options = [Option(name, (((ANY, "gpu"), 1000), ((name, "gpu"), 1000))) for name in ("p", "q")]
    jobs = [JobRequest(f"x{n}", "a", (options[n % 2],), create_time=n) for n in range(4)]
    plan = decide(world([team], [], jobs))
    assert [one.uid for one in plan.admissions] == ["x0", "x1"]
    reason = plan.reasons["x2"]
    assert (reason.code, reason.node, reason.limit, reason.used) == (Code.QUOTA_FULL, "a", 2000, 2000)
