"""What the engine decides on, put together from the jobs, the quota tree and the places to run. Pure.

A flavor of the tree that reaches several pools is one engine flavor for each; their quota is the tree's one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cairn_scheduler.engine import world
from cairn_scheduler.engine.world import Admitted, Flavor, JobRequest, Machine, Option, Pool, PoolKind
from cairn_scheduler.model import Job, Resources, State, pool_of
from cairn_scheduler.places import Place, exceeds
from cairn_scheduler.tree import Tree, TreeFlavor

MACHINE = "this"
NOBODY = "-"
# What nobody could ever have in one place stands for a pool without a bound.
_BOUNDLESS = 2**40


@dataclass(frozen=True, slots=True)
class Entry:
    """A job that has not ended, as far as deciding goes."""

    uid: str
    team: str
    creator: str
    state: State
    create_time: datetime
    priority: int = 0
    project: str = ""
    priority_class: str = ""
    flavors: tuple[str, ...] = ()
    infra: str = ""
    num_nodes: int = 1
    resources: Resources = field(default_factory=Resources)
    max_runtime: float | None = None
    grace: float = 10.0
    retry_time: datetime | None = None
    overtaken: int = 0
    admissions: int = 0
    # It ran before: not its first attempt.
    ran: bool = False
    reason: str = ""
    # Of one that is HELD: why.
    held: str = ""
    # Of what holds a place.
    pool: str = ""
    flavor: str = ""
    admit_time: datetime | None = None
    checkpoint_time: datetime | None = None
    preempted_for: str = ""
    preempt_time: datetime | None = None


def supposed(job: Job, uid: str) -> Entry:
    """The entry of a job that is not submitted, as if it waited under this uid."""
    return Entry(
        uid=uid,
        team=job.team,
        creator=job.creator,
        state=State.PENDING,
        create_time=job.create_time,
        priority=job.priority,
        project=job.project,
        priority_class=job.priority_class,
        flavors=job.flavors,
        infra=job.spec.infra,
        num_nodes=job.spec.num_nodes,
        resources=job.spec.resources,
        max_runtime=job.spec.max_runtime,
        grace=job.spec.grace,
    )


@dataclass(frozen=True, slots=True)
class Setting:
    """What jobs are read by: the tree, and the places to run."""

    tree: Tree
    places: tuple[Place, ...]
    flavors: tuple[Flavor, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flavors", tuple(_flavors(self.tree, self.places)))

    def alike(self, other: Setting) -> bool:
        """Whether jobs read by one are read alike by the other: what budgets have left aside."""
        mine, its = self.tree, other.tree
        return self.places == other.places and (
            mine is its or replace(mine, budgets=(), windows=()) == replace(its, budgets=(), windows=())
        )

    @property
    def budgets(self) -> tuple[world.Budget, ...]:
        """With rates for each of the engine's flavors."""
        return tuple(_with_rates(budget, self.flavors) for budget in self.tree.budgets)


def take(
    entries: Iterable[Entry],
    *,
    tree: Tree,
    places: Sequence[Place],
    holds: Sequence[world.Hold],
    now: datetime,
) -> world.Snapshot:
    """All that a decision depends on. Jobs of teams that the tree does not know are left out."""
    setting = Setting(tree, tuple(places))
    pending, admitted = [], []
    for entry in entries:
        job = read(entry, setting, now)
        if isinstance(job, JobRequest):
            pending.append(job)
        elif job is not None:
            admitted.append(job)
    return world.Snapshot(
        now=milliseconds(now),
        nodes=tree.nodes,
        flavors=setting.flavors,
        pools=tuple(_pool(place) for place in places),
        pending=tuple(pending),
        admitted=tuple(admitted),
        budgets=setting.budgets,
        classes=tree.classes,
        reservations=tree.windows,
        holds=tuple(holds),
        version=tree.version,
    )


def read(entry: Entry, setting: Setting, now: datetime) -> JobRequest | Admitted | None:
    """A job as the engine has it; None: it is nothing to it."""
    node = seat(entry, setting.tree)
    if not node:
        return None
    request = _request(entry, node, setting.tree, setting.places, setting.flavors)
    if entry.state is State.PENDING:
        return request
    if entry.state.placed and request.options:
        return _admitted(entry, request, setting.flavors, now)
    return None


def seat(entry: Entry, tree: Tree) -> str:
    """The node where a job counts; empty: the tree does not know its team."""
    return tree.seat(team=entry.team, project=entry.project, user=entry.creator.removeprefix("users/"))


def quota_flavor(name: str) -> str:
    """The tree's flavor of an engine's one."""
    return name.partition("@")[0]


def milliseconds(time: datetime) -> int:
    """Since the epoch."""
    return int(time.timestamp() * 1000)


def amounts(need: Resources) -> dict[str, int]:
    """What is asked for, by resource, in thousandths."""
    found = {"gpu": need.gpus * 1000, "cpu": need.cpu_milli, "mem": need.memory_mib * 1000}
    return {resource: amount for resource, amount in found.items() if amount}


