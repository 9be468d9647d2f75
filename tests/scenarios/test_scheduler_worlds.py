"""Small worlds: what is there, what the plan is, and that it stays so for five more rounds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cairn_scheduler.model import Resources
from cairn_scheduler.plan import Limit, Place, Placed, Snapshot, Waiting, decide

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: int) -> datetime:
    return NOW + timedelta(seconds=seconds)


def cpus(number: int) -> Resources:
    return Resources(number * 1000)


def gpus(number: int) -> Resources:
    return Resources(1000, number)


def waits(
    uid: str, need: Resources, *, team: str = "a", priority: int = 0, since: int = 0, retry: int | None = None
) -> Waiting:
    return Waiting(uid, team, priority, at(since), need, None if retry is None else at(retry))


def runs(uid: str, need: Resources, *, team: str = "a", due: bool = False) -> Placed:
    return Placed(uid, team, "local", need, at(-100), due=due)


BIG = Place("local", Resources(8000, 4, "", 16384))
FREE = {"a": Limit(), "b": Limit()}

WORLDS: list[tuple[str, list[Placed], list[Waiting], dict[str, Limit], list[str], dict[str, str]]] = [
    ("nothing to do", [], [], FREE, [], {}),
    ("one fits", [], [waits("x", cpus(8))], FREE, ["x"], {}),
    ("oldest first", [runs("r", cpus(4))], [waits("new", cpus(4), since=2), waits("old", cpus(4), since=1)],
     FREE, ["old"], {"new": "CapacityFull"}),
    ("priority before age", [runs("r", cpus(4))],
     [waits("old", cpus(4)), waits("high", cpus(4), priority=1, since=5)], FREE, ["high"],
     {"old": "CapacityFull"}),
    ("a retry that is due leads its class", [runs("r", cpus(4))],
     [waits("old", cpus(4), since=-9), waits("again", cpus(4), since=5, retry=0)], FREE, ["again"],
     {"old": "CapacityFull"}),
    ("a retry that is not due does not", [], [waits("again", cpus(8), retry=5)], FREE, [],
     {"again": "WaitingForRetry"}),
    ("a smaller one passes what does not fit", [runs("r", cpus(4))],
     [waits("wide", cpus(8)), waits("small", cpus(4), since=1)], FREE, ["small"], {"wide": "CapacityFull"}),
    ("GPUs and CPUs are different things", [runs("r", gpus(4))],
     [waits("gpu", gpus(1)), waits("cpu", cpus(7), since=1)], FREE, ["cpu"], {"gpu": "CapacityFull"}),
    ("two gangs of which one fits", [],
     [waits("one", cpus(6)), waits("two", cpus(6), since=1)], FREE, ["one"], {"two": "CapacityFull"}),
    ("the team's limit", [runs("r", gpus(1))], [waits("x", gpus(2)), waits("y", gpus(1), since=1)],
     {"a": Limit(gpus=2)}, ["y"], {"x": "QuotaFull"}),
    ("more than the team may ever hold", [], [waits("x", gpus(3))], {"a": Limit(gpus=2)}, [],
     {"x": "ExceedsMax"}),
    ("one team's limit is not another's", [runs("r", gpus(1))],
     [waits("x", gpus(1)), waits("y", gpus(1), team="b", since=1)], {"a": Limit(jobs=1), "b": Limit()}, ["y"],
     {"x": "QuotaFull"}),
    ("one over its team's limit is not passed", [runs("r", cpus(1))],
     [waits("x", cpus(1)), waits("y", cpus(7), team="b", since=1)], {"a": Limit(jobs=1), "b": Limit()}, ["y"],
     {"x": "QuotaFull"}),
    ("a team that is not known", [], [waits("x", cpus(1), team="z")], FREE, [], {"x": "NotEvaluated"}),
    ("more than there is", [], [waits("x", cpus(9))], FREE, [], {"x": "NoMatchingPool"}),
    ("what the quota service refused, and what asks for more", [],
     [waits("x", gpus(2)), waits("y", gpus(3), since=1), waits("z", gpus(1), since=2)],
     {"a": Limit(refused=((gpus(2), "2 GPUs are held elsewhere"),))}, ["z"],
     {"x": "QuotaFull: 2 GPUs are held elsewhere", "y": "QuotaFull"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("placed", "waiting", "limits", "admitted", "reasons"), [world[1:] for world in WORLDS],
    ids=[world[0] for world in WORLDS],
)  # fmt: skip
def test_the_plan_is_the_expected_one_and_then_nothing_moves(
    placed: list[Placed],
    waiting: list[Waiting],
    limits: dict[str, Limit],
    admitted: list[str],
    reasons: dict[str, str],
) -> None:
    world = Snapshot(NOW, [BIG], placed, waiting, limits)
    plan = decide(world)
    assert [admission.uid for admission in plan.admissions] == admitted
    assert plan.reasons.keys() == reasons.keys()
    for uid, beginning in reasons.items():
        assert plan.reasons[uid].startswith(beginning)
    known = {job.uid: job for job in waiting}
    world = replace(
        world,
        placed=[*placed, *(Placed(uid, known[uid].team, "local", known[uid].need, NOW) for uid in admitted)],
        waiting=[job for job in waiting if job.uid not in admitted],
    )
    for _ in range(5):
        again = decide(world)
        assert again.admissions == ()
        assert again.reasons.keys() == reasons.keys()


def test_what_holds_its_place_is_launched_retries_first() -> None:
    again = Placed("again", "a", "local", cpus(1), at(-5), due=True, retry_time=at(-1))
    later = Placed("later", "a", "local", cpus(1), at(-9), due=False, retry_time=at(30))
    plan = decide(Snapshot(NOW, [BIG], [runs("new", cpus(1), due=True), later, again], [], FREE))
    assert plan.launches == ("again", "new")
    assert plan.wake_at == at(30)
