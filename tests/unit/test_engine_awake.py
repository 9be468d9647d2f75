"""What a pass leaves out: nodes for which nothing has changed since they were told no."""

from __future__ import annotations

from dataclasses import replace

from cairn_scheduler.engine.awake import awake
from cairn_scheduler.engine.decide import Engine, Gone
from cairn_scheduler.engine.world import (
    UNIT,
    Admitted,
    Budget,
    Code,
    Flavor,
    JobRequest,
    Node,
    Policy,
    Quota,
    Snapshot,
    option,
)

NOW = 1_000_000


def full(*, reserve_after: int = 10**9) -> Engine:
    """Two teams of flavor f and one of g, each with all it may have and one job more."""
    nodes = [Node("org")]
    jobs = []
    for team, flavor in (("a", "f"), ("b", "f"), ("c", "g")):
        nodes.append(Node(team, "org", quotas={(flavor, "gpu"): Quota(2 * UNIT)}))
        one = (option(flavor, {"gpu": UNIT}),)
        jobs += [JobRequest(f"{team}{n}", team, one, create_time=NOW - 9 + n) for n in range(3)]
    flavors = (Flavor("f"), Flavor("g"))
    policy = Policy(reserve_after=reserve_after)
    engine = Engine(Snapshot(NOW, tuple(nodes), flavors, pending=tuple(jobs), policy=policy))
    plan = engine.decide(NOW)
    assert sorted(one.uid for one in plan.admissions) == ["a0", "a1", "b0", "b1", "c0", "c1"]
    engine.apply([Admitted(engine.pending[one.uid], one.option, (), NOW) for one in plan.admissions])
    return engine


def test_nothing_is_looked_at_again_where_all_came_about_as_planned() -> None:
    engine = full()
    assert awake(engine, NOW + 1).names == set()
    plan = engine.decide(NOW + 1)
    assert not plan.admissions
    assert not plan.news
    assert {uid: reason.code for uid, reason in plan.reasons.items()} == dict.fromkeys(
        ("a2", "b2", "c2"), Code.QUOTA_FULL
    )


def test_who_shares_what_was_freed_is_looked_at_and_nobody_else() -> None:
    engine = full()
    engine.decide(NOW + 1)
    engine.apply([Gone("a0")])
    assert awake(engine, NOW + 2).names == {"a", "b"}
    assert [one.uid for one in engine.decide(NOW + 2).admissions] == ["a2"]


def test_a_job_that_comes_further_or_saves_changes_nobodys_chances() -> None:
    engine = full()
    engine.decide(NOW + 1)
    running = engine.admitted["a0"]
    engine.apply([replace(running, request=replace(running.request, attempted=True), checkpoint_time=NOW)])
    assert awake(engine, NOW + 2).names == set()
    assert engine.admitted["a0"].checkpoint_time == NOW
    assert engine.state.running["a"]["a0"].request.attempted
    engine.apply([replace(running, request=replace(running.request, priority=5))])
    assert awake(engine, NOW + 2).names == {"a", "b"}


def test_what_budgets_have_left_is_news_only_where_they_say_something_else() -> None:
    engine = full()
    engine.edit(budgets=(Budget("money", "a", 1000),))
    engine.decide(NOW + 1)
    engine.edit(budgets=(Budget("money", "a", 900, unused=950),))
    assert awake(engine, NOW + 2).names == set()
    engine.edit(budgets=(Budget("money", "a", 0),))
    plan = engine.decide(NOW + 2)
    assert {uid: reason.code for uid, reason in plan.news.items()} == {"a2": Code.BUDGET_EXHAUSTED}


def test_what_was_planned_and_did_not_come_about_is_seen() -> None:
    engine = full()
    engine.apply([Gone("c0")])
    (one,) = engine.decide(NOW + 2).admissions
    assert one.uid == "c2"
    # The quota service said no; somebody else may have it then.
    other = JobRequest("c9", "c", engine.pending["c2"].options, priority=1, create_time=NOW)
    engine.apply([Gone("c2"), other])
    assert [one.uid for one in engine.decide(NOW + 3).admissions] == ["c9"]


def test_a_new_job_behind_others_like_it_is_told_what_they_were_told() -> None:
    engine = full()
    like = engine.pending["b2"]
    engine.apply([JobRequest("b9", "b", like.options, create_time=NOW)])
    plan = engine.decide(NOW + 1)
    assert plan.reasons["b9"] == plan.reasons["b2"]
    assert plan.news.keys() == {"b9"}


def test_who_starves_by_now_is_looked_at_until_one_has_the_reservation() -> None:
    engine = full(reserve_after=60_000)
    due = engine.pending["a2"].create_time + 60_000
    early = awake(engine, NOW + 1)
    assert early.names == set()
    assert early.wake == [due] * 3
    plan = engine.decide(due)
    assert len(plan.holds) == 1
    engine.edit(holds=plan.holds)
    assert awake(engine, due + 1).names == set()
    assert engine.decide(due + 1).holds == plan.holds
