"""What a tree lets its nodes hold: Kueue's algebra, limits, stops; never over quota, whatever is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_common import document
from cairn_quota import treefile
from cairn_quota.account import Books
from cairn_quota.admission import Code, State, Verdict, admit, ruling
from cairn_quota.model import Amounts, Limits, Reservation, ReservationState
from cairn_quota.shares import Shares
from cairn_quota.tree import EMPTY, Kind, Node, Quota, Tree
from cairn_quota.validity import check

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


def state_of(tree: Tree, teams: Mapping[str, Limits] | None = None) -> State:
    check(tree)
    named = {team: Limits() for team in tree.by_team}
    ruled = ruling(tree, {**named, **(teams or {})}.items())
    return State(ruled, Shares(ruled), Books(), version=1)


def parsed(text: str) -> Tree:
    return treefile.parse(document.read(text, document.TREE))


def hold(team: str, *, gpu: float = 0, flavor: str = "x", id: str = "j-1", **more: Any) -> Reservation:
    resources = {"gpu": int(gpu * 1000), "jobs": 1000} if gpu else {"jobs": 1000}
    return replace(
        Reservation(
            team=team, id=id, uid=id, job_uid="j", admission=1, amounts=Amounts(jobs=1),
            state=ReservationState.HELD, create_time=NOW, ask_time=NOW, end_time=None, flavor=flavor,
            resources=resources,
        ),
        **more,
    )  # fmt: skip


def ask(state: State, one: Reservation) -> Verdict:
    return admit(state, one, attempted=False, now=NOW)[0]


COHORT = """
flavors: {x: {}, y: {}}
tree:
  organisation: acme
  children:
    - {team: a, quotas: {x: {gpu: 3}}}
    - {team: b, quotas: {x: {gpu: {nominal: 3, borrow_limit: 2}}}}
    - {team: c, quotas: {x: {gpu: {nominal: 3, lend_limit: 1}}}}
"""


def test_a_team_borrows_what_others_lend_up_to_its_limit() -> None:
    state = state_of(parsed(COHORT))
    assert ask(state, hold("b", gpu=5)).code is Code.HELD
    more = ask(state, hold("b", gpu=1))
    assert (more.code, more.node, more.limit, more.used) == (Code.EXCEEDED, "b", 5000, 5000)
    assert ask(state, hold("a", gpu=2)).code is Code.HELD
    # c keeps 2 of its 3 for itself.
    assert ask(state, hold("a", gpu=1)).code is Code.EXCEEDED
    assert ask(state, hold("c", gpu=2)).code is Code.HELD
    assert ask(state, hold("c", gpu=1)).code is Code.EXCEEDED


def test_what_is_lent_and_borrowed_is_told() -> None:
    state = state_of(parsed(COHORT))
    ask(state, hold("b", gpu=5))
    told = {node: {one.key: one for one in found} for node, found in state.shares.standings().items()}
    key = ("x", "gpu")
    assert (told["b"][key].used, told["b"][key].borrowed, told["b"][key].nominal) == (5000, 2000, 3000)
    assert (told["acme"][key].used, told["acme"][key].nominal, told["acme"][key].borrowed) == (5000, 9000, 0)
    assert told["a"][key].lent == 1000, "a has 3, of which 2 may still be used"


def test_a_flavor_without_nominal_quotas_is_not_rationed() -> None:
    state = state_of(parsed(COHORT))
    assert ask(state, hold("a", gpu=500, flavor="y")).code is Code.HELD


def test_the_first_flavor_that_fits_is_taken_where_none_is_said() -> None:
    state = state_of(parsed(COHORT))
    placed = [admit(state, hold("a", gpu=3, flavor=""), attempted=False, now=NOW)[1].flavor for _ in "123"]
    assert placed == ["x", "x", "y"]


def test_limits_of_a_team_are_its_max_over_all_flavors() -> None:
    state = state_of(parsed(COHORT), {"a": Limits(gpus=2), "new": Limits(jobs=1)})
    over = ask(state, hold("a", gpu=3))
    assert (over.code, over.flavor, over.resource, over.limit) == (Code.EXCEEDED, "*", "gpu", 2000)
    assert ask(state, hold("new")).code is Code.HELD
    assert ask(state, hold("new")).code is Code.EXCEEDED
    assert state.tree.by_id["new"].implied


def test_a_stopped_node_admits_nothing_below_it() -> None:
    state = state_of(
        parsed("{tree: {organisation: o, children: [{group: g, stop: hold, children: [{team: a}]}]}}")
    )
    stopped = ask(state, hold("a", flavor=""))
    assert (stopped.code, stopped.node) == (Code.STOPPED, "g")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"team": "nobody"}, Code.UNKNOWN),
        ({"flavor": "z"}, Code.UNKNOWN),
        ({"node": "b"}, Code.UNKNOWN),
        ({"node": "nowhere"}, Code.UNKNOWN),
        ({"priority_class": "urgent"}, Code.UNKNOWN),
        ({"resources": {}}, Code.INVALID),
        ({"resources": {"gpu": -1, "jobs": 1000}}, Code.INVALID),
        ({"resources": {f"r{n}": 1 for n in range(21)}}, Code.INVALID),
        ({"price": -1}, Code.INVALID),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(changes: Any, code: Code) -> None:
    state = state_of(parsed(COHORT))
    assert ask(state, replace(hold("a", gpu=1), **changes)).code is code
    assert not any(one.used for found in state.shares.standings().values() for one in found)


def test_single_jobs_are_bounded_too() -> None:
    text = "{tree: {organisation: o, children: [{team: a, limits: {gpus_per_job: 2, max_runtime: 1h}}]}}"
    state = state_of(parsed(text))
    assert ask(state, hold("a", gpu=3, flavor="")).code is Code.EXCEEDED
    assert ask(state, hold("a", flavor="", max_runtime=3_600_001)).resource == "runtime"
    assert ask(state, hold("a", gpu=2, flavor="", max_runtime=3_600_000)).code is Code.HELD


small = st.integers(0, 6).map(lambda n: n * 1000)
maybe = st.none() | small
quotas = st.builds(Quota, nominal=maybe, borrow_limit=maybe, most=maybe)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Three levels, two flavors, two resources; some of it not fit to rule."""
    keys = [("x", "gpu"), ("y", "gpu"), ("x", "cpu"), ("*", "gpu"), ("*", "jobs")]
    nodes = [Node("o", "", Kind.ORGANISATION)]
    for group in range(draw(st.integers(1, 2))):
        nodes.append(
            Node(f"g{group}", "o", Kind.GROUP, quotas=draw(st.dictionaries(st.sampled_from(keys), quotas)))
        )
        for team in range(draw(st.integers(1, 3))):
            name = f"t{group}{team}"
            given = draw(st.dictionaries(st.sampled_from(keys), quotas))
            lent = {
                key: replace(quota, lend_limit=draw(st.none() | st.integers(0, quota.nominal or 0)))
                for key, quota in given.items()
            }
            nodes.append(Node(name, f"g{group}", Kind.TEAM, subject=name, quotas=lent))
    return ruling(replace(EMPTY, nodes=tuple(nodes), flavors=parsed(COHORT).flavors), ())


