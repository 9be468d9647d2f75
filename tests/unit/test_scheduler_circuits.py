"""Circuits of "no room": when they open, who may try, and when they close."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cairn_scheduler import circuits
from cairn_scheduler.circuits import Circuit, Gate, Tried
from cairn_scheduler.model import Resources, Spec
from cairn_scheduler.sky.order import trial_text
from cairn_scheduler.ways import names_of

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
H100, A100, ELSEWHERE = "slurm/lab H100", "slurm/lab A100", "slurm/other H100"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def tried(job: str, *names: str, begun: float, **more: Any) -> Tried:
    fields: dict[str, Any] = {
        key: at(value) if key.endswith("_time") else value for key, value in more.items()
    }
    return Tried(job, names, fields.pop("need", Resources(1000, 8)), at(begun), **fields)


Waiting = tuple[str, tuple[str, ...], Resources]


@dataclass(frozen=True)
class Plan:
    admissions: list[str]
    reasons: dict[str, str]
    wake_at: datetime | None


def waiting(uid: str, *names: str, gpus: int = 8, cpus: int = 1) -> Waiting:
    return uid, names, Resources(cpus * 1000, gpus)


def planned(jobs: list[Waiting], shut: dict[str, Circuit], now: datetime) -> Plan:
    gate = Gate(shut, now)
    wake_at = gate.wake_at()
    kept = circuits.kept_back(gate, jobs)
    return Plan([uid for uid, _, _ in jobs if uid not in kept], kept, wake_at)


def admitted(plan: Plan) -> list[str]:
    return plan.admissions


def spec(resources: dict[str, Any], infra: str = "slurm/lab") -> Spec:
    return Spec(task=json.dumps({"resources": resources}), setup="", run="", infra=infra)


@pytest.mark.parametrize(
    ("resources", "names"),
    [
        ({"infra": "slurm/lab", "accelerators": "H100:8"}, ("slurm/lab H100",)),
        ({"infra": "slurm/lab", "accelerators": {"h100": 8}}, ("slurm/lab H100",)),
        ({"infra": "slurm/lab"}, ("slurm/lab CPU",)),
        (
            {"cloud": "aws", "region": "us-east-1", "use_spot": True, "accelerators": ["A100:1", "L4:1"]},
            ("aws/us-east-1 A100|L4 spot",),
        ),
        (
            {
                "accelerators": "A100:1",
                "any_of": [{"infra": "slurm/lab"}, {"infra": "k8s", "use_spot": True}],
            },
            ("slurm/lab A100", "k8s A100 spot"),
        ),
    ],
)
def test_each_choice_has_a_circuit(resources: dict[str, Any], names: tuple[str, ...]) -> None:
    assert names_of(spec(resources)) == names
    assert names_of(spec(resources, infra="")) == ()


def test_it_opens_on_no_room_and_keeps_back_others_for_the_same_alone() -> None:
    shut = circuits.derive([tried("a", H100, begun=0, refused_time=10)])
    assert shut == {H100: Circuit(H100, 1, at(40), Resources(1000, 8))}
    jobs = [waiting("b", H100), waiting("c", A100), waiting("d", ELSEWHERE), waiting("e", H100, ELSEWHERE)]
    plan = planned(jobs, shut, at(11))
    assert admitted(plan) == ["c", "d", "e"]
    assert plan.reasons["b"] == (
        "CapacityCircuitOpen: there was no room for slurm/lab H100 once; it is tried again at 12:00:40 UTC"
    )
    assert plan.wake_at == at(40)


def test_after_the_back_off_one_tries_and_the_others_wait_for_what_comes_of_it() -> None:
    tries = [tried("a", H100, begun=0, refused_time=10)]
    jobs = [waiting("a", H100), waiting("b", H100)]
    plan = planned(jobs, circuits.derive(tries), at(40))
    assert admitted(plan) == ["a"]
    assert "job a tries it just now" in plan.reasons["b"]
    tries.append(tried("a", H100, begun=40, launching=True))
    again = planned([waiting("b", H100)], circuits.derive(tries), at(41))
    assert admitted(again) == []
    assert "job a tries it just now" in again.reasons["b"]


def test_refused_again_it_waits_longer_and_served_it_closes() -> None:
    tries = [tried("a", H100, begun=0, refused_time=10), tried("a", H100, begun=40, refused_time=50)]
    assert circuits.derive(tries)[H100].probe_at == at(110)
    assert circuits.derive(tries)[H100].failures == 2
    assert circuits.derive([*tries, tried("a", H100, begun=110, start_time=130)]) == {}
    assert [circuits.back_off(n).total_seconds() for n in (1, 2, 3, 4, 5, 500)] == [
        30, 60, 120, 240, 300, 300,
    ]  # fmt: skip


def test_those_on_their_way_when_it_opens_count_as_one_refusal() -> None:
    tries = [tried(str(n), H100, begun=n, refused_time=20 + n) for n in range(4)]
    circuit = circuits.derive(tries)[H100]
    assert (circuit.failures, circuit.probe_at) == (1, at(53))
    # One that had begun before and found a machine tells nothing of now.
    assert H100 in circuits.derive([*tries, tried("old", H100, begun=-5, start_time=60)])


def test_whoever_asks_for_less_may_still_fit() -> None:
    shut = circuits.derive([tried("a", H100, begun=0, refused_time=10)])
    assert admitted(planned([waiting("small", H100, gpus=1)], shut, at(11))) == ["small"]
    more = [tried("a", H100, begun=0, refused_time=10)]
    more.append(tried("small", H100, begun=11, refused_time=15, need=Resources(1000, 1)))
    assert circuits.derive(more)[H100].least == Resources(1000, 1)
    assert admitted(planned([waiting("b", H100, gpus=1)], circuits.derive(more), at(16))) == []
    # Room for less closes nothing.
    less = [tried("a", H100, begun=0, refused_time=10)]
    less.append(tried("small", H100, begun=11, start_time=15, need=Resources(1000, 1)))
    assert H100 in circuits.derive(less)


def test_of_several_ways_those_that_are_free_are_gone_and_the_task_is_narrowed_to_them() -> None:
    shut = circuits.derive([tried("a", H100, begun=0, refused_time=10)])
    gate = Gate(shut, at(11))
    need = Resources(1000, 8)
    assert gate.open_ways((H100, ELSEWHERE), need) == (ELSEWHERE,)
    choices = [{"infra": "slurm/lab"}, {"infra": "slurm/other"}]
    asked = {"accelerators": "H100:8", "cpus": 1, "any_of": choices}
    assert names_of(spec(asked)) == (H100, ELSEWHERE)
    assert circuits.narrowed(asked, (ELSEWHERE,)) == {**asked, "any_of": [{"infra": "slurm/other"}]}
    assert circuits.narrowed(asked, ()) == asked
    assert circuits.narrowed({"cpus": 1}, (ELSEWHERE,)) == {"cpus": 1}
    assert json.loads(trial_text(spec(asked)))["resources"]["any_of"] == choices


def test_a_plan_is_the_same_whatever_the_order_of_what_was_tried() -> None:
    tries = [
        tried("a", H100, begun=0, refused_time=10),
        tried("b", H100, A100, begun=5, refused_time=12),
        tried("c", A100, begun=50, start_time=55),
        tried("d", H100, begun=60, launching=True),
    ]
    assert circuits.derive(tries) == circuits.derive(list(reversed(tries)))
