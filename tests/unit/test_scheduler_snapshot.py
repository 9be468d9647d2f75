"""From jobs, the quota tree and places to what the engine decides on, and its reasons in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cairn.quota.v1 import flavor_pb2, node_pb2, tree_pb2
from cairn_scheduler import snapshot, telling, tree
from cairn_scheduler.engine import world
from cairn_scheduler.engine.decide import decide
from cairn_scheduler.engine.world import Code, PoolKind, Reason, Reclaim, Within
from cairn_scheduler.model import Resources, State
from cairn_scheduler.places import Place
from cairn_scheduler.sky.cluster import BOUNDLESS
from cairn_scheduler.snapshot import Entry

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Node = node_pb2.QuotaNode
LOCAL = Place("local", Resources(8000, 4, "H100", 64_000))
SKY = Place("skypilot", BOUNDLESS)


def message(*flavors: flavor_pb2.Flavor, version: int = 1) -> tree_pb2.QuotaTree:
    return tree_pb2.QuotaTree(
        version=version,
        flavors=flavors,
        nodes=[
            Node(id="acme", kind=Node.ORGANISATION, within=Node.WITHIN_NEVER),
            Node(
                id="vision", parent="acme", kind=Node.TEAM, team="vision",
                quotas=[node_pb2.Quota(flavor="*", resource="gpu", max=2000)],
            ),
            Node(id="vision/seg", parent="vision", kind=Node.PROJECT, team="vision", project="seg"),
            Node(id="vision/seg/ada", parent="vision/seg", kind=Node.USER, team="vision", user="ada"),
            Node(id="vision/bob", parent="vision", kind=Node.USER, team="vision", user="bob"),
        ],
    )  # fmt: skip


def entry(uid: str, **more: object) -> Entry:
    made = Entry(
        uid=uid, team="vision", creator="users/eve", state=State.PENDING, create_time=NOW,
        resources=Resources(1000, 1),
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def taken(
    *entries: Entry, told: tree_pb2.QuotaTree | None = None, places: tuple[Place, ...] = (LOCAL,)
) -> world.Snapshot:
    return snapshot.take(entries, tree=tree.read(told or message()), places=places, holds=(), now=NOW)


@pytest.mark.parametrize(
    ("user", "project", "node"),
    [
        ("ada", "seg", "vision/seg/ada"),
        ("eve", "seg", "vision/seg"),
        ("bob", "", "vision/bob"),
        ("bob", "other", "vision/bob"),
        ("eve", "", "vision"),
    ],
)
def test_a_job_counts_at_the_deepest_node_of_its_own(user: str, project: str, node: str) -> None:
    assert tree.read(message()).seat(team="vision", project=project, user=user) == node
    assert tree.read(message()).seat(team="speech", project=project, user=user) == ""


def test_policies_are_inherited_and_before_any_tree_nobody_loses_a_place() -> None:
    applied = {node.id: node for node in tree.read(message()).nodes}
    assert (applied["vision/seg"].within, applied["vision/seg"].reclaim) == (Within.NEVER, Reclaim.ANY)
    none = tree.read(message(version=0))
    assert {(node.within, node.reclaim) for node in none.nodes} == {(Within.NEVER, Reclaim.NEVER)}


def test_jobs_of_teams_that_the_tree_does_not_know_are_left_out() -> None:
    assert [one.uid for one in taken(entry("a"), entry("b", team="speech")).pending] == ["a"]


def test_a_flavor_without_a_pool_is_one_for_each_place_and_has_one_quota() -> None:
    told = taken(entry("here"), entry("there", infra="slurm/lab"), places=(LOCAL, SKY))
    assert [(one.name, one.pool) for one in told.flavors] == [
        ("default", "local"),
        ("default@skypilot", "skypilot"),
    ]
    here, there = told.pending
    assert [option.flavor for option in here.options] == ["default"]
    assert [option.flavor for option in there.options] == ["default@skypilot"]
    assert dict(there.options[0].usage) == dict(here.options[0].usage)
    assert {pool.name: pool.kind for pool in told.pools} == {
        "local": PoolKind.FIXED,
        "skypilot": PoolKind.ELASTIC,
    }


def test_flavors_are_tried_in_the_jobs_order_and_spot_only_where_it_is_named() -> None:
    spot = flavor_pb2.Flavor.SPOT
    flavors = [
        flavor_pb2.Flavor(name="h100", accelerator="H100"),
        flavor_pb2.Flavor(name="a100", accelerator="A100"),
        flavor_pb2.Flavor(name="h100-spot", accelerator="H100", market=spot),
        flavor_pb2.Flavor(name="lab", pool="slurm/lab"),
    ]
    told = taken(
        entry("any", infra="slurm/lab"),
        entry("kind", infra="slurm/lab", resources=Resources(1000, 1, "H100-80GB")),
        entry("named", infra="aws", flavors=("h100-spot", "lab", "h100")),
        told=message(*flavors), places=(SKY,),
    )  # fmt: skip
    options = {job.uid: [option.flavor for option in job.options] for job in told.pending}
    assert options == {
        "any": ["h100", "a100", "lab"],
        "kind": ["h100", "lab"],
        "named": ["h100-spot", "h100"],
    }


def test_what_no_place_could_ever_hold_has_no_option() -> None:
    told = taken(entry("wide", num_nodes=5), entry("other", resources=Resources(1000, 1, "A100")))
    assert [job.options for job in told.pending] == [(), ()]
    assert {reason.code for reason in decide(told).reasons.values()} == {Code.NO_MATCHING_FLAVOR}


def test_placed_jobs_hold_their_machine_and_victims_their_grace() -> None:
    running = entry("r", state=State.RUNNING, pool="local", flavor="default", admit_time=NOW, num_nodes=2)
    victim = replace(
        running, uid="v", state=State.PREEMPTING, preempted_for="p", preempt_time=NOW, grace=30.0
    )
    first, second = taken(running, victim).admitted
    assert (first.machines, first.stopping) == ((("this", 2),), "")
    assert (second.stopping, second.gone_at) == ("p", snapshot.milliseconds(NOW + timedelta(seconds=30)))


def test_a_team_at_its_limit_is_told_which_limit_it_is() -> None:
    running = entry("r", state=State.RUNNING, pool="local", flavor="default", admit_time=NOW,
                    resources=Resources(1000, 2))  # fmt: skip
    plan = decide(taken(running, entry("w"), entry("big", resources=Resources(1000, 3))))
    assert telling.sentence(plan.reasons["w"]) == (
        "QuotaFull: vision may use 2 GPUs, 2 are used, and this job asks for 1"
    )
    assert telling.sentence(plan.reasons["big"]) == (
        "ExceedsMax: vision may use at most 2 GPUs, and this job asks for 3"
    )


@pytest.mark.parametrize("code", list(Code))
def test_every_reason_has_words_with_and_without_evidence(code: Code) -> None:
    for reason in (
        Reason(code),
        Reason(code, node="n", flavor="h100", resource="gpu", requested=1000, limit=2000, used=2000,
               others=("a", "b"), until=1, note="note"),
    ):  # fmt: skip
        told = telling.sentence(reason)
        assert told.startswith(f"{code.value}: ")
        assert told.partition(": ")[2].strip()
