"""From one snapshot to the next: a plan carried out, and victims gone at once."""

from __future__ import annotations

from dataclasses import replace

from cairn_scheduler.engine.world import Admission, Admitted, Plan, Snapshot


def settle(world: Snapshot, plan: Plan) -> Snapshot:
    """The world when the plan is carried out, its victims are gone and those who waited for them started.

    Victims wait again, at the head of their class; but not those that were stopped for nobody.
    """
    gone = {one.uid for one in plan.preemptions} | {j.request.uid for j in world.admitted if j.stopping}
    known = {job.uid: job for job in world.pending}
    back = []
    for job in world.admitted:
        if job.request.uid in gone:
            again = replace(job.request, requeued=True, attempted=True)
            known[again.uid] = again
            if job.stopping != "-":
                back.append(again)
    starts = {one.uid: one for one in (*plan.admissions, *plan.promises)}
    running = [job for job in world.admitted if job.request.uid not in gone]
    running += [_running(world, known, one) for one in starts.values()]
    waiting = [job for job in (*world.pending, *back) if job.uid not in starts]
    overtaken = plan.overtaken
    return replace(
        world,
        admitted=tuple(running),
        pending=tuple(replace(j, overtaken=overtaken.get(j.uid, j.overtaken)) for j in waiting),
        holds=plan.holds,
        claims=plan.claims,
    )


def _running(world: Snapshot, known: dict[str, object], one: Admission) -> Admitted:
    request = known[one.uid]
    return Admitted(request, one.option, one.machines, world.now)  # type: ignore[arg-type]
