"""The invariants, said again in other words than the engine's: from the snapshot alone."""

from __future__ import annotations

from collections.abc import Iterator

from cairn_scheduler.engine.decide import Engine
from cairn_scheduler.engine.world import ANY, Admitted, Key, Node, Plan, Quota, Snapshot


def overcommitted(world: Snapshot) -> list[str]:
    """Every limit that what runs is over; quotas, borrowing, lending, caps and machines."""
    return [*_quota(world), *_machines(world)]


def _quota(world: Snapshot) -> Iterator[str]:
    used = own_use(world.admitted)
    for key in {key for _, key in used}:
        if not rationed(world, key):
            continue
        whole = sum(node.quotas.get(key, Quota()).nominal for node in world.nodes)
        everything = sum(amount for (_, k), amount in used.items() if k == key)
        for node in world.nodes:
            quota = node.quotas.get(key, Quota())
            own, felt, total = subtree(world, node, key, used)
            if not node.parent and felt > own:
                yield f"{node.id} {key}: uses {felt} of {own}"
            if node.parent and quota.borrow_limit is not None and felt > own + quota.borrow_limit:
                yield f"{node.id} {key}: borrows {felt - own} of {quota.borrow_limit}"
            if quota.most is not None and total > quota.most:
                yield f"{node.id} {key}: has {total} of at most {quota.most}"
            if node.parent and quota.lend_limit is not None:
                unlent = max(0, own - quota.lend_limit)
                if everything - total > whole - unlent:
                    yield f"{node.id} {key}: lends more than {quota.lend_limit}"


def rationed(world: Snapshot, key: Key) -> bool:
    """Whether some node has a nominal amount of it, or a borrowing limit."""
    quotas = [node.quotas[key] for node in world.nodes if key in node.quotas]
    return any(quota.nominal > 0 or quota.borrow_limit is not None for quota in quotas)


def own_use(admitted: tuple[Admitted, ...]) -> dict[tuple[str, Key], int]:
    """By node and key, what jobs that are charged to it use."""
    used: dict[tuple[str, Key], int] = {}
    for job in admitted:
        for key, amount in job.request.options[job.option].usage:
            used[job.request.node, key] = used.get((job.request.node, key), 0) + amount
    return used


def subtree(world: Snapshot, node: Node, key: Key, used: dict[tuple[str, Key], int]) -> tuple[int, int, int]:
    """A node's quota with what its children lend, the use that counts against it, and all use below it."""
    quota = node.quotas.get(key, Quota()).nominal
    felt = total = used.get((node.id, key), 0)
    for child in world.nodes:
        if child.parent != node.id:
            continue
        theirs, use, below = subtree(world, child, key, used)
        limit = child.quotas.get(key, Quota()).lend_limit
        lent = theirs if limit is None else min(theirs, limit)
        quota += lent
        felt += max(0, use - (theirs - lent))
        total += below
    return quota, felt, total


def _machines(world: Snapshot) -> Iterator[str]:
    pools = {pool.name: pool for pool in world.pools}
    flavors = {flavor.name: flavor for flavor in world.flavors}
    used: dict[tuple[str, str, str], int] = {}
    for job in world.admitted:
        flavor = flavors.get(job.request.options[job.option].flavor)
        if flavor is None or flavor.pool not in pools:
            continue
        if sum(ranks for _, ranks in job.machines) != job.request.ranks:
            yield f"{job.request.uid}: {job.machines} are not {job.request.ranks} ranks"
        for name, ranks in job.machines:
            for resource, amount in job.request.per_rank:
                key = (flavor.pool, name, resource)
                used[key] = used.get(key, 0) + amount * ranks
    for (pool, name, resource), amount in used.items():
        machine = next(m for m in pools[pool].machines if name.startswith(m.name))
        if amount > machine.capacity.get(resource, 0):
            yield f"{name}: {amount} of {resource}"


def left_idle(world: Snapshot, plan: Plan) -> list[str]:
    """Jobs that would fit on what is free after the plan was carried out, with no named reservation."""
    engine = Engine(world)
    idle = []
    for request in world.pending:
        seat = engine.state.tree.seats[request.node]
        fits = [o for o in request.options if engine.state.fits(seat, request, o)]
        if fits:
            idle.append(f"{request.uid} fits on {fits[0].flavor}: {plan.reasons.get(request.uid)}")
    return idle


def needless(world: Snapshot, plan: Plan) -> list[str]:
    """Victims without whose eviction their evictors would have their places, too."""
    starts = {one.uid: one for one in (*plan.admissions, *plan.promises)}
    running = {job.request.uid: job for job in world.admitted}
    known = {job.uid: job for job in world.pending} | {uid: job.request for uid, job in running.items()}
    evicted = {one.uid for one in plan.preemptions}
    found = []
    for victim in plan.preemptions:
        if not victim.by or victim.uid in starts:
            continue
        engine = Engine(world)
        for uid in evicted - {victim.uid}:
            engine.state.remove(running[uid])
        fits = True
        for uid, one in starts.items():
            request = known[uid]
            seat = engine.state.tree.seats[request.node]
            if not engine.state.fits(seat, request, request.options[one.option]):
                fits = False
                break
            engine.state.add(
                Admitted(request, one.option, engine.state.place(request, request.options[one.option]) or ())
            )
        if fits:
            found.append(victim.uid)
    return found


def keys_of(job: Admitted) -> set[Key]:
    """The keys that it uses some of, over all flavors left out."""
    return {key for key, amount in job.request.options[job.option].usage if amount and key[0] != ANY}
