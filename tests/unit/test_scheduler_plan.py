"""What holds for every plan, whatever the world."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cairn_scheduler.model import Resources
from cairn_scheduler.plan import (
    MOST_OVERTAKEN,
    Limit,
    Place,
    Placed,
    Plan,
    Snapshot,
    Waiting,
    decide,
    exceeds,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEAMS = ["a", "b", "c"]

needs = st.builds(
    Resources,
    cpu_milli=st.sampled_from([500, 1000, 2000, 8000]),
    gpus=st.integers(0, 4),
    memory_mib=st.sampled_from([0, 0, 512, 4096]),
)
moments = st.integers(-100, 100).map(lambda seconds: NOW + timedelta(seconds=seconds))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Worlds in which nothing is over capacity or over quota yet."""
    places = [
        Place(name, draw(st.builds(Resources, st.integers(1, 9).map(lambda n: n * 1000), st.integers(0, 8),
                                   memory_mib=st.sampled_from([1024, 8192]))))
        for name in draw(st.lists(st.sampled_from(["local", "other"]), unique=True, max_size=2))
    ]  # fmt: skip
    waiting = [
        Waiting(f"w{index:02}", draw(st.sampled_from(TEAMS)), draw(st.integers(-2, 2)), draw(moments),
                draw(needs), draw(st.none() | moments), draw(st.integers(0, MOST_OVERTAKEN + 2)))
        for index in range(draw(st.integers(0, 12)))
    ]  # fmt: skip
    limits = {
        team: Limit(draw(st.none() | st.integers(0, 9)), draw(st.none() | st.integers(0, 9000)),
                    draw(st.none() | st.integers(0, 6)))
        for team in draw(st.lists(st.sampled_from(TEAMS), unique=True))
    }  # fmt: skip
    snapshot = Snapshot(NOW, places, [], waiting, limits)
    # What an earlier plan placed is what holds slots now.
    if draw(st.booleans()):
        snapshot = apply(snapshot, decide(snapshot))
        more = [
            Waiting(f"x{index:02}", draw(st.sampled_from(TEAMS)), draw(st.integers(-2, 2)), draw(moments),
                    draw(needs))
            for index in range(draw(st.integers(0, 6)))
        ]  # fmt: skip
        snapshot = replace(snapshot, waiting=[*snapshot.waiting, *more])
    return snapshot


