"""The arithmetic of the quota tree, in integers.

A node's **quota** of a key is its own nominal amount and what its children lend: nominal amounts of a parent
come on top of its children's. What a node does not lend stays **local**: use of it is not felt above. Use
beyond that is felt by the parent, and so on up to the root, which has nobody to borrow from.

The rules are those of Kueue's hierarchical cohorts (borrowing and lending limits, potential capacity,
dominant resource share), with `most` added, and shares as exact fractions.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from cairn_scheduler.engine.world import ANY, UNIT, Amounts, Key, Node, Quota

# A weighted share in units of 2**-128: whole numbers, and exact all the same, for two fractions whose
# denominators are below 2**64 differ by more. With weight 0 it is the unweighted one, above all others.
Share = int
NOTHING: Share = 0
SHARE_BITS = 128
WEIGHTLESS: Share = 1 << 256
# The quota of a key that is capped somewhere and rationed nowhere.
PLENTY = 1 << 60
_NO_QUOTA = Quota()


class BadTree(ValueError):
    """The nodes are no forest: a cycle, an unknown parent, or a name that is there twice."""


class Cell:
    """One key at one node."""

    __slots__ = (
        "_potential",
        "_reach",
        "borrow",
        "gen",
        "key",
        "local",
        "most",
        "move",
        "parent",
        "quota",
        "resource",
        "seat",
        "total",
        "usage",
    )

    def __init__(self, seat: Seat, key: Key, quota: int, own: Quota, parent: Cell | None) -> None:
        self.seat, self.key, self.parent = seat, key, parent
        # What counts together in a share: a resource over all its flavors, and limits over all flavors apart.
        self.resource = key[1] if key[0] != ANY else ANY + key[1]
        self.quota = quota
        self.local = 0 if own.lend_limit is None else max(0, quota - own.lend_limit)
        self.borrow = own.borrow_limit
        self.most = own.most
        # `usage` counts against the quota: of children what they could not hold locally. `total` is all.
        self.usage = 0
        self.total = 0
        self._reach: tuple[Cell, ...] | None = None
        self._potential: int | None = None
        # How often something was freed here, and how often anything changed.
        self.gen = 0
        self.move = 0

    def binds(self) -> bool:
        """Whether this cell alone can say no."""
        return (
            self.borrow is not None or self.most is not None or (self.parent is None and self.quota < PLENTY)
        )

    def available(self) -> int:
        """How much more may be used here now; negative where it is overcommitted."""
        room = self._room()
        cell: Cell | None = self
        while cell is not None:
            if cell.most is not None and cell.most - cell.total < room:
                room = cell.most - cell.total
            cell = cell.parent
        return room

    def against(self, amount: int) -> list[Cell]:
        """The cells from here up that have no room for this much, whatever the others have."""
        found = []
        felt = amount
        for cell in self.path():
            full = cell.most is not None and cell.most - cell.total < amount
            if cell.parent is None:
                full = full or cell.quota - cell.usage < felt
            else:
                felt -= max(0, cell.local - cell.usage)
                if cell.borrow is not None:
                    beyond = max(0, cell.usage - cell.local)
                    full = full or cell.quota - cell.local - beyond + cell.borrow < felt
            if full:
                found.append(cell)
        return found

    def reach(self) -> tuple[Cell, ...]:
        """This cell and those above, up to one from whose parent nobody borrows."""
        if self._reach is None:
            above = self.parent
            beside = () if above is None else (seat.cell(self.key) for seat in above.seat.children)
            closed = above is None or all(one is not None and one.borrow == 0 for one in beside)
            self._reach = (self,) if closed or above is None else (self, *above.reach())
        return self._reach

    def potential(self) -> int:
        """How much could be used here if nobody else used anything."""
        if self._potential is None:
            caps = [cell.most for cell in self.path() if cell.most is not None]
            self._potential = min([self._whole(), *caps])
        return self._potential

    def _room(self) -> int:
        """What is available by the quotas alone."""
        if self.parent is None:
            return self.quota - self.usage
        above = self.parent._room()
        if self.borrow is not None:
            felt = self.usage - self.local
            above = min(above, self.quota - self.local - (felt if felt > 0 else 0) + self.borrow)
        spare = self.local - self.usage
        return above + spare if spare > 0 else above

    def _whole(self) -> int:
        if self.parent is None:
            return self.quota
        room = self.local + self.parent._whole()
        return room if self.borrow is None else min(room, self.quota + self.borrow)

    def path(self) -> Iterator[Cell]:
        """This cell and those above."""
        cell: Cell | None = self
        while cell is not None:
            yield cell
            cell = cell.parent


class Seat:
    """A node of the tree while a plan is made."""

    __slots__ = (
        "_lendable", "_share", "capped", "cells", "children", "depth", "hot", "id", "node", "over", "parent",
        "quotas", "rank", "root", "shifts", "standings", "tops", "version",
    )  # fmt: skip

    def __init__(self, node: Node, parent: Seat | None) -> None:
        self.node, self.id, self.parent = node, node.id, parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.root: Seat = self if parent is None else parent.root
        self.children: list[Seat] = []
        # Its place in the order of names, from behind. The largest shares below it of those over their quota,
        # by key, and what its nodes' standing is with so much more here: each at a version.
        self.rank = 0
        self.tops: dict[Key, tuple[int, list[tuple[Share, Seat]]]] = {}
        self.standings: dict[Amounts, tuple[int, tuple[tuple[bool, Share], ...]]] = {}
        # Grows whenever what runs at the node or below it has changed.
        self.version = 0
        # How often its share may have changed.
        self.shifts = 0
        # The subtree's quota by rationed key, and (of a root) keys with nothing but a `most` somewhere.
        self.quotas: dict[Key, int] = {}
        self.capped: set[Key] = set()
        self.cells: dict[Key, Cell | None] = {}
        # By resource: use beyond the quota, over all flavors.
        self.over: dict[str, int] = {}
        # Children that are over their quota, by key.
        self.hot: dict[Key, dict[str, Seat]] = {}
        self._lendable: dict[str, int] | None = None
        self._share: Share | None = NOTHING

    def path(self) -> Iterator[Seat]:
        """This seat and those above."""
        seat: Seat | None = self
        while seat is not None:
            yield seat
            seat = seat.parent

    def cell(self, key: Key) -> Cell | None:
        """None: no node of this tree names the key, so it is not metered."""
        try:
            return self.cells[key]
        except KeyError:
            pass
        cell = None
        rationed = key in self.root.quotas
        if rationed or key in self.root.capped:
            own = self.node.quotas.get(key, _NO_QUOTA)
            above = None if self.parent is None else self.parent.cell(key)
            cell = Cell(self, key, self.quotas.get(key, 0) if rationed else PLENTY, own, above)
        self.cells[key] = cell
        return cell

    def available(self, key: Key) -> int | None:
        """See `Cell.available`; None: not metered."""
        cell = self.cell(key)
        return None if cell is None else cell.available()

    def borrows(self, usage: Iterable[tuple[Key, int]]) -> bool:
        """Whether with this on top the node would be over its quota in one of these keys."""
        for key, amount in usage:
            cell = self.cell(key)
            if cell is not None and amount > 0 and cell.usage + amount > cell.quota:
                return True
        return False

    def debt(self, usage: Iterable[tuple[Key, int]]) -> int:
        """Which nodes would borrow with this on top, as bits: the root's child is the highest. 0: none."""
        debt = 0
        for key, amount in usage:
            bit = 1
            cell = self.cell(key)
            while cell is not None and cell.parent is not None and amount > 0:
                if cell.usage + amount > cell.quota:
                    debt |= bit
                amount -= min(amount, max(0, cell.local - cell.usage))
                bit <<= 1
                cell = cell.parent
        return debt

    def holds(self, usage: Iterable[tuple[Key, int]]) -> bool:
        """Whether the nominal quota of the node, or of one above it below the root, is enough for this."""
        for key, amount in usage:
            cell = self.cell(key)
            if cell is None:
                continue
            below = [one.quota for one in cell.path() if one.parent is not None or one is cell]
            if amount > max(below):
                return False
        return True

    def holder(self, usage: Iterable[tuple[Key, int]]) -> Seat:
        """The lowest node from here up, below the root, whose nominal quota is enough for this."""
        asked = [(key, amount) for key, amount in usage if self.cell(key) is not None]
        for seat in self.path():
            cells = [(seat.cell(key), amount) for key, amount in asked]
            if all(cell is None or cell.quota >= amount for cell, amount in cells):
                return seat
        return self.root

    def exceeds(self, keys: Iterable[Key]) -> bool:
        """Whether the node is over its quota in one of these keys."""
        for key in keys:
            cell = self.cell(key)
            if cell is not None and cell.usage > cell.quota:
                return True
        return False

    def largest(self, but: Seat, key: Key) -> Share:
        """The largest share of another child that is over its quota of a key; below zero: there is none."""
        top = self.tops.get(key)
        if top is None or top[0] != self.version:
            hot = self.hot.get(key, {}).values()
            two = heapq.nlargest(2, ((child.share(), child.rank, child) for child in hot))
            top = self.tops[key] = (self.version, [(share, child) for share, _, child in two])
        return next((share for share, child in top[1] if child is not but), -1)

    def share(self) -> Share:
        """The weighted dominant share: what is borrowed, of what there is to borrow, by the weight.

        The largest of all resources. A root borrows nothing. Source: Ghodsi et al., Dominant Resource
        Fairness (NSDI 2011), on borrowed amounts as in Kueue's KEP 1714.
        """
        if self._share is None:
            self._share = self._weigh(self.over)
        return self._share

    def share_without(self, seat: Seat, usage: Amounts) -> Share:
        """What its share would be if `seat`, which it is or which is below it, used so much less."""
        over = dict(self.over)
        for key, felt in usage:
            cell = seat.cell(key)
            while cell is not None and felt and cell.seat is not self:
                stored = cell.usage - cell.local
                felt = min(felt, stored) if stored > 0 else 0
                cell = cell.parent
            if felt and cell is not None and cell.usage > cell.quota:
                over[cell.resource] -= cell.usage - max(cell.usage - felt, cell.quota)
        return self._weigh(over)

    def dominant(self) -> tuple[str, Fraction]:
        """The resource that makes the share, and its unweighted part; an empty name for none."""
        best, name = Fraction(0), ""
        if self.parent is None or not self.over:
            return name, best
        lendable = self.parent.lendable()
        for resource, over in sorted(self.over.items()):
            whole = lendable.get(resource, 0)
            if whole > 0 and Fraction(over, whole) > best:
                best, name = Fraction(over, whole), resource
        return name, best

    def lendable(self) -> dict[str, int]:
        """By resource: what could be used here at most, over all flavors."""
        if self._lendable is None:
            self._lendable = {}
            for key in self.root.quotas:
                cell = self.cell(key)
                assert cell is not None
                amount = max(0, cell.potential())
                self._lendable[cell.resource] = self._lendable.get(cell.resource, 0) + amount
        return self._lendable

    def _weigh(self, beyond: Mapping[str, int]) -> Share:
        if self.parent is None or not any(beyond.values()):
            return NOTHING
        lendable, weight = self.parent.lendable(), self.node.weight
        best = NOTHING
        for resource, over in beyond.items():
            whole = lendable.get(resource, 0)
            if whole > 0:
                best = max(best, (over * UNIT << SHARE_BITS) // (whole * (weight or UNIT)))
        return best if weight else WEIGHTLESS + best

    def exceed(self, cell: Cell, before: int, after: int, noise: int) -> None:
        """Use of one of its keys went from `before` to `after`, of which one is over the quota."""
        quota, resource = cell.quota, cell.resource
        over = self.over.get(resource, 0) + max(after, quota) - max(before, quota)
        if over:
            self.over[resource] = over
        else:
            self.over.pop(resource, None)
        self._share = None
        if self.parent is None:
            return
        if noise:
            self.shifts += 1
            for other in self.cells.values():
                # Who looks for somebody to take these from, compares with its share.
                if other is not None and other is not cell and other.usage > other.quota:
                    for one in other.path():
                        one.move += 1
        if before <= quota:
            self.parent.hot.setdefault(cell.key, {})[self.id] = self
        elif after <= quota:
            del self.parent.hot[cell.key][self.id]


class Tree:
    """All nodes, with what is used. `take` and `give` are each other's inverse.

    A key is rationed where some node of its tree has a nominal amount or a borrowing limit. One that is
    only capped (`most`) is free elsewhere.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        known: dict[str, Node] = {}
        for node in nodes:
            if known.setdefault(node.id, node) is not node:
                raise BadTree(f"node {node.id} is there twice")
        self.seats: dict[str, Seat] = {}
        # While it is, changes are not counted: they are tried, or undone.
        self.quiet = False
        # How many changes were counted, anywhere.
        self.changes = 0
        # Whether anybody is protected for a while after it started, or since it saved.
        self.rests = any(node.min_runtime or node.patience for node in known.values())
        for name in sorted(known):
            self._seat(known, name)
        for rank, name in enumerate(sorted(self.seats, reverse=True)):
            self.seats[name].rank = rank
        self.lending = {
            k for node in known.values() for k, q in node.quotas.items() if q.lend_limit is not None
        }
        for seat in self.seats.values():
            for key, own in seat.node.quotas.items():
                if own.nominal > 0 or own.borrow_limit is not None:
                    seat.root.quotas[key] = 0
                elif own.most is not None:
                    seat.root.capped.add(key)
        for seat in sorted(self.seats.values(), key=lambda seat: -seat.depth):
            _gather(seat)

    def _seat(self, known: Mapping[str, Node], name: str) -> Seat:
        chain: list[Node] = []
        while name and name not in self.seats:
            if name not in known:
                raise BadTree(f"node {chain[-1].id} has a parent {name} that does not exist")
            if len(chain) > len(known):
                raise BadTree(f"node {name} is below itself")
            chain.append(known[name])
            name = chain[-1].parent
        for node in reversed(chain):
            parent = self.seats[node.parent] if node.parent else None
            seat = self.seats[node.id] = Seat(node, parent)
            if parent is not None:
                parent.children.append(seat)
        return self.seats[chain[0].id] if chain else self.seats[name]

    def waits(self, name: str) -> bool:
        """Whether who would evict a job of this node may have to wait for its next checkpoint."""
        seat = self.seats.get(name)
        return seat is not None and seat.node.patience > 0

    def take(self, seat: Seat, usage: Amounts) -> None:
        """Adds use at a node."""
        noise = 0 if self.quiet else 1
        self.changes += noise
        for key, amount in usage:
            cell = seat.cell(key)
            felt = amount
            while cell is not None and amount:
                cell.total += amount
                cell.move += noise
                if felt:
                    before = cell.usage
                    cell.usage = after = before + felt
                    if after > cell.quota:
                        cell.seat.exceed(cell, before, after, noise)
                    spare = cell.local - before
                    if spare > 0:
                        felt = felt - spare if felt > spare else 0
                cell = cell.parent

    def give(self, seat: Seat, usage: Amounts) -> None:
        """Takes use away from a node."""
        noise = 0 if self.quiet else 1
        self.changes += noise
        for key, amount in usage:
            cell = seat.cell(key)
            felt = amount
            while cell is not None and amount:
                cell.total -= amount
                cell.move += noise
                cell.gen += noise
                if felt:
                    before = cell.usage
                    cell.usage = after = before - felt
                    if before > cell.quota:
                        cell.seat.exceed(cell, before, after, noise)
                    stored = before - cell.local
                    felt = min(felt, stored) if stored > 0 else 0
                cell = cell.parent


def _gather(seat: Seat) -> None:
    """Completes the quotas of a seat whose children's are complete."""
    rationed = seat.root.quotas
    for key, own in seat.node.quotas.items():
        if key in rationed:
            seat.quotas[key] = seat.quotas.get(key, 0) + own.nominal
    if seat.parent is None:
        return
    above = seat.parent.quotas
    for key, quota in seat.quotas.items():
        own = seat.node.quotas.get(key, _NO_QUOTA)
        lent = quota if own.lend_limit is None else min(quota, own.lend_limit)
        above[key] = above.get(key, 0) + lent
