"""The quota tree as the engine knows it, read from the quota service's messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC

from google.protobuf.duration_pb2 import Duration

from cairn.quota.v1 import budget_pb2, flavor_pb2, node_pb2, priority_class_pb2, tree_pb2, window_pb2
from cairn_scheduler.engine.quota import BadTree
from cairn_scheduler.engine.world import (
    ANY,
    Borrowing,
    Budget,
    Key,
    Node,
    Order,
    Overrun,
    PriorityClass,
    Quota,
    Reclaim,
    Reservation,
    Stop,
    Within,
)

DEFAULT_FLAVOR = "default"


@dataclass(frozen=True, slots=True)
class TreeFlavor:
    """A flavor of the tree. Empty `accelerator`: any kind; empty `pool`: anywhere."""

    name: str
    accelerator: str = ""
    spot: bool = False
    pool: str = ""
    # Budgets: what a GPU counts in thousandths; what its second costs in thousandths of a millionth.
    factor: int = 1000
    price_micros_per_hour: int = 0


@dataclass(frozen=True, slots=True)
class Inflow:
    """How many jobs below a node may wait at a time, and come in an hour. None: any number."""

    pending_jobs: int | None = None
    submits_per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class Tree:
    """One version of it. `seats`: (team, project, user) to the node where such a job counts."""

    version: int
    nodes: tuple[Node, ...]
    seats: Mapping[tuple[str, str, str], str]
    flavors: tuple[TreeFlavor, ...]
    budgets: tuple[Budget, ...] = ()
    classes: tuple[PriorityClass, ...] = ()
    windows: tuple[Reservation, ...] = ()
    # Of the nodes that limit it.
    inflows: Mapping[str, Inflow] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)

    def path(self, node: str) -> Iterator[str]:
        """A node and those above it; nothing for no node."""
        while node:
            yield node
            node = self.parents.get(node, "")

    def seat(self, *, team: str, project: str, user: str) -> str:
        """Where a job counts: the deepest node that is its own; empty: the tree does not know its team."""
        for key in ((team, project, user), (team, "", user) if not project else None, (team, project, "")):
            if key is not None and key in self.seats:
                return self.seats[key]
        return self.seats.get((team, "", user)) or self.seats.get((team, "", ""), "")


def read(message: tree_pb2.QuotaTree) -> Tree:
    """The tree in a message. As long as none was ever applied, nobody loses a place to others."""
    flavors = tuple(_flavor(one) for one in message.flavors) or (TreeFlavor(DEFAULT_FLAVOR),)
    root = next((one.id for one in message.nodes if not one.parent), "")
    return Tree(
        version=message.version,
        nodes=tuple(_nodes(message.nodes, evicting=message.version > 0)),
        seats=_seats(message.nodes),
        flavors=flavors,
        budgets=tuple(_budget(one, root, flavors) for one in message.budgets),
        classes=tuple(_class(one) for one in message.priority_classes),
        windows=tuple(_window(one) for one in message.windows),
        inflows=_inflows(message.nodes),
        parents={one.id: one.parent for one in message.nodes},
    )


def supposed(message: tree_pb2.QuotaTree, *, ruling: tree_pb2.QuotaTree) -> Tree:
    """The tree in a message as if it ruled from now on: what a budget of the ruling one has spent is spent of
    the one with its id. Raises BadTree for one that could not rule."""
    _check(message)
    given = tree_pb2.QuotaTree()
    given.CopyFrom(message)
    given.version = ruling.version + 1
    spent = {one.id: one.amount - one.balance.available for one in ruling.budgets}
    held = {one.id: one.balance.held for one in ruling.budgets}
    for budget in given.budgets:
        budget.balance.available = budget.amount - spent.get(budget.id, 0)
        budget.balance.held = held.get(budget.id, 0)
    return read(given)


def _check(message: tree_pb2.QuotaTree) -> None:
    """What quota would refuse and a decision would stumble over; the forest itself the engine checks."""
    ids = {one.id for one in message.nodes}
    if not ids or "" in ids:
        raise BadTree("each node has an id, and there is at least one")
    parts = [("budget", one.id, one.node) for one in message.budgets]
    parts += [("window", one.id, one.node) for one in message.windows]
    for kind, name, node in parts:
        if node and node not in ids:
            raise BadTree(f"{kind} {name} is of a node {node} that does not exist")
    try:
        for window in message.windows:
            _window(window)
    except (ValueError, OverflowError):
        raise BadTree(f"window {window.id} begins or ends at no moment of the years 1 to 9999") from None


def _nodes(messages: Iterable[node_pb2.QuotaNode], *, evicting: bool) -> Iterable[Node]:
    made: dict[str, Node] = {}
    for one in messages:
        above = made.get(one.parent)
        within = _within(one, above) if evicting else Within.NEVER
        reclaim = _reclaim(one, above) if evicting else Reclaim.NEVER
        rest = _milliseconds(one.min_runtime) if one.HasField("min_runtime") else above and above.min_runtime
        patience = _milliseconds(one.patience) if one.HasField("patience") else above and above.patience
        made[one.id] = Node(
            id=one.id,
            parent=one.parent,
            kind=node_pb2.QuotaNode.Kind.Name(one.kind).lower(),
            quotas={(quota.flavor, quota.resource): _quota(quota) for quota in one.quotas},
            weight=one.weight_milli or 1000,
            within=within,
            reclaim=reclaim,
            borrowing=_BORROWINGS.get(one.borrowing, above.borrowing if above else Borrowing.FAIR),
            order=_ORDERS.get(one.order, above.order if above else Order.OLDEST),
            min_runtime=rest or 0,
            patience=patience or 0,
            stop=_STOPS.get(one.stop, Stop.NONE),
            max_pending=one.limits.pending_jobs or None,
            max_gpus_per_job=one.limits.gpu_milli_per_job or None,
            max_runtime=_milliseconds(one.limits.max_runtime) or None,
        )
        yield made[one.id]


def _inflows(messages: Iterable[node_pb2.QuotaNode]) -> dict[str, Inflow]:
    limits = {one.id: one.limits for one in messages}
    return {
        node: Inflow(limit.pending_jobs or None, limit.submits_per_hour or None)
        for node, limit in limits.items()
        if limit.pending_jobs or limit.submits_per_hour
    }


def _quota(message: node_pb2.Quota) -> Quota:
    return Quota(
        nominal=message.nominal,
        borrow_limit=message.borrow_limit if message.HasField("borrow_limit") else None,
        lend_limit=message.lend_limit if message.HasField("lend_limit") else None,
        most=message.max if message.HasField("max") else None,
    )


def _seats(messages: Iterable[node_pb2.QuotaNode]) -> dict[tuple[str, str, str], str]:
    seats: dict[tuple[str, str, str], str] = {}
    projects: dict[str, str] = {}
    for one in messages:
        above = projects.get(one.parent, "")
        project = one.project if one.kind == node_pb2.QuotaNode.PROJECT else above
        projects[one.id] = project
        user = one.user if one.kind == node_pb2.QuotaNode.USER else ""
        if one.kind in (node_pb2.QuotaNode.TEAM, node_pb2.QuotaNode.PROJECT, node_pb2.QuotaNode.USER):
            seats.setdefault((one.team, project, user), one.id)
    return seats


def _flavor(message: flavor_pb2.Flavor) -> TreeFlavor:
    return TreeFlavor(
        name=message.name,
        accelerator=message.accelerator,
        spot=message.market == flavor_pb2.Flavor.SPOT,
        pool=message.pool,
        factor=message.factor_milli or 1000,
        price_micros_per_hour=message.price_micros,
    )


def _budget(message: budget_pb2.Budget, root: str, flavors: Iterable[TreeFlavor]) -> Budget:
    money = message.unit == budget_pb2.Budget.MONEY
    # GPU-milliseconds are thousandths of a GPU-second; a second of a GPU costs price / 3600 millionths.
    rates = {f.name: f.price_micros_per_hour * 1000 // 3600 if money else f.factor for f in flavors}
    return Budget(
        id=message.id,
        node=message.node or root,
        left=message.balance.available,
        user=message.user.removeprefix("users/"),
        unit="money" if money else "gpu_hours",
        overrun=_OVERRUNS.get(message.overrun, Overrun.DENY_NEW),
        safe=message.safe,
        rates={**rates, "": 0 if money else 1000},
        unused=message.balance.available + message.balance.held,
    )


def _class(message: priority_class_pb2.PriorityClass) -> PriorityClass:
    return PriorityClass(
        name=message.name,
        value=message.value,
        preemptible=message.preemptible,
        may_preempt=message.preempts,
        longest_run=_milliseconds(message.max_runtime) or None,
    )


def _window(message: window_pb2.CapacityWindow) -> Reservation:
    key: Key = (message.flavor or ANY, message.resource)
    return Reservation(
        id=message.id,
        node=message.node,
        amounts=((key, message.amount),),
        start=int(message.start_time.ToDatetime(tzinfo=UTC).timestamp() * 1000),
        end=int(message.end_time.ToDatetime(tzinfo=UTC).timestamp() * 1000),
    )


def _within(message: node_pb2.QuotaNode, above: Node | None) -> Within:
    return _WITHINS.get(message.within, above.within if above else Within.LOWER)


def _reclaim(message: node_pb2.QuotaNode, above: Node | None) -> Reclaim:
    return _RECLAIMS.get(message.reclaim, above.reclaim if above else Reclaim.ANY)


def _milliseconds(message: Duration) -> int:
    return message.ToMilliseconds()


_WITHINS = {
    node_pb2.QuotaNode.WITHIN_NEVER: Within.NEVER,
    node_pb2.QuotaNode.WITHIN_LOWER: Within.LOWER,
    node_pb2.QuotaNode.WITHIN_LOWER_OR_NEWER: Within.LOWER_OR_NEWER,
}
_RECLAIMS = {
    node_pb2.QuotaNode.RECLAIM_NEVER: Reclaim.NEVER,
    node_pb2.QuotaNode.RECLAIM_LOWER: Reclaim.LOWER,
    node_pb2.QuotaNode.RECLAIM_ANY: Reclaim.ANY,
}
_BORROWINGS = {
    node_pb2.QuotaNode.BORROWING_NEVER: Borrowing.NEVER,
    node_pb2.QuotaNode.BORROWING_FAIR: Borrowing.FAIR,
}
_ORDERS = {
    node_pb2.QuotaNode.ORDER_OLDEST: Order.OLDEST,
    node_pb2.QuotaNode.ORDER_SMALLEST: Order.SMALLEST,
}
_STOPS = {node_pb2.QuotaNode.HOLD: Stop.HOLD, node_pb2.QuotaNode.DRAIN: Stop.DRAIN}
_OVERRUNS = {
    budget_pb2.Budget.DENY_NEW: Overrun.DENY_NEW,
    budget_pb2.Budget.DRAIN: Overrun.DRAIN,
    budget_pb2.Budget.PREEMPT: Overrun.PREEMPT,
}
