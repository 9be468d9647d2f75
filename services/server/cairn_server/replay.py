"""A saved snapshot, decided again: no server, no network, the same plan everywhere."""

from __future__ import annotations

from typing import Any

from cairn_scheduler.engine import snapshot_file
from cairn_scheduler.engine.decide import decide
from cairn_scheduler.telling import sentence


def replay(text: str) -> dict[str, Any]:
    """The plan as plain data. Raises BadFile with what is wrong in the file and where."""
    snapshot = snapshot_file.load(text)
    plan = decide(snapshot)
    return {
        "now": snapshot.now,
        "admissions": [{"job": one.uid, "flavor": one.flavor, "pool": one.pool} for one in plan.admissions],
        "promises": [{"job": one.uid, "flavor": one.flavor, "pool": one.pool} for one in plan.promises],
        "preemptions": [{"job": one.uid, "why": one.why.value, "for": one.by} for one in plan.preemptions],
        "waiting": {uid: sentence(reason) for uid, reason in sorted(plan.reasons.items())},
    }


def words(told: dict[str, Any]) -> str:
    """For people, one line each."""
    lines = [f"starts    {one['job']} on {one['flavor']}" for one in told["admissions"]]
    lines += [
        f"evicted   {one['job']} ({one['why']}) for {one['for'] or 'nobody'}" for one in told["preemptions"]
    ]
    lines += [f"waits     {uid}  {why}" for uid, why in told["waiting"].items()]
    return "\n".join(lines) or "nothing to decide"
