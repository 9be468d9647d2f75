"""An engine that is kept and told of changes decides as one that is made anew."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cairn.quota.v1 import flavor_pb2, node_pb2, tree_pb2
from cairn_scheduler import snapshot, tree
from cairn_scheduler.desk import Desk
from cairn_scheduler.engine.decide import decide
from cairn_scheduler.engine.world import Plan
from cairn_scheduler.model import Resources, State
from cairn_scheduler.places import Place
from cairn_scheduler.snapshot import Entry

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PLACES = (Place("local", Resources(10**6, 12, "", 10**6)),)
Node = node_pb2.QuotaNode


def ruling(version: int, nominal: int) -> tree_pb2.QuotaTree:
    teams = [
        Node(
            id=team, parent="acme", kind=Node.TEAM, team=team,
            within=Node.WITHIN_LOWER, reclaim=Node.RECLAIM_ANY,
            quotas=[node_pb2.Quota(flavor="h100", resource="gpu", nominal=nominal, borrow_limit=8000)],
        )
        for team in ("a", "b", "c")
    ]  # fmt: skip
    nodes = [Node(id="acme", kind=Node.ORGANISATION), *teams]
    return tree_pb2.QuotaTree(version=version, nodes=nodes, flavors=[flavor_pb2.Flavor(name="h100")])


def comer(random: Random, number: int, now: datetime) -> Entry:
    return Entry(
        uid=f"j{number:03}",
        # Nobody knows the team d.
        team=random.choice("aaabbbcccd"),
        creator="users/ada",
        state=State.PENDING,
        create_time=now,
        priority=random.choice([0, 0, 10, 20]),
        resources=Resources(1000, random.choice([1, 2, 4])),
    )


def steered(random: Random, entry: Entry, now: datetime) -> Entry | None:
    """What becomes of a job beside what the plan does with it; None: it ended."""
    if random.random() < 0.3:
        return None
    if entry.state is State.PENDING:
        return replace(
            entry, reason=random.choice(["x", "y"]), priority=entry.priority + random.choice([0, 1])
        )
    if entry.state is State.PREEMPTING:
        later = {"retry_time": now - timedelta(seconds=1), "ran": True}
        return replace(entry, state=State.PENDING, pool="", flavor="", preempted_for="", **later)
    return replace(entry, state=State.RUNNING, ran=True)


def carried_out(entries: dict[str, Entry], plan: Plan, random: Random, now: datetime) -> None:
    """Most of a plan comes about."""
    for one in plan.admissions:
        if random.random() < 0.9:
            flavor = snapshot.quota_flavor(one.flavor)
            entries[one.uid] = replace(
                entries[one.uid], state=State.ADMITTED, pool="local", flavor=flavor, admit_time=now
            )
    for victim in plan.preemptions:
        entries[victim.uid] = replace(
            entries[victim.uid], state=State.PREEMPTING, preempted_for=victim.by, preempt_time=now
        )


# Jobs vanish to which places of others had been promised.
@example(273)
@example(337)
@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_kept_engine_decides_as_one_made_anew(seed: int) -> None:
    random, desk = Random(seed), Desk()
    entries: dict[str, Entry] = {}
    now, number, told = BEGIN, 0, tree.read(ruling(1, 4000))
    for _ in range(12):
        now += timedelta(seconds=random.choice([1, 20]))
        before = dict(entries)
        for _ in range(random.randrange(6)):
            number += 1
            made = comer(random, number, now)
            entries[made.uid] = made
        for uid in random.sample(sorted(before), k=len(before) // 3):
            new = steered(random, entries.pop(uid), now)
            entries |= {uid: new} if new is not None else {}
        if random.random() < 0.2:
            told = tree.read(ruling(told.version + 1, random.choice([2000, 4000, 6000])))
        desk.tell(
            [one for uid, one in entries.items() if before.get(uid) != one], before.keys() - entries.keys()
        )
        without = set(random.sample(sorted(entries), k=len(entries) // 5))
        asked = {"tree": told, "places": PLACES, "holds": (), "now": now}
        plan = desk.decide(without=without, claims=(), **asked)  # type: ignore[arg-type]
        left = [one for uid, one in entries.items() if uid not in without]
        anew = decide(snapshot.take(left, **asked))  # type: ignore[arg-type]
        assert plan.admissions == anew.admissions
        assert plan.preemptions == anew.preemptions
        assert {uid: one.code for uid, one in plan.reasons.items()} == {
            uid: one.code for uid, one in anew.reasons.items()
        }
        assert desk.strangers >= {one.uid for one in left if one.team == "d"}
        before = dict(entries)
        carried_out(entries, plan, random, now)
        desk.tell([one for uid, one in entries.items() if before[uid] is not one], ())
