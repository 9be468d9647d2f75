"""The scheduler's engine and the quota service count alike: what the one plans, the other lets be held."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from cairn_quota.shares import Shares, keys_of
from cairn_quota.tree import Flavor, Kind, Node, Quota, Tree
from cairn_quota.validity import TreeInvalid, check
from cairn_scheduler.engine import world
from cairn_scheduler.engine.decide import decide

FLAVORS = ("x", "y")
KEYS = [("x", "gpu"), ("y", "gpu"), ("x", "cpu"), ("*", "gpu"), ("*", "jobs")]
small = st.integers(0, 6).map(lambda n: n * 1000)
maybe = st.none() | small
quotas = st.dictionaries(
    st.sampled_from(KEYS), st.builds(Quota, nominal=maybe, borrow_limit=maybe, lend_limit=maybe, most=maybe)
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Three levels, as an admin could apply them."""
    nodes = [Node("o", "", Kind.ORGANISATION)]
    for group in range(draw(st.integers(1, 2))):
        nodes.append(Node(f"g{group}", "o", Kind.GROUP, quotas=draw(quotas)))
        for team in range(draw(st.integers(1, 3))):
            name = f"t{group}{team}"
            nodes.append(Node(name, f"g{group}", Kind.TEAM, subject=name, quotas=draw(quotas)))
    tree = Tree(nodes=tuple(nodes), flavors=tuple(Flavor(name) for name in FLAVORS))
    try:
        check(tree)
    except TreeInvalid:
        reject()
    return tree


asks = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(FLAVORS), small, small), min_size=1, max_size=12)


def engine_node(node: Node) -> world.Node:
    given = {
        key: world.Quota(one.nominal or 0, one.borrow_limit, one.lend_limit, one.most)
        for key, one in node.quotas.items()
    }
    never: Any = {"within": world.Within.NEVER, "reclaim": world.Reclaim.NEVER}
    return world.Node(node.id, node.parent, kind="team", quotas=given, **never)


@given(trees(), asks)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_what_the_engine_admits_is_held_and_what_it_leaves_would_not_be(tree: Tree, steps: Any) -> None:
    teams = sorted(tree.by_team)
    asked = {
        f"j{number:02}": (teams[which % len(teams)], flavor, {"gpu": gpu, "cpu": cpu, "jobs": 1000})
        for number, (which, flavor, gpu, cpu) in enumerate(steps)
    }
    pending = tuple(
        world.JobRequest(
            uid, node, (world.option(flavor, {r: n for r, n in amounts.items() if n and r != "jobs"}),)
        )
        for uid, (node, flavor, amounts) in asked.items()
    )
    snapshot = world.Snapshot(
        now=1,
        nodes=tuple(engine_node(node) for node in tree.nodes),
        flavors=tuple(world.Flavor(name) for name in FLAVORS),
        pending=pending,
    )
    plan = decide(snapshot)
    shares = Shares(tree)
    for admission in plan.admissions:
        node, flavor, amounts = asked.pop(admission.uid)
        counted = keys_of(flavor, amounts)
        assert shares.excess(node, counted) is None, f"{admission.uid} is refused"
        shares.add(node, counted)
    assert shares.over() == []
    for uid, (node, flavor, amounts) in asked.items():
        assert shares.excess(node, keys_of(flavor, amounts)) is not None, f"{uid} would fit"