def _request(
    entry: Entry, node: str, tree: Tree, places: Sequence[Place], flavors: Sequence[Flavor]
) -> JobRequest:
    value = next((one.value for one in tree.classes if one.name == entry.priority_class), 0)
    return JobRequest(
        uid=entry.uid,
        node=node,
        options=tuple(_options(entry, tree, places, flavors)),
        user=entry.creator.removeprefix("users/"),
        priority=entry.priority or value,
        priority_class=entry.priority_class,
        create_time=milliseconds(entry.create_time),
        ranks=entry.num_nodes,
        per_rank=tuple(sorted(amounts(entry.resources).items())),
        max_runtime=None if entry.max_runtime is None else int(entry.max_runtime * 1000),
        requeued=entry.retry_time is not None,
        attempted=entry.ran,
        not_before=milliseconds(entry.retry_time) if entry.retry_time else 0,
        overtaken=entry.overtaken,
        held=entry.held,
    )


def _options(
    entry: Entry, tree: Tree, places: Sequence[Place], flavors: Sequence[Flavor]
) -> Iterable[Option]:
    """The ways to run it: the flavors that it names in its order, else the tree's in theirs."""
    need = entry.resources.times(entry.num_nodes)
    pool = entry.pool or pool_of(entry.infra)
    place = next((place for place in places if place.name == pool), None)
    if place is None or (entry.state is State.PENDING and exceeds(need, [place])):
        return
    by_name = {flavor.name: flavor for flavor in tree.flavors}
    named = [by_name[name] for name in entry.flavors if name in by_name]
    usage = amounts(need)
    for flavor in named if entry.flavors else tree.flavors:
        if not _suits(flavor, entry, pool):
            continue
        name = _name(flavor.name, pool, flavors)
        if name:
            yield Option(name, world.option(flavor.name, usage).usage)


def _suits(flavor: TreeFlavor, entry: Entry, pool: str) -> bool:
    asked = entry.resources.accelerator
    if entry.resources.gpus and asked and flavor.accelerator and not _same_kind(asked, flavor.accelerator):
        return False
    if flavor.spot and flavor.name not in entry.flavors and flavor.name != entry.flavor:
        return False
    if not flavor.pool:
        return True
    if pool == "local":
        return flavor.pool == "local"
    return entry.infra == "any" or _reaches(flavor.pool, entry.infra) or _reaches(entry.infra, flavor.pool)


def _reaches(wide: str, narrow: str) -> bool:
    return narrow == wide or narrow.startswith(wide + "/")


def _same_kind(asked: str, has: str) -> bool:
    return asked.upper().partition("-")[0] == has.upper().partition("-")[0]


def _admitted(entry: Entry, request: JobRequest, flavors: Sequence[Flavor], now: datetime) -> Admitted:
    index = next(
        (at for at, one in enumerate(request.options) if quota_flavor(one.flavor) == entry.flavor), 0
    )
    since = entry.admit_time or entry.create_time
    stopping, gone = "", 0
    if entry.state is State.PREEMPTING:
        stopping = entry.preempted_for or NOBODY
        gone = milliseconds((entry.preempt_time or now) + timedelta(seconds=entry.grace))
    return Admitted(
        request=request,
        option=index,
        machines=((MACHINE, entry.num_nodes),) if entry.pool == "local" else (),
        admit_time=milliseconds(since),
        checkpoint_time=milliseconds(entry.checkpoint_time) if entry.checkpoint_time else None,
        stopping=stopping,
        gone_at=gone,
    )


def _flavors(tree: Tree, places: Sequence[Place]) -> list[Flavor]:
    made = []
    for flavor in tree.flavors:
        pools = [place.name for place in places if _offers(place, flavor)]
        for pool in pools:
            made.append(
                Flavor(
                    name=flavor.name if pool == pools[0] else f"{flavor.name}@{pool}",
                    pool=pool,
                    accelerator=flavor.accelerator,
                    market="spot" if flavor.spot else "on-demand",
                )
            )
    return made


def _offers(place: Place, flavor: TreeFlavor) -> bool:
    return not flavor.pool or (flavor.pool == "local") == (place.name == "local")


def _name(flavor: str, pool: str, flavors: Sequence[Flavor]) -> str:
    return next((f.name for f in flavors if f.pool == pool and quota_flavor(f.name) == flavor), "")


def _pool(place: Place) -> Pool:
    if place.capacity.cpu_milli >= _BOUNDLESS:
        return Pool(place.name, PoolKind.ELASTIC)
    has = place.capacity
    capacity = {"gpu": has.gpus * 1000, "cpu": has.cpu_milli, "mem": has.memory_mib * 1000}
    return Pool(place.name, PoolKind.FIXED, (Machine(MACHINE, capacity),))


def _with_rates(budget: world.Budget, flavors: Sequence[Flavor]) -> world.Budget:
    rates: Mapping[str, int] = {
        **budget.rates,
        **{f.name: budget.rates.get(quota_flavor(f.name), budget.rates.get("", 0)) for f in flavors},
    }
    return replace(budget, rates=rates)
