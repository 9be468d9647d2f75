"""Who could take from a job that a plan evicts others for; what is said to be impossible no search finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest

from cairn_scheduler.engine import passes
from cairn_scheduler.engine.bars import Bars
from cairn_scheduler.engine.decide import Engine, decide
from cairn_scheduler.engine.order import Line
from cairn_scheduler.engine.ousting import could_oust, ousted
from cairn_scheduler.engine.passes import Pass
from cairn_scheduler.engine.world import (
    Admitted,
    Flavor,
    JobRequest,
    Node,
    Plan,
    Quota,
    Reclaim,
    Snapshot,
    Within,
    option,
)
from tests.scenarios.rounds import settle
from tests.scenarios.worlds import Kind, history

GPU = ("f", "gpu")


def job(uid: str, node: str, gpus: int = 1, **more: object) -> JobRequest:
    return JobRequest(uid, node, (option("f", {"gpu": 1000 * gpus}),), **more)  # type: ignore[arg-type]


NODES = (
    Node("org", quotas={GPU: Quota(0)}),
    Node("a", "org", quotas={GPU: Quota(1000)}),
    Node("b", "org", quotas={GPU: Quota(3000)}),
)
RUNNING = (Admitted(job("x", "a", priority=5, create_time=5)), Admitted(job("y", "a", priority=1)))


def possible(request: JobRequest, *kept: Admitted, nodes: tuple[Node, ...] = NODES) -> bool:
    engine = Engine(Snapshot(1000, nodes, (Flavor("f"),), admitted=RUNNING))
    return could_oust(engine.state, engine.state.tree.seats[request.node], request, kept)


def test_in_its_own_node_it_takes_from_lower_priority_alone() -> None:
    nodes = tuple(replace(node, within=Within.LOWER) for node in NODES)
    assert possible(job("new", "a", priority=6), *RUNNING, nodes=nodes)
    assert possible(job("new", "a", priority=5), RUNNING[1], nodes=nodes)
    assert not possible(job("new", "a", priority=5), RUNNING[0], nodes=nodes)
    never = tuple(replace(node, within=Within.NEVER) for node in NODES)
    assert not possible(job("new", "a", priority=9), *RUNNING, nodes=never)


def test_where_newer_ones_yield_it_takes_from_one_that_came_later() -> None:
    nodes = tuple(replace(node, within=Within.LOWER_OR_NEWER) for node in NODES)
    assert possible(job("old", "a", priority=5, create_time=4), RUNNING[0], nodes=nodes)
    assert not possible(job("new", "a", priority=5, create_time=6), RUNNING[0], nodes=nodes)


def test_from_another_node_it_takes_what_that_borrows() -> None:
    nodes = tuple(replace(node, reclaim=Reclaim.ANY) for node in NODES)
    assert possible(job("new", "b"), RUNNING[0], nodes=nodes)
    enough = tuple(replace(node, quotas={GPU: Quota(2000)}) if node.id == "a" else node for node in nodes)
    assert not possible(job("new", "b"), RUNNING[0], nodes=enough)
    lower = tuple(replace(node, reclaim=Reclaim.LOWER) for node in NODES)
    assert not possible(job("new", "b", priority=5), RUNNING[0], nodes=lower)
    assert possible(job("new", "b", priority=6), RUNNING[0], nodes=lower)


def test_it_takes_from_nobody_who_has_nothing_of_what_it_wants() -> None:
    nodes = tuple(replace(node, within=Within.LOWER) for node in NODES)
    other = JobRequest("new", "a", (option("f", {"cpu": 1000}),), priority=9)
    assert not possible(other, *RUNNING, nodes=nodes)


def test_a_plan_that_was_void_leaves_no_failure_behind() -> None:
    # New's user used less, so it is tried first and takes from low; old would take that from new in the next
    # pass. Of that void plan nothing stays, least of all that old had found nobody to take from.
    nodes = (Node("org"), Node("a", "org", quotas={GPU: Quota(1000)}, within=Within.LOWER_OR_NEWER))
    old, new = job("old", "a", user="u", create_time=1), job("new", "a", user="v", create_time=2)
    low = Admitted(job("low", "a", priority=-1))
    world = Snapshot(
        1000, nodes, (Flavor("f"),), pending=(old, new), admitted=(low,), use={("a", "u"): 1_000_000}
    )
    plan = decide(world)
    assert [(one.uid, one.by) for one in plan.preemptions] == [("low", "old")]
    after = decide(settle(world, plan))
    assert (after.admissions, after.promises, after.preemptions) == ((), (), ())


def test_who_would_be_ousted_evicts_nobody_until_its_ousters_have_places() -> None:
    bars = Bars()
    assert not bars.keep("x", ())
    assert bars.learn({"x": "y"})
    assert bars.keep("x", ())
    assert bars.keep("x", ("z",))
    assert not bars.keep("x", ("y",))
    assert bars.learn({"x": "z"})
    assert bars.keep("x", ("y",))
    assert not bars.keep("x", ("y", "z"))
    # Ousted by one that had a place: whoever has one, it evicts nobody in this decision any more.
    assert bars.learn({"x": "z"})
    assert bars.keep("x", ("y", "z"))
    assert not bars.learn({})
    assert not bars.learn({"x": "z"})


def test_large_jobs_that_all_come_at_once_are_placed_in_a_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node runs a job of 5 of its 20 GPUs; a large one of 20 and three small ones wait in each.

    By shares alone small ones would evict in each plan what one or the other large job takes back: 21 plans
    would be void here, and the more the more nodes there are.
    """
    made = []
    run = Pass.run

    def counted(self: Pass) -> Plan:
        made.append(run(self))
        return made[-1]

    monkeypatch.setattr(Pass, "run", counted)
    nodes = [Node("org"), Node("cohort", "org", quotas={GPU: Quota(0, 0)})]
    running, waiting = [], []
    for name in (f"t{number:02}" for number in range(30)):
        nodes.append(Node(name, "cohort", quotas={GPU: Quota(20_000, 100_000)}))
        running.append(Admitted(job(f"{name}-medium", name, 5, priority=100)))
        waiting += [job(f"{name}-large", name, 20, priority=200, create_time=2)]
        waiting += [job(f"{name}-small-{n}", name, 1, priority=50, create_time=n) for n in range(3)]
    world = Snapshot(1000, tuple(nodes), (Flavor("f"),), pending=tuple(waiting), admitted=tuple(running))
    plan = decide(world)
    assert len(made) <= 4
    placed = {one.uid for one in (*plan.admissions, *plan.promises)}
    assert placed == {one.uid for one in waiting if one.priority == 200}
    assert {one.uid for one in plan.preemptions} == {one.request.uid for one in running}
    after = decide(settle(world, plan))
    assert (after.admissions, after.promises, after.preemptions) == ((), (), ())


def test_no_search_finds_what_is_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = [0, 0]
    see = Pass._see_who_ousts

    def checked(self: Pass, line: Line, kept: Sequence[Admitted]) -> None:
        request = line.head()
        if request is not None and not self.bars.keep(request.uid, self.fresh):
            maybe = could_oust(self.state, line.seat, request, kept)
            looked[maybe] += 1
            for now in () if maybe else (self.now, passes.LATE):
                searches = ((n, self._search(line, request, n, now)) for n in line.options or ())
                assert ousted(searches, self.policy, self._kept) == set()
        see(self, line, kept)

    monkeypatch.setattr(Pass, "_see_who_ousts", checked)
    for seed in range(150):
        for _ in history(Random(seed), Kind(pools=seed % 2 == 0, steps=6)):
            pass
    assert min(looked) > 0