def apply(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """The world after a plan was carried out."""
    pools = {admission.uid: admission.pool for admission in plan.admissions}
    placed = [
        Placed(job.uid, job.team, pools[job.uid], job.need, job.create_time)
        for job in snapshot.waiting
        if job.uid in pools
    ]
    waiting = [
        replace(job, overtaken=plan.overtaken.get(job.uid, job.overtaken))
        for job in snapshot.waiting
        if job.uid not in pools
    ]
    return replace(snapshot, placed=[*snapshot.placed, *placed], waiting=waiting)


def total(needs: list[Resources]) -> tuple[int, int, int]:
    return sum(n.cpu_milli for n in needs), sum(n.gpus for n in needs), sum(n.memory_mib for n in needs)


@given(snapshots())
def test_never_more_than_the_capacity(snapshot: Snapshot) -> None:
    after = apply(snapshot, decide(snapshot))
    for place in snapshot.places:
        cpu, gpus, memory = total([job.need for job in after.placed if job.pool == place.name])
        assert cpu <= place.capacity.cpu_milli
        assert gpus <= place.capacity.gpus
        assert memory <= place.capacity.memory_mib


@given(snapshots())
def test_never_more_than_the_teams_limit(snapshot: Snapshot) -> None:
    after = apply(snapshot, decide(snapshot))
    for team, limit in snapshot.limits.items():
        mine = [job.need for job in after.placed if job.team == team]
        if len(mine) == len([job for job in snapshot.placed if job.team == team]):
            continue
        cpu, gpus, _ = total(mine)
        assert limit.jobs is None or len(mine) <= limit.jobs
        assert limit.gpus is None or gpus <= limit.gpus
        assert limit.cpu_milli is None or cpu <= limit.cpu_milli


@given(snapshots(), st.randoms(use_true_random=False))
def test_the_same_plan_whatever_the_order_of_the_entries(snapshot: Snapshot, chance: random.Random) -> None:
    parts = {name: list(getattr(snapshot, name)) for name in ("places", "placed", "waiting")}
    for part in parts.values():
        chance.shuffle(part)
    assert decide(replace(snapshot, **parts)) == decide(snapshot)  # type: ignore[arg-type]


@given(snapshots())
def test_every_job_is_admitted_or_has_a_reason(snapshot: Snapshot) -> None:
    plan = decide(snapshot)
    admitted = [admission.uid for admission in plan.admissions]
    assert len(set(admitted)) == len(admitted)
    assert set(admitted) | plan.reasons.keys() == {job.uid for job in snapshot.waiting}
    assert not set(admitted) & plan.reasons.keys()
    assert all(reason for reason in plan.reasons.values())


@given(snapshots())
def test_nothing_that_fits_is_left_waiting_but_behind_one_that_was_passed_too_often(
    snapshot: Snapshot,
) -> None:
    plan = decide(snapshot)
    for job in apply(snapshot, plan).waiting:
        reason = plan.reasons[job.uid]
        if not reason.startswith("CapacityFull"):
            continue
        after = apply(snapshot, plan)
        for place in snapshot.places:
            cpu, gpus, memory = total([one.need for one in after.placed if one.pool == place.name])
            has = place.capacity
            assert (
                cpu + job.need.cpu_milli > has.cpu_milli
                or gpus + job.need.gpus > has.gpus
                or memory + job.need.memory_mib > has.memory_mib
            )


@given(snapshots())
def test_a_world_in_which_nothing_happens_stays_as_it_is(snapshot: Snapshot) -> None:
    after = apply(snapshot, decide(snapshot))
    for _ in range(5):
        again = decide(after)
        assert again.admissions == ()
        assert again.overtaken == {}
        after = apply(after, again)


@given(snapshots(), st.integers(0, 11))
def test_a_higher_priority_never_delays_a_job(snapshot: Snapshot, index: int) -> None:
    if index >= len(snapshot.waiting):
        return
    job = snapshot.waiting[index]
    raised = [replace(one, priority=9) if one is job else one for one in snapshot.waiting]
    before = {admission.uid for admission in decide(snapshot).admissions}
    after = {admission.uid for admission in decide(replace(snapshot, waiting=raised)).admissions}
    assert job.uid not in before or job.uid in after


def test_a_wide_job_is_passed_a_bounded_number_of_times() -> None:
    place = Place("local", Resources(4000))
    wide = Waiting("wide", "a", 0, NOW, Resources(4000))
    world = Snapshot(
        NOW, [place], [Placed("first", "a", "local", Resources(1000), NOW)], [wide], {"a": Limit()}
    )
    passed = 0
    for number in range(200):
        narrow = Waiting(f"n{number:03}", "a", 0, NOW + timedelta(seconds=number + 1), Resources(1000))
        world = replace(world, waiting=[*world.waiting, narrow])
        plan = decide(world)
        passed += sum(admission.uid != "wide" for admission in plan.admissions)
        world = apply(world, plan)
        if "wide" in {job.uid for job in world.placed}:
            break
        # The oldest ends; there is always another one to take its place.
        world = replace(world, placed=world.placed[1:])
    assert "wide" in {job.uid for job in world.placed}
    assert passed == MOST_OVERTAKEN


def test_a_kind_of_gpu_that_is_not_here_is_not_waited_for() -> None:
    here = [Place("local", Resources(8000, 2, "H200", 4096))]
    assert exceeds(Resources(1000, 1, "H200"), here) is None
    assert exceeds(Resources(1000, 1, "H200-141GB"), here) is None
    assert exceeds(Resources(1000, 2), here) is None
    told = exceeds(Resources(1000, 1, "A100"), here)
    assert told is not None
    assert "1 A100 GPU" in told
    assert "2 H200 GPUs" in told
    assert exceeds(Resources(1000, 3), here) is not None
    assert exceeds(Resources(1000), []) is not None
