"""What was freed for a job by evicting others is that job's, until it starts."""

from __future__ import annotations

from dataclasses import replace

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
    Stop,
    option,
)

NOW = 1_000_000
GPU = ("f", "gpu")


def job(uid: str, gpus: int, created: int) -> JobRequest:
    return JobRequest(uid, uid[0], (option("f", {"gpu": gpus * UNIT}),), create_time=created)


def shared() -> Engine:
    """12 GPUs of three teams: b borrows 5 of them, a has 3 and asks for 8 and for 2."""
    nodes = (Node("org"), *(Node(name, "org", quotas={GPU: Quota(4 * UNIT)}) for name in "abc"))
    held = [Admitted(job(f"b{n}", 1, n), admit_time=n) for n in range(9)]
    held.append(Admitted(job("a0", 3, 0)))
    waiting = (job("a1", 8, 10), job("a2", 2, 11))
    return Engine(Snapshot(NOW, nodes, (Flavor("f"),), pending=waiting, admitted=tuple(held)))


def evict(engine: Engine, plan: Plan) -> None:
    """The victims are gone at once, and wait again; nobody has their places yet."""
    for one in plan.preemptions:
        again = replace(engine.admitted[one.uid].request, requeued=True, attempted=True)
        engine.apply([Gone(one.uid), again])
    engine.edit(holds=plan.holds, claims=plan.claims)


def test_a_victim_whose_nodes_turn_comes_first_does_not_take_its_place_back() -> None:
    engine = shared()
    plan = engine.decide(NOW)
    assert [one.by for one in plan.preemptions] == ["a2", "a2"]
    assert plan.claims == ("a2",)
    evict(engine, plan)
    # a's turn is that of a1, which would make it the largest: without the claim both victims go first.
    plan = engine.decide(NOW + 1)
    assert [one.uid for one in plan.admissions] == ["a2"]
    assert not plan.preemptions
    engine.apply([Admitted(engine.pending["a2"], admit_time=NOW + 1)])
    engine.edit(holds=plan.holds, claims=plan.claims)
    plan = engine.decide(NOW + 2)
    assert (plan.admissions, plan.preemptions, plan.claims) == ((), (), ())


def test_a_claim_is_nothing_where_its_node_starts_nothing_more() -> None:
    engine = shared()
    evict(engine, engine.decide(NOW))
    stopped = (replace(node, stop=Stop.HOLD) if node.id == "a" else node for node in engine.frame.nodes)
    engine.edit(nodes=tuple(stopped))
    plan = engine.decide(NOW + 1)
    assert sorted(one.uid for one in plan.admissions) == ["b7", "b8"]
    assert plan.claims == ()


def test_an_engine_made_anew_from_the_snapshot_keeps_the_claim() -> None:
    engine = shared()
    evict(engine, engine.decide(NOW))
    world = engine.snapshot(NOW + 1)
    assert world.claims == ("a2",)
    assert [one.uid for one in Engine(world).decide(NOW + 1).admissions] == ["a2"]
