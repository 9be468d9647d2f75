"""The quota tree as values: nodes, flavors, budgets, priority classes, windows.

Amounts are integers in thousandths of a resource's unit, durations milliseconds, weights and factors
thousandths. A **key** is `(flavor, resource)`; the flavor `*` stands for all flavors together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from functools import cached_property

Key = tuple[str, str]
ANY = "*"
UNIT = 1000
JOBS = "jobs"
RESOURCES = ("gpu", "cpu", "mem", JOBS)
DEFAULT_FLAVOR = "default"
ROOT = "organisation"
HOUR = 3_600_000
"""Milliseconds; also a GPU-hour in GPU-milliseconds."""


class Kind(IntEnum):
    """Numbers as in cairn.quota.v1.QuotaNode.Kind."""

    ORGANISATION = 1
    GROUP = 2
    TEAM = 3
    PROJECT = 4
    USER = 5


class Stop(IntEnum):
    """Numbers as in cairn.quota.v1.QuotaNode.Stop."""

    NONE = 0
    HOLD = 1
    DRAIN = 2


class Within(IntEnum):
    """Numbers as in cairn.quota.v1.QuotaNode.Within; INHERITED: as the node above."""

    INHERITED = 0
    NEVER = 1
    LOWER = 2
    LOWER_OR_NEWER = 3


class Reclaim(IntEnum):
    """Numbers as in cairn.quota.v1.QuotaNode.Reclaim; INHERITED: as the node above."""

    INHERITED = 0
    NEVER = 1
    LOWER = 2
    ANY = 3


class Borrowing(IntEnum):
    """Numbers as in cairn.quota.v1.QuotaNode.Borrowing; INHERITED: as the node above."""

    INHERITED = 0
    NEVER = 1
    FAIR = 2


class Order(IntEnum):
    """Numbers as in cairn.quota.v1.QuotaNode.Order; INHERITED: as the node above."""

    INHERITED = 0
    OLDEST = 1
    SMALLEST = 2


class Market(IntEnum):
    """Numbers as in cairn.quota.v1.Flavor.Market."""

    ANY = 0
    ON_DEMAND = 1
    SPOT = 2


class BudgetUnit(IntEnum):
    """Numbers as in cairn.quota.v1.Budget.Unit; NONE is refused."""

    NONE = 0
    GPU_HOURS = 1
    MONEY = 2
    # Of usage alone.
    CPU_HOURS = 3


class Overrun(IntEnum):
    """Numbers as in cairn.quota.v1.Budget.Overrun."""

    DENY_NEW = 1
    DRAIN = 2
    PREEMPT = 3


class Calendar(IntEnum):
    """Numbers as in cairn.quota.v1.BudgetWindow.Calendar."""

    DAY = 1
    WEEK = 2
    MONTH = 3
    QUARTER = 4
    YEAR = 5


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one key at one node. None: not said (nominal 0, no limit)."""

    nominal: int | None = None
    borrow_limit: int | None = None
    lend_limit: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """On single jobs and their number; None: no limit. `max_runtime` in milliseconds."""

    pending_jobs: int | None = None
    submits_per_hour: int | None = None
    gpu_milli_per_job: int | None = None
    max_runtime: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One node; `parent` is empty for the root alone."""

    id: str
    parent: str
    kind: Kind
    display_name: str = ""
    # For a TEAM, PROJECT and USER the id of that thing; the team of what is below it is found by the tree.
    subject: str = ""
    quotas: Mapping[Key, Quota] = field(default_factory=dict)
    weight: int = UNIT
    within: Within = Within.INHERITED
    reclaim: Reclaim = Reclaim.INHERITED
    borrowing: Borrowing = Borrowing.INHERITED
    order: Order = Order.INHERITED
    # None: as the node above.
    min_runtime: int | None = None
    patience: int | None = None
    stop: Stop = Stop.NONE
    limits: NodeLimits = NodeLimits()
    # The team is not in the tree file.
    implied: bool = False


@dataclass(frozen=True, slots=True)
class Flavor:
    """A kind of capacity. `factor`: thousandths of a GPU-hour per GPU-hour; `price`: micro-money for one."""

    name: str
    accelerator: str = ""
    market: Market = Market.ANY
    pool: str = ""
    factor: int = UNIT
    price: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """When a budget begins anew: exactly one of calendar, rolling (milliseconds) and one_off is set."""

    calendar: Calendar | None = None
    timezone: str = "UTC"
    rolling: int | None = None
    one_off: bool = False
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What a node's subtree, or a user in it, may spend: GPU-milliseconds x factor, or micro-money."""

    id: str
    unit: BudgetUnit
    amount: int
    window: Window
    # Empty: everything of `user`.
    node: str = ""
    user: str = ""
    overrun: Overrun = Overrun.DENY_NEW
    safe: bool = False


