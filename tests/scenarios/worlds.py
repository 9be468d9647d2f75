"""Random worlds for the engine: trees of three or four levels, two resources, and what led there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from cairn_scheduler.engine.decide import decide
from cairn_scheduler.engine.world import (
    UNIT,
    Borrowing,
    Flavor,
    JobRequest,
    Key,
    Machine,
    Node,
    Option,
    Order,
    Plan,
    Policy,
    Pool,
    PriorityClass,
    Quota,
    Reclaim,
    Sharing,
    Snapshot,
    Within,
    option,
)
from tests.scenarios.rounds import settle

FLAVORS = ("f", "g")
RESOURCES = ("gpu", "cpu")
SECOND = 1000


@dataclass(frozen=True, slots=True)
class Kind:
    """What a random world may have. `tame`: everything may be reclaimed, and nobody is capped."""

    pools: bool = False
    tame: bool = False
    steps: int = 4


def history(random: Random, kind: Kind = Kind()) -> Iterator[tuple[Snapshot, Plan]]:
    """A world that lives: jobs come, plans are carried out, jobs end; each snapshot with its plan."""
    world = start(random, kind)
    for step in range(kind.steps):
        world = arrive(random, kind, world, step)
        plan = decide(world)
        yield world, plan
        world = leave(random, settle(world, plan))


def start(random: Random, kind: Kind) -> Snapshot:
    """An empty world."""
    flavors = tuple(Flavor(name, f"pool-{name}" if kind.pools else "") for name in FLAVORS)
    pools = tuple(
        Pool(
            f"pool-{name}", machines=(Machine("m", {"gpu": 4 * UNIT, "cpu": 8 * UNIT}, random.randint(1, 4)),)
        )
        for name in FLAVORS
    )
    sharing = Sharing.FAIR if kind.tame or random.random() < 0.8 else Sharing.PRIORITY
    return Snapshot(
        now=1_000_000,
        nodes=tuple(_nodes(random, kind)),
        flavors=flavors,
        pools=pools if kind.pools else (),
        classes=() if kind.tame else (PriorityClass("firm", preemptible=False),),
        policy=Policy(sharing=sharing, reserve_after=10**12, most_overtaken=10**6),
    )


def arrive(random: Random, kind: Kind, world: Snapshot, step: int) -> Snapshot:
    """A few new jobs, some time later."""
    leaves = _leaves(world)
    new = [_job(random, kind, leaves, f"j{step}-{n}", world.now + n) for n in range(random.randint(1, 5))]
    return replace(world, now=world.now + 60 * SECOND, pending=(*world.pending, *new))


def leave(random: Random, world: Snapshot) -> Snapshot:
    """Some of the running jobs end."""
    return replace(world, admitted=tuple(job for job in world.admitted if random.random() < 0.8))


def _leaves(world: Snapshot) -> list[str]:
    inner = {node.parent for node in world.nodes}
    return sorted(node.id for node in world.nodes if node.id not in inner)


def _nodes(random: Random, kind: Kind) -> Iterator[Node]:
    yield Node("org", quotas=_quotas(random, kind, root=True))
    for team in range(random.randint(2, 3)):
        yield _node(random, kind, f"t{team}", "org")
        for project in range(random.randint(0, 2)):
            yield _node(random, kind, f"t{team}/p{project}", f"t{team}")
            if random.random() < 0.3:
                yield _node(random, kind, f"t{team}/p{project}/u", f"t{team}/p{project}")


def _node(random: Random, kind: Kind, name: str, parent: str) -> Node:
    return Node(
        name,
        parent,
        quotas=_quotas(random, kind, root=False),
        weight=random.choice((1000, 1000, 2000, 500, 0)),
        within=random.choice(list(Within)),
        reclaim=Reclaim.ANY if kind.tame else random.choice(list(Reclaim)),
        borrow_reclaim=random.choice((None, 0, 1)),
        min_runtime=0 if kind.tame else random.choice((0, 0, 90 * SECOND)),
        borrowing=Borrowing.FAIR if kind.tame else random.choice((Borrowing.FAIR, *Borrowing)),
        order=random.choice(list(Order)),
        patience=0 if kind.tame else random.choice((0, 0, 150 * SECOND)),
    )


def _quotas(random: Random, kind: Kind, *, root: bool) -> dict[Key, Quota]:
    quotas: dict[Key, Quota] = {}
    for flavor in FLAVORS:
        for resource in RESOURCES:
            nominal = random.randint(0, 4) * UNIT
            limited = not root and not kind.tame
            quotas[flavor, resource] = Quota(
                nominal,
                borrow_limit=random.randint(0, 4) * UNIT if limited and random.random() < 0.3 else None,
                lend_limit=random.randint(0, 2) * UNIT if not root and random.random() < 0.3 else None,
                most=random.randint(1, 8) * UNIT if limited and random.random() < 0.2 else None,
            )
    return quotas


def _job(random: Random, kind: Kind, leaves: list[str], uid: str, created: int) -> JobRequest:
    ranks = random.choice((1, 1, 1, 2, 3)) if kind.pools else 1
    rank = {"gpu": random.randint(0, 3) * UNIT, "cpu": random.randint(0, 3) * UNIT}
    total = {resource: amount * ranks for resource, amount in rank.items()}
    flavors = random.sample(FLAVORS, random.randint(1, 2))
    return JobRequest(
        uid,
        random.choice(leaves),
        tuple(_option(flavor, total) for flavor in flavors),
        user=random.choice(("u", "v")),
        priority=random.choice((0, 0, 0, 1, 2, -1)),
        priority_class="firm" if not kind.tame and random.random() < 0.1 else "",
        create_time=created,
        ranks=ranks,
        per_rank=tuple(rank.items()),
        max_runtime=random.choice((None, 60 * SECOND, 600 * SECOND)),
    )


def _option(flavor: str, total: dict[str, int]) -> Option:
    return option(flavor, total)
