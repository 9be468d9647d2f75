"""May this be held? The one decision that every road into the platform passes. Pure.

The state is the tree as it rules (with the teams that its file does not name), what is used in it, and the
books. A hold that is admitted changes the state, so that the next one of the same plan sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum

from cairn_quota import account, budget
from cairn_quota.account import Books, Payer
from cairn_quota.model import Limits, Reservation
from cairn_quota.shares import Shares, keys_of
from cairn_quota.tree import (
    ANY,
    DEFAULT_FLAVOR,
    JOBS,
    UNIT,
    Flavor,
    Key,
    Kind,
    Node,
    Quota,
    Stop,
    Tree,
)
from cairn_quota.validity import LARGEST

ACTOR = "services/quota"
MOST_RESOURCES = 20


class Code(IntEnum):
    """Numbers as in cairn.quota.v1.Verdict.Code."""

    HELD = 1
    ENDED = 2
    STALE = 3
    EXCEEDED = 4
    BUDGET_EXHAUSTED = 5
    BUDGET_UNSAFE = 6
    STOPPED = 7
    UNKNOWN = 8
    USED_UP = 9
    INVALID = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one item, with the evidence."""

    name: str
    code: Code
    message: str = ""
    node: str = ""
    flavor: str = ""
    resource: str = ""
    limit: int = 0
    used: int = 0
    requested: int = 0
    budget: str = ""
    # The part of what was asked for that cannot be used, where it is UNKNOWN or INVALID.
    field: str = ""


@dataclass
class State:
    """All that a decision depends on. `counters`: how often use of a node grew, or its limits changed."""

    tree: Tree
    shares: Shares
    books: Books
    version: int
    counters: dict[str, int] = field(default_factory=dict)
    grown: set[str] = field(default_factory=set)

    def node_version(self, node: str) -> int:
        """What a plan compares with: grows with the tree's version and with the node's counter."""
        return (self.version << 32) + self.counters.get(node, 0)

    def payer(self, hold: Reservation) -> Payer:
        """The hold with the budgets that pay for it and its price."""
        flavor = self.tree.by_flavor.get(hold.flavor)
        paid = budget.covering(self.tree, node=hold.node, user=hold.user)
        price = budget.priced(hold, flavor)
        return Payer(hold if price == hold.price else replace(hold, price=price), flavor, tuple(paid))

    def resolve(self, hold: Reservation) -> Reservation:
        """The hold at a node of this tree: its own where it is still there, else its team's or user's."""
        if hold.node in self.tree.by_id and self.tree.team_of(hold.node) == hold.team:
            return hold
        leaf = self.tree.leaf(team=hold.team, project=hold.project, user=hold.user)
        return replace(hold, node=(leaf or self.tree.root).id)

    def take(self, hold: Reservation) -> None:
        """Counts a hold."""
        self.shares.add(hold.node, keys_of(hold.flavor, hold.resources))
        self.grown.update(node.id for node in self.shares.path(hold.node))

    def give_back(self, hold: Reservation, *, now: datetime) -> None:
        """Counts a hold no longer, and lets go what it holds of budgets."""
        at = self.resolve(hold)
        self.shares.add(at.node, keys_of(hold.flavor, hold.resources), sign=-1)
        account.close(self.books, self.payer(at), now=now)


def ruling(tree: Tree, teams: Iterable[tuple[str, Limits]]) -> Tree:
    """The tree with every team in it, the teams' own limits as `max` over all flavors, and some flavor."""
    nodes = {node.id: node for node in tree.nodes}
    for team, limits in teams:
        known = tree.by_team.get(team)
        if known is None:
            taken = team in nodes
            id = f"{tree.root.id}/teams/{team}" if taken else team
            known = Node(id, tree.root.id, Kind.TEAM, subject=team, implied=True)
        quotas = _with_limits(known.quotas, limits)
        nodes[known.id] = replace(known, quotas=quotas)
    flavors = tree.flavors or (Flavor(DEFAULT_FLAVOR),)
    return replace(tree, nodes=tuple(nodes.values()), flavors=flavors)


def _with_limits(quotas: Mapping[Key, Quota], limits: Limits) -> dict[Key, Quota]:
    made = dict(quotas)
    by_resource = {
        "gpu": None if limits.gpus is None else limits.gpus * UNIT,
        "cpu": limits.cpu_milli,
        JOBS: None if limits.jobs is None else limits.jobs * UNIT,
    }
    for resource, limit in by_resource.items():
        if limit is not None:
            old = made.get((ANY, resource), Quota())
            made[ANY, resource] = replace(old, most=limit if old.most is None else min(limit, old.most))
    return made


