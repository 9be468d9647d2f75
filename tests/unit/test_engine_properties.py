"""The engine's invariants over random worlds: trees of three levels and more, two resources, two flavors."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cairn_scheduler.engine.decide import Engine, Gone, decide
from cairn_scheduler.engine.quota import Tree
from cairn_scheduler.engine.world import (
    ANY,
    Admitted,
    JobRequest,
    Node,
    Option,
    Plan,
    Policy,
    Quota,
    Snapshot,
    Why,
)
from tests.scenarios.checks import left_idle, needless, overcommitted, own_use, rationed, subtree
from tests.scenarios.rounds import settle
from tests.scenarios.worlds import Kind, arrive, history, leave, start

SEEDS = st.integers(0, 2**32)
# The same examples each time: the long run over new ones is tests/bench/bench_worlds.py.
FEW = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ANY_WORLD = Kind()
WITH_MACHINES = Kind(pools=True)
TAME = Kind(tame=True)


def same(one: Plan, other: Plan) -> bool:
    return (one.admissions, one.promises, one.preemptions, one.holds, one.claims) == (
        other.admissions,
        other.promises,
        other.preemptions,
        other.holds,
        other.claims,
    ) and {u: r.code for u, r in one.reasons.items()} == {u: r.code for u, r in other.reasons.items()}


@FEW
@given(SEEDS, st.booleans())
def test_no_subtree_is_ever_over_its_quota_and_no_machine_over_its_size(seed: int, pools: bool) -> None:
    for world, plan in history(Random(seed), Kind(pools=pools, steps=6)):
        assert overcommitted(settle(world, plan)) == []
        # And while victims are still in their grace, with those that start beside them.
        promised = {one.uid for one in plan.promises}
        held = settle(world, replace(plan, promises=(), preemptions=()))
        assert overcommitted(held) == []
        assert not promised & {job.request.uid for job in held.admitted} - {v.uid for v in plan.preemptions}


@FEW
@given(SEEDS)
def test_lent_and_borrowed_amounts_stay_within_their_limits(seed: int) -> None:
    for world, plan in history(Random(seed), ANY_WORLD):
        after = settle(world, plan)
        used = own_use(after.admitted)
        for node in after.nodes:
            for key, quota in node.quotas.items():
                own, felt, _ = subtree(after, node, key, used)
                if node.parent and rationed(after, key) and quota.borrow_limit is not None:
                    assert felt - own <= quota.borrow_limit
        assert overcommitted(after) == []


@FEW
@given(SEEDS)
def test_a_job_inside_its_nominal_quota_starts_or_is_promised_a_place_in_one_pass(seed: int) -> None:
    for world, plan in history(Random(seed), TAME):
        used = own_use(world.admitted)
        starting = {one.uid for one in (*plan.admissions, *plan.promises)}
        nodes = {node.id: node for node in world.nodes}
        for request in world.pending:
            node, choice = nodes[request.node], request.options[0]
            inside = all(
                used.get((node.id, key), 0) + amount <= node.quotas.get(key, Quota()).nominal
                for key, amount in choice.usage
                if key[0] != ANY
            )
            # Jobs of its own node may come first and use its quota up.
            rivals = [r for r in world.pending if r.node == request.node and r.uid != request.uid]
            if inside and not rivals and not any(n.parent == node.id for n in world.nodes):
                assert request.uid in starting, plan.reasons.get(request.uid)


@FEW
@given(SEEDS, st.booleans())
def test_nothing_that_fits_is_left_waiting(seed: int, pools: bool) -> None:
    for world, plan in history(Random(seed), Kind(pools=pools)):
        assert left_idle(settle(world, plan), plan) == []


@FEW
@given(SEEDS)
def test_gangs_start_whole_or_not_at_all(seed: int) -> None:
    for world, plan in history(Random(seed), WITH_MACHINES):
        known = {job.uid: job for job in world.pending}
        for one in plan.admissions:
            assert sum(ranks for _, ranks in one.machines) == known[one.uid].ranks


# A failure that was found with a plan that turned out to be void.
@example(16265, True)
# Who evicts nobody, for it would be ousted, does so once its ouster has a place.
@example(2600231, True)
@example(3800087, True)
@example(4400009, True)
@FEW
@given(SEEDS, st.booleans())
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(seed: int, pools: bool) -> None:
    for world, plan in history(Random(seed), Kind(pools=pools)):
        after = settle(world, plan)
        again = decide(after)
        assert (again.promises, again.preemptions) == ((), ())
        # Who was kept from a place for another's sake may find that there is room for both.
        kept = {uid for uid, reason in plan.reasons.items() if reason.code == "ReservedFor"}
        assert {one.uid for one in again.admissions} <= kept


# Others that the same plan admits change the shares; a min_runtime ends.
@example(1901, True)
@FEW
@given(SEEDS, st.booleans())
def test_no_victim_evicts_its_evictor(seed: int, pools: bool) -> None:
    for world, plan in history(Random(seed), Kind(pools=pools)):
        by = {one.uid: one.by for one in plan.preemptions if one.by}
        # Long after, so that no min_runtime stands in the way.
        later = replace(settle(world, plan), now=world.now + 10_000_000)
        for one in decide(later).preemptions:
            assert by.get(one.by) != one.uid


@FEW
@given(SEEDS, st.booleans())
def test_without_any_one_of_its_victims_a_plan_does_not_fit(seed: int, pools: bool) -> None:
    for world, plan in history(Random(seed), Kind(pools=pools)):
        assert needless(world, plan) == []


@FEW
@given(SEEDS, st.booleans())
def test_the_plan_does_not_depend_on_the_order_of_what_it_is_told(seed: int, pools: bool) -> None:
    random = Random(seed)
    for world, plan in history(random, Kind(pools=pools)):
        parts = {
            name: tuple(random.sample(getattr(world, name), len(getattr(world, name))))
            for name in ("nodes", "flavors", "pools", "pending", "admitted")
        }
        assert same(decide(replace(world, **parts)), plan)


@FEW
@given(SEEDS)
def test_a_higher_priority_never_delays_a_job(seed: int) -> None:
    random = Random(seed)
    for world, plan in history(random, ANY_WORLD):
        if not world.pending:
            continue
        job = random.choice(world.pending)
        higher = replace(job, priority=job.priority + 1)
        other = decide(replace(world, pending=tuple(higher if j is job else j for j in world.pending)))
        assert _delay(other, job.uid) <= _delay(plan, job.uid)


def _delay(plan: Plan, uid: str) -> int:
    if any(one.uid == uid for one in plan.admissions):
        return 0
    return 1 if any(one.uid == uid for one in plan.promises) else 2


@FEW
@given(SEEDS)
def test_what_is_used_and_what_is_free_sum_to_the_capacity(seed: int) -> None:
    for world, plan in history(Random(seed), ANY_WORLD):
        after = settle(world, plan)
        tree = Tree(after.nodes)
        for job in after.admitted:
            tree.take(tree.seats[job.request.node], job.request.options[job.option].usage)
        root = tree.seats["org"]
        for key in root.quotas:
            cells = [cell for seat in tree.seats.values() if (cell := seat.cell(key)) is not None]
            spare = sum(max(0, cell.local - cell.usage) for cell in cells if cell.parent is not None)
            top = root.cell(key)
            assert top is not None
            whole = sum(node.quotas.get(key, Quota()).nominal for node in after.nodes)
            assert top.total + spare + top.quota - top.usage == whole


@FEW
@given(SEEDS, st.booleans())
def test_every_job_that_waits_has_a_reason(seed: int, pools: bool) -> None:
    for world, plan in history(Random(seed), Kind(pools=pools)):
        started = {one.uid for one in plan.admissions}
        assert plan.reasons.keys() == {job.uid for job in world.pending} - started
        assert all(reason.code != "NotEvaluated" for reason in plan.reasons.values())


@FEW
@given(SEEDS, st.booleans())
def test_nobody_is_promised_a_place_that_nobody_leaves(seed: int, pools: bool) -> None:
    for world, plan in history(Random(seed), Kind(pools=pools)):
        leaving = plan.preemptions or [job for job in world.admitted if job.stopping]
        assert leaving or not plan.promises


@FEW
@given(SEEDS)
def test_no_job_is_evicted_for_another_before_its_min_runtime(seed: int) -> None:
    for world, plan in history(Random(seed), ANY_WORLD):
        nodes = {node.id: node for node in world.nodes}
        running = {job.request.uid: job for job in world.admitted}
        for one in plan.preemptions:
            if one.why not in (Why.DRAIN, Why.BUDGET):
                ran = world.now - running[one.uid].admit_time
                assert ran >= nodes[running[one.uid].request.node].min_runtime


@FEW
@given(SEEDS)
def test_a_starving_job_starts_when_its_reservation_said_whatever_comes_after_it(seed: int) -> None:
    random = Random(seed)
    size = random.randint(3, 8)
    world = Snapshot(
        now=0,
        nodes=(Node("org"), Node("a", "org", quotas={("f", "gpu"): Quota(size * 1000)})),
        policy=Policy(reserve_after=60_000, most_overtaken=3),
    )
    wide = _one("wide", size, 30_000)
    due: int | None = None
    for step in range(60):
        world = replace(world, now=step * 10_000)
        world = replace(
            world,
            admitted=tuple(
                job for job in world.admitted if job.admit_time + (job.request.max_runtime or 0) > world.now
            ),
        )
        new = [_one(f"s{step}-{n}", random.randint(1, 2), random.randint(1, 9) * 10_000) for n in range(2)]
        pending = (*world.pending, *new) if step else (*new, wide)
        world = replace(
            world, pending=tuple(replace(j, create_time=j.create_time or world.now) for j in pending)
        )
        plan = decide(world)
        if due is None:
            due = next((hold.start for hold in plan.holds if hold.uid == "wide"), None)
        world = settle(world, plan)
        if any(job.request.uid == "wide" for job in world.admitted):
            assert due is None or world.now <= due + 10_000
            return
    raise AssertionError("it never started")


def _one(uid: str, gpus: int, runs: int) -> JobRequest:
    return JobRequest(uid, "a", (Option("f", ((("f", "gpu"), gpus * 1000),)),), max_runtime=runs)


@FEW
@given(SEEDS, st.booleans())
def test_an_engine_that_was_told_of_every_change_plans_like_a_fresh_one(seed: int, pools: bool) -> None:
    random = Random(seed)
    kind = Kind(pools=pools)
    world = start(random, kind)
    engine = Engine(world)
    for step in range(6):
        world = arrive(random, kind, world, step)
        known = engine.pending.keys() | engine.admitted.keys()
        engine.apply(job for job in world.pending if job.uid not in known)
        plan = engine.decide(world.now)
        assert same(plan, decide(world))
        engine.edit(claims=plan.claims)
        # Some of what was planned does not come about: the quota service had refused it.
        kept = tuple(one for one in plan.admissions if random.random() < 0.8)
        stops = {one.uid: one for one in plan.preemptions}
        world = leave(random, settle(world, replace(plan, admissions=kept, promises=(), preemptions=())))
        world = replace(
            world,
            admitted=tuple(
                replace(job, stopping=stops[job.request.uid].by or "-", gone_at=world.now + 1)
                if job.request.uid in stops and not job.stopping
                else job
                for job in world.admitted
            ),
        )
        _catch_up(engine, world)


def _catch_up(engine: Engine, world: Snapshot) -> None:
    held = {job.request.uid: job for job in world.admitted}
    waiting = {job.uid: job for job in world.pending}
    for uid in sorted((engine.pending.keys() | engine.admitted.keys()) - held.keys() - waiting.keys()):
        engine.apply([Gone(uid)])
    changes: list[JobRequest | Admitted] = [j for u, j in held.items() if engine.admitted.get(u) != j]
    changes += [j for u, j in waiting.items() if engine.pending.get(u) != j]
    engine.apply(changes)


@FEW
@given(SEEDS)
def test_who_says_no_to_an_amount_is_known_exactly_where_it_is_not_available(seed: int) -> None:
    random = Random(seed)
    for world, _ in history(random, ANY_WORLD):
        tree = Tree(world.nodes)
        for job in world.admitted:
            tree.take(tree.seats[job.request.node], job.request.options[job.option].usage)
        for seat in tree.seats.values():
            for key in {*seat.root.quotas, *seat.root.capped}:
                cell, amount = seat.cell(key), random.randint(0, 12) * 500
                assert cell is not None
                assert bool(cell.against(amount)) == (cell.available() < amount)
