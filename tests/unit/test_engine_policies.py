"""What a node says of whom its jobs may take places from, when, and who of them goes first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cairn_scheduler.engine.decide import Engine
from cairn_scheduler.engine.world import (
    CAN_STARVE,
    UNIT,
    Admitted,
    Borrowing,
    Code,
    Flavor,
    JobRequest,
    Node,
    Order,
    Plan,
    Quota,
    Reclaim,
    Snapshot,
    Why,
    Within,
    option,
)

MINUTE = 60_000
NOW = 1000 * MINUTE
GPU = ("f", "gpu")


def job(uid: str, gpus: int, created: int = 0, **more: Any) -> JobRequest:
    return JobRequest(uid, uid[0], (option("f", {"gpu": gpus * UNIT}),), create_time=created, **more)


def cluster(
    nominal: dict[str, int], held: list[Admitted], waiting: list[JobRequest], **policy: Any
) -> Engine:
    nodes = [Node("org")]
    nodes += [Node(name, "org", quotas={GPU: Quota(n * UNIT)}, **policy) for name, n in nominal.items()]
    return Engine(Snapshot(NOW, tuple(nodes), (Flavor("f"),), pending=tuple(waiting), admitted=tuple(held)))


def victims(plan: Plan) -> list[tuple[str, Why]]:
    return [(one.uid, one.why) for one in plan.preemptions]


def test_who_would_borrow_itself_takes_from_nobody_where_its_node_says_so() -> None:
    held = [Admitted(job(f"b{n}", 1), admit_time=n) for n in range(9)]
    for borrowing, taken in ((Borrowing.FAIR, [("b8", Why.FAIR)]), (Borrowing.NEVER, [])):
        mine = [Admitted(job(f"a{n}", 1), admit_time=n) for n in range(3)]
        asks = [job("a9", 1, 10)]
        engine = cluster({"a": 3, "b": 3, "c": 6}, [*held, *mine], asks, borrowing=borrowing)
        assert victims(engine.decide(NOW)) == taken
    # What is its own it takes back all the same.
    engine = cluster({"a": 3, "b": 6}, held, [job("a9", 1, 10)], borrowing=Borrowing.NEVER)
    assert victims(engine.decide(NOW)) == [("b8", Why.RECLAIM)]


def test_a_victim_is_taken_right_after_its_checkpoint_and_not_before() -> None:
    held = [Admitted(job("b0", 1), admit_time=NOW - 20 * MINUTE, checkpoint_time=NOW - 10 * MINUTE)]
    engine = cluster({"a": 1, "b": 0}, held, [job("a0", 1, 10)], patience=60 * MINUTE)
    plan = engine.decide(NOW)
    assert (plan.preemptions, plan.wake_at) == ((), NOW + 50 * MINUTE)
    waits = plan.reasons["a0"]
    assert waits.code in CAN_STARVE
    # Told as what it is, with whom and until when.
    assert (waits.code, waits.others, waits.until) == (Code.WAITING_FOR_VICTIMS, ("b0",), NOW + 50 * MINUTE)
    # Somebody else's is none of it, nor is time alone.
    assert not engine.decide(NOW + 5 * MINUTE).preemptions
    assert not engine.stirred
    engine.apply([replace(engine.admitted["b0"], checkpoint_time=NOW + 20 * MINUTE)])
    assert engine.stirred
    assert victims(engine.decide(NOW + 20 * MINUTE)) == [("b0", Why.RECLAIM)]


def test_what_a_node_says_of_how_long_its_jobs_run_counts_whatever_is_said_above_it() -> None:
    held = [Admitted(job("b0", 1), admit_time=NOW - 20 * MINUTE)]
    engine = cluster({"a": 1, "b": 0}, held, [job("a0", 1, 10)], min_runtime=10 * MINUTE)
    nodes = tuple(replace(n, min_runtime=60 * MINUTE) if n.id == "org" else n for n in engine.frame.nodes)
    engine.edit(nodes=nodes)
    assert victims(engine.decide(NOW)) == [("b0", Why.RECLAIM)]


def test_who_waits_for_more_than_the_spared_is_told_what_is_short() -> None:
    held = [Admitted(job("b0", 1), admit_time=NOW - MINUTE), Admitted(job("c0", 1), admit_time=0)]
    engine = cluster({"a": 1, "b": 0, "c": 1}, held, [job("a0", 2, 10)], patience=60 * MINUTE)
    assert engine.decide(NOW).reasons["a0"].code is not Code.WAITING_FOR_VICTIMS


def test_who_never_saves_is_taken_when_the_patience_ends() -> None:
    held = [Admitted(job("b0", 1), admit_time=NOW - 20 * MINUTE)]
    engine = cluster({"a": 1, "b": 0}, held, [job("a0", 1, 10)], patience=60 * MINUTE)
    wake = engine.decide(NOW).wake_at
    assert wake == NOW + 40 * MINUTE
    assert victims(engine.decide(wake)) == [("b0", Why.RECLAIM)]


def test_of_those_who_just_saved_none_is_spared_for_a_checkpoint_of_an_earlier_attempt() -> None:
    old = Admitted(job("b0", 1), admit_time=NOW - MINUTE, checkpoint_time=NOW - 2 * MINUTE)
    fresh = Admitted(job("b1", 1), admit_time=NOW - 40 * MINUTE, checkpoint_time=NOW - 1000)
    engine = cluster({"a": 1, "b": 1}, [old, fresh], [job("a0", 1, 10)], patience=60 * MINUTE)
    assert victims(engine.decide(NOW)) == [("b1", Why.RECLAIM)]


def test_a_checkpoint_wakes_who_waits_for_it_in_the_same_node_too() -> None:
    held = [Admitted(job("a0", 1, 5), admit_time=NOW - MINUTE)]
    asks = [job("a1", 1, 10, priority=1)]
    engine = cluster({"a": 1}, held, asks, patience=60 * MINUTE, within=Within.LOWER)
    assert not engine.decide(NOW).preemptions
    engine.apply([replace(engine.admitted["a0"], checkpoint_time=NOW + MINUTE)])
    assert victims(engine.decide(NOW + MINUTE)) == [("a0", Why.WITHIN)]


def test_the_smallest_goes_first_where_its_node_says_so_but_for_priority() -> None:
    waiting = [job("a0", 3, 1), job("a1", 2, 2), job("a2", 1, 3), job("a3", 3, 4, priority=1)]
    for order, started in ((Order.OLDEST, ["a3", "a0"]), (Order.SMALLEST, ["a3", "a2", "a1"])):
        plan = cluster({"a": 6}, [], waiting, order=order).decide(NOW)
        assert [one.uid for one in plan.admissions] == started


def test_a_reservation_holds_back_its_own_nominal_quota_and_not_what_others_borrow() -> None:
    """a's gang waits for a's own jobs; the place that is free is of no use to it, nor to anybody of a."""
    held = [Admitted(job("a0", 3), admit_time=NOW - MINUTE), Admitted(job("b0", 4), admit_time=NOW)]
    for reclaim, started in ((Reclaim.ANY, ["c1"]), (Reclaim.NEVER, [])):
        engine = cluster({"a": 4, "b": 4, "c": 0}, held, [job("a1", 4)], reclaim=reclaim)
        plan = engine.decide(NOW)
        assert [hold.uid for hold in plan.holds] == ["a1"]
        engine.edit(holds=plan.holds)
        engine.apply([job("a2", 1, NOW), job("c1", 1, NOW)])
        assert [one.uid for one in engine.decide(NOW).admissions] == started
