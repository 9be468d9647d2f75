"""The algebra of a tree: what a subtree has, what it uses, lends and borrows, and what still fits. Pure.

As in Kueue's hierarchical cohorts (its documentation, "Hierarchical cohorts"; KEP-79): a subtree's quota is
its own nominal quota and what its children lend; what a child does not lend is its own; use beyond that is
taken from the parent, up to the borrow limit. Over it all, `most` bounds the plain sum of a subtree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cairn_quota.tree import ANY, JOBS, Key, Node, Quota, Tree

NONE = Quota()


@dataclass(frozen=True, slots=True)
class Excess:
    """What stands against a hold: of this node and key, `used` + `requested` is more than `limit`."""

    node: str
    flavor: str
    resource: str
    limit: int
    used: int
    requested: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node stands with a key now. `lent`: of its quota, used by others."""

    key: Key
    used: int
    nominal: int
    borrowed: int
    lent: int


def keys_of(flavor: str, amounts: Mapping[str, int]) -> dict[Key, int]:
    """What a hold counts as: each resource at its flavor and at all flavors together, jobs there alone."""
    counted: dict[Key, int] = {(ANY, resource): amount for resource, amount in amounts.items() if amount}
    counted |= {
        (flavor, resource): amount for resource, amount in amounts.items() if amount and resource != JOBS
    }
    return counted


class Shares:
    """A tree with what is used in it. `add` and `excess` take time by the depth of the tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._rationed = {
            key
            for node in tree.nodes
            for key, quota in node.quotas.items()
            if quota.nominal or quota.borrow_limit is not None
        }
        # (node, key) -> quota of the subtree; the part of it that is not lent.
        self._subtree: dict[tuple[str, Key], int] = {}
        self._guaranteed: dict[tuple[str, Key], int] = {}
        self._nominal: dict[tuple[str, Key], int] = {}
        self._paths = {node.id: tuple(tree.path(node.id)) for node in tree.nodes}
        for node in sorted(tree.nodes, key=lambda one: -len(self._paths[one.id])):
            self._set_quota(node)
        # Plain sums of subtrees, and use as it counts in the algebra.
        self._total: dict[tuple[str, Key], int] = {}
        self._used: dict[tuple[str, Key], int] = {}

    def _set_quota(self, node: Node) -> None:
        """Its children were done before."""
        for key in self._rationed:
            quota = node.quotas.get(key, NONE)
            self._nominal[node.id, key] = (quota.nominal or 0) + sum(
                self._nominal[child.id, key] for child in self._tree.children.get(node.id, ())
            )
            # What the children lent has been added here by them.
            subtree = self._subtree.get((node.id, key), 0) + (quota.nominal or 0)
            if not subtree:
                continue
            kept = 0 if quota.lend_limit is None else max(0, subtree - quota.lend_limit)
            self._subtree[node.id, key] = subtree
            self._guaranteed[node.id, key] = kept
            if node.parent:
                above = (node.parent, key)
                self._subtree[above] = self._subtree.get(above, 0) + subtree - kept

    def path(self, node: str) -> tuple[Node, ...]:
        """The node and all above it."""
        return self._paths[node]

    def add(self, node: str, counted: Mapping[Key, int], *, sign: int = 1) -> None:
        """Uses more at a node, or (sign -1) less."""
        for key, amount in counted.items():
            more = sign * amount
            for at in self._paths[node]:
                place = (at.id, key)
                self._total[place] = self._total.get(place, 0) + sign * amount
                if more and key in self._rationed:
                    before, kept = self._used.get(place, 0), self._guaranteed.get(place, 0)
                    self._used[place] = before + more
                    more = max(0, before + more - kept) - max(0, before - kept)

    def excess(self, node: str, counted: Mapping[Key, int]) -> Excess | None:
        """The first thing that stands against using this much more at a node, from below; None: it fits."""
        for key, amount in sorted(counted.items()):
            for at in self._paths[node]:
                most = at.quotas.get(key, NONE).most
                used = self._total.get((at.id, key), 0)
                if most is not None and used + amount > most:
                    return Excess(at.id, *key, limit=most, used=used, requested=amount)
            if key in self._rationed and (left := self.available(node, key)) < amount:
                used = self._total.get((node, key), 0)
                return Excess(node, *key, limit=max(0, used + left), used=used, requested=amount)
        return None

    def available(self, node: str, key: Key) -> int:
        """How much of a rationed key more may be used at a node; below zero where a quota was lowered."""
        left: int | None = None
        for at in reversed(self._paths[node]):
            place = (at.id, key)
            subtree, used = self._subtree.get(place, 0), self._used.get(place, 0)
            if left is None:
                left = subtree - used
                continue
            kept = self._guaranteed.get(place, 0)
            limit = at.quotas.get(key, NONE).borrow_limit
            if limit is not None:
                left = min(left, subtree - kept - max(0, used - kept) + limit)
            left = max(0, kept - used) + left
        return left or 0

    def standings(self) -> dict[str, list[Standing]]:
        """How each node stands with every key that it uses, or that it or a node below has quota of."""
        found = {node.id: set(node.quotas) for node in self._tree.nodes}
        for at, key in (*self._total, *self._subtree):
            found[at].add(key)
        return {at: [self._standing(at, key) for key in sorted(keys)] for at, keys in found.items()}

    def _standing(self, node: str, key: Key) -> Standing:
        used = self._total.get((node, key), 0)
        nominal = self._nominal.get((node, key), 0)
        borrowed = max(0, used - nominal) if key in self._rationed and self._tree.by_id[node].parent else 0
        lent = 0
        if key in self._rationed and used < nominal:
            # What is not used here and not left any more: others have it.
            lent = max(0, nominal - used - max(0, self.available(node, key)))
        return Standing(key, used=used, nominal=nominal, borrowed=borrowed, lent=lent)

    def over(self) -> list[Excess]:
        """Every `most`, and every root's quota, that is passed: the invariant, for tests and alarms."""
        found = []
        for (node, key), used in self._total.items():
            most = self._tree.by_id[node].quotas.get(key, NONE).most
            if most is not None and used > most:
                found.append(Excess(node, *key, limit=most, used=used, requested=0))
        root = self._tree.root.id
        for key in self._rationed:
            limit, used = self._subtree.get((root, key), 0), self._used.get((root, key), 0)
            if used > limit:
                found.append(Excess(root, *key, limit=limit, used=used, requested=0))
        return found