asks = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from("xy"), small, small, st.booleans()), min_size=1, max_size=40
)


@given(trees(), asks)
@settings(deadline=None)
def test_no_subtree_is_ever_over_and_what_is_given_back_is_free_again(tree: Tree, steps: Any) -> None:
    state = State(tree, Shares(tree), Books(), version=1)
    teams = sorted(tree.by_team)
    held: list[Reservation] = []
    for which, flavor, gpu, cpu, first in steps:
        if first and held:
            state.give_back(held.pop(0), now=NOW)
        one = hold(teams[which % len(teams)], flavor=flavor, resources={"gpu": gpu, "cpu": cpu, "jobs": 1000})
        verdict, placed = admit(state, one, attempted=False, now=NOW)
        if verdict.code is Code.HELD:
            held.append(placed)
        else:
            assert verdict.used + verdict.requested > verdict.limit
        assert state.shares.over() == []
        _check_borrowing(state)
    for one in held:
        state.give_back(one, now=NOW)
    assert not any(one.used for found in state.shares.standings().values() for one in found)


def _check_borrowing(state: State) -> None:
    for node, found in state.shares.standings().items():
        for one in found:
            quota = state.tree.by_id[node].quotas.get(one.key, Quota())
            assert one.used >= 0
            if quota.borrow_limit is not None and state.tree.by_id[node].parent != "":
                assert one.borrowed <= quota.borrow_limit, f"{node} {one}"
            if quota.lend_limit is not None:
                assert one.lent <= quota.lend_limit, f"{node} {one}"


@given(trees(), asks)
@settings(deadline=None)
def test_the_order_of_what_is_held_has_no_influence_on_what_is_left(tree: Tree, steps: Any) -> None:
    teams = sorted(tree.by_team)
    some = [(teams[which % len(teams)], {(flavor, "gpu"): gpu}) for which, flavor, gpu, _, _ in steps]
    forward, backward = Shares(tree), Shares(tree)
    for node, counted in some:
        forward.add(node, counted)
    for node, counted in reversed(some):
        backward.add(node, counted)
    for key in (("x", "gpu"), ("y", "gpu")):
        assert [forward.available(team, key) for team in teams] == [
            backward.available(team, key) for team in teams
        ]
