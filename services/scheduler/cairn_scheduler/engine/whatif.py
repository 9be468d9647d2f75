"""What would change: two snapshots, decided, side by side. The same `decide`, nothing estimated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from cairn_scheduler.engine.decide import decide
from cairn_scheduler.engine.world import Node, Plan, Pool, Preemption, Reason, Snapshot


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a changed world against the one that is: uids, sorted.

    `starts`: jobs that would start (or be promised a place) and now do not; `waits`: that now would and then
    would not; `evicted`: victims that there are not now; `lost`: what runs where nothing is left to run on;
    `reasons`: of jobs whose reason would be another.
    """

    starts: tuple[str, ...]
    waits: tuple[str, ...]
    evicted: tuple[Preemption, ...]
    lost: tuple[str, ...]
    reasons: dict[str, Reason]


def compare(now: Snapshot, then: Snapshot) -> Difference:
    """Decides both."""
    before, after = decide(now), decide(then)
    placed, would = _placed(before), _placed(after)
    known = {one.uid for one in before.preemptions}
    running = {job.request.uid for job in then.admitted}
    lost = sorted(job.request.uid for job in now.admitted if job.request.uid not in running)
    waiting = {job.uid for job in now.pending}
    reasons = {
        uid: reason
        for uid, reason in sorted(after.reasons.items())
        if uid in waiting and (uid not in before.reasons or before.reasons[uid].code is not reason.code)
    }
    return Difference(
        starts=tuple(sorted(would - placed)),
        waits=tuple(sorted((placed - would) & waiting)),
        evicted=tuple(one for one in after.preemptions if one.uid not in known),
        lost=tuple(lost),
        reasons=reasons,
    )


def with_nodes(snapshot: Snapshot, nodes: Iterable[Node]) -> Snapshot:
    """Another quota tree. What is charged to nodes that are gone is left out of the decision."""
    return replace(snapshot, nodes=tuple(nodes))


def without_pool(snapshot: Snapshot, pool: str) -> Snapshot:
    """A pool is lost: it has no machines, and what ran there waits again at the head of its class."""
    gone = {flavor.name for flavor in snapshot.flavors if flavor.pool == pool}
    stays = [job for job in snapshot.admitted if job.request.options[job.option].flavor not in gone]
    lost = [job for job in snapshot.admitted if job.request.options[job.option].flavor in gone]
    back = tuple(replace(job.request, requeued=True, attempted=True) for job in lost)
    return replace(
        snapshot,
        pools=tuple(Pool(pool) if one.name == pool else one for one in snapshot.pools),
        admitted=tuple(stays),
        pending=(*snapshot.pending, *back),
    )


def _placed(plan: Plan) -> set[str]:
    return {one.uid for one in (*plan.admissions, *plan.promises)}