def admit(
    state: State, hold: Reservation, *, attempted: bool, now: datetime, actor: str = ACTOR
) -> tuple[Verdict, Reservation]:
    """Holds it in the state, or says what stands against it and changes nothing but begun budget periods.

    `attempted`: the job ran before. The reservation comes back with the node, flavor and price it was given.
    """
    placed = _place(state, hold)
    if isinstance(placed, Verdict):
        return placed, hold
    refused = _refusal(state, placed)
    if refused is not None:
        return refused, placed
    names = [hold.flavor] if hold.flavor else list(state.tree.by_flavor)
    first: Verdict | None = None
    for flavor in names:
        chosen = placed if placed.flavor == flavor else replace(placed, flavor=flavor)
        payer = state.payer(chosen)
        verdict = _try(state, payer, attempted=attempted, now=now)
        if verdict.code is Code.HELD:
            state.take(payer.hold)
            account.rehold(state.books, payer, ran=0, now=now, actor=actor)
            return verdict, payer.hold
        first = first or verdict
    assert first is not None
    return first, placed


def _place(state: State, hold: Reservation) -> Reservation | Verdict:
    tree = state.tree
    if hold.team not in tree.by_team:
        return Verdict(hold.id, Code.UNKNOWN, f"there is no team {hold.team!r}", field="parent")
    if hold.flavor and hold.flavor not in tree.by_flavor:
        return Verdict(
            hold.id,
            Code.UNKNOWN,
            f"there is no flavor {hold.flavor!r} in the quota tree",
            flavor=hold.flavor,
            field="flavor",
        )
    if hold.node and (hold.node not in tree.by_id or tree.team_of(hold.node) != hold.team):
        return Verdict(
            hold.id,
            Code.UNKNOWN,
            f"the team {hold.team} has no node {hold.node!r}",
            node=hold.node,
            field="node",
        )
    amounts = hold.resources
    fine = all(0 <= amount <= LARGEST for amount in amounts.values()) and any(amounts.values())
    if not fine or len(amounts) > MOST_RESOURCES or hold.price < 0:
        told = "amounts and the price are not negative, and at least one amount is above 0"
        return Verdict(hold.id, Code.INVALID, told, field="amounts")
    return hold if hold.node else state.resolve(hold)


def _refusal(state: State, hold: Reservation) -> Verdict | None:
    """What no flavor changes: a stop, a limit on single jobs, the class of priority."""
    for node in state.shares.path(hold.node):
        if node.stop is not Stop.NONE:
            told = f"{node.id} admits nothing now: its stop is {node.stop.name.lower()}"
            return Verdict(hold.id, Code.STOPPED, told, node=node.id)
        limits = node.limits
        asked = (
            ("gpu", limits.gpu_milli_per_job, hold.resources.get("gpu", 0)),
            ("runtime", limits.max_runtime, hold.max_runtime or 0),
        )
        for resource, limit, requested in asked:
            if limit is not None and requested > limit:
                told = f"{node.id} allows a job {limit:,} thousandths of {resource}, not {requested:,}"
                return Verdict(
                    hold.id, Code.EXCEEDED, told, node.id, resource=resource, limit=limit, requested=requested
                )
    if hold.priority_class and all(hold.priority_class != one.name for one in state.tree.classes):
        told = f"there is no priority class {hold.priority_class!r}"
        return Verdict(hold.id, Code.UNKNOWN, told, field="priority_class")
    return None


def _try(state: State, payer: Payer, *, attempted: bool, now: datetime) -> Verdict:
    hold = payer.hold
    over = state.shares.excess(hold.node, keys_of(hold.flavor, hold.resources))
    if over is not None:
        told = (
            f"{over.requested:,} thousandths of {over.resource} ({over.flavor}) asked for, {over.node} may"
            f" use {over.limit:,} and uses {over.used:,}"
        )
        return Verdict(
            hold.id, Code.EXCEEDED, told, over.node, over.flavor, over.resource, over.limit, over.used,
            over.requested,
        )  # fmt: skip
    short = account.shortage(state.books, payer, attempted=attempted, now=now, actor=ACTOR)
    if short is not None:
        code = Code.BUDGET_UNSAFE if short.unsafe else Code.BUDGET_EXHAUSTED
        told = (
            f"the budget {short.budget} is safe and its longest run costs more than what is left"
            if short.unsafe
            else f"nothing is left of the budget {short.budget}"
        )
        return Verdict(
            hold.id, code, told, hold.node, hold.flavor, limit=short.available, requested=short.wanted,
            budget=short.budget,
        )  # fmt: skip
    return Verdict(hold.id, Code.HELD, node=hold.node, flavor=hold.flavor)