@dataclass(frozen=True, slots=True)
class PriorityClass:
    """A class of jobs."""

    name: str
    value: int = 0
    preemptible: bool = True
    preempts: bool = True
    max_runtime: int | None = None


@dataclass(frozen=True, slots=True)
class CapacityWindow:
    """Capacity kept for a node for some time."""

    id: str
    node: str
    flavor: str
    resource: str
    amount: int
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Tree:
    """One version of the organisation's quotas and money. A tree that was checked has one root, no cycle."""

    nodes: tuple[Node, ...]
    flavors: tuple[Flavor, ...] = ()
    budgets: tuple[Budget, ...] = ()
    classes: tuple[PriorityClass, ...] = ()
    windows: tuple[CapacityWindow, ...] = ()
    # Beside RESOURCES.
    resources: tuple[str, ...] = ()
    currency: str = ""

    @cached_property
    def by_id(self) -> dict[str, Node]:
        """Nodes by id."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def by_flavor(self) -> dict[str, Flavor]:
        """Flavors by name."""
        return {flavor.name: flavor for flavor in self.flavors}

    @cached_property
    def children(self) -> dict[str, list[Node]]:
        """Nodes by their parent's id, in their order."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            found.setdefault(node.parent, []).append(node)
        return found

    @cached_property
    def by_team(self) -> dict[str, Node]:
        """TEAM nodes by team."""
        return {node.subject: node for node in self.nodes if node.kind is Kind.TEAM}

    @cached_property
    def budgets_at(self) -> dict[str, list[Budget]]:
        """Budgets by the node that they cover; those of a user anywhere at the empty one."""
        found: dict[str, list[Budget]] = {}
        for budget in self.budgets:
            found.setdefault(budget.node, []).append(budget)
        return found

    @property
    def root(self) -> Node:
        """The organisation."""
        return self.children[""][0]

    def path(self, node: str) -> Iterator[Node]:
        """The node and all above it, from below."""
        at: Node | None = self.by_id[node]
        while at is not None:
            yield at
            at = self.by_id.get(at.parent)

    def team_of(self, node: str) -> str:
        """The team that the node is, or is below; empty above teams."""
        return next((one.subject for one in self.path(node) if one.kind is Kind.TEAM), "")

    def below(self, node: str) -> Iterator[Node]:
        """The node and all below it, parents first."""
        yield self.by_id[node]
        for child in self.children.get(node, ()):
            yield from self.below(child.id)

    def leaf(self, *, team: str, project: str, user: str) -> Node | None:
        """Where a job of the user in the team counts: the deepest node that is theirs; None: no such team."""
        at = self.by_team.get(team)
        if at is None:
            return None
        for kind, subject in ((Kind.PROJECT, project), (Kind.USER, user)):
            if subject:
                at = next((n for n in self.below(at.id) if (n.kind, n.subject) == (kind, subject)), at)
        return at


EMPTY = Tree(nodes=(Node(ROOT, "", Kind.ORGANISATION),))
"""Before any tree was applied: no limits but the teams'."""
