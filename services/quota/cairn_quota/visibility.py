"""Who sees which part of the tree, and who may change which. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from cairn_common.auth import Principal
from cairn_quota.tree import Budget, Key, Node, Tree
from cairn_quota.validity import TreeInvalid


def nodes_for(tree: Tree, roles: Mapping[str, object]) -> list[Node]:
    """The nodes of one's own teams with all below and above them: of other teams nothing is seen."""
    seen = {tree.root.id}
    for team in roles:
        top = tree.by_team.get(team)
        if top is not None:
            seen |= {node.id for node in tree.below(top.id)} | {node.id for node in tree.path(top.id)}
    return [node for node in tree.nodes if node.id in seen]


def budgets_for(tree: Tree, who: Principal) -> list[Budget]:
    """The budgets that pay for jobs of one's own teams; of those of users one's own alone."""
    seen = {node.id for node in nodes_for(tree, who.roles)}
    me = who.subject.removeprefix("users/")
    return [budget for budget in tree.budgets if (budget.user == me if budget.user else budget.node in seen)]


def with_below(tree: Tree, node: str, below: Tree, *, may_add: bool) -> Tree:
    """The tree with other nodes beneath `node`, and other budgets of theirs.

    Unless `may_add`, they may not bring in more nominal quota than those that they replace: it would be quota
    that nobody gave. Raises TreeInvalid.
    """
    old = {one.id for one in tree.below(node)} - {node}
    new = {one.id for one in below.nodes}
    for one in below.nodes:
        if one.parent != node and one.parent not in new:
            raise TreeInvalid(
                f"tree.{one.id}.parent", f"stands outside of {node}; edit the whole tree for that"
            )
    for budget in below.budgets:
        if budget.node not in new and not (budget.node == node and budget.user):
            raise TreeInvalid(
                f"budgets.{budget.id}.node", f"covers something outside of what is beneath {node}"
            )
    if not may_add:
        before, after = _nominal(tree.by_id[one] for one in old), _nominal(below.nodes)
        for key in sorted(after):
            if after[key] > before[key]:
                raise TreeInvalid(
                    f"tree.{node}",
                    f"the nominal quotas of {key[1]} ({key[0]}) beneath it would grow from"
                    f" {before[key] / 1000:g} to {after[key] / 1000:g};"
                    " that takes an admin of the organisation",
                )
    kept = [one for one in tree.nodes if one.id not in old]
    budgets = [one for one in tree.budgets if one.node not in old and not (one.node == node and one.user)]
    return replace(tree, nodes=(*kept, *below.nodes), budgets=(*budgets, *below.budgets))


def _nominal(nodes: Iterable[Node]) -> Counter[Key]:
    total: Counter[Key] = Counter()
    for node in nodes:
        for key, quota in node.quotas.items():
            total[key] += quota.nominal or 0
    return total
