"""What a tree must be before it may rule. Pure: finds the first thing that is wrong, with path and cure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cairn_quota.tree import (
    ANY,
    JOBS,
    RESOURCES,
    Budget,
    BudgetUnit,
    Key,
    Kind,
    Node,
    Quota,
    Tree,
)

LARGEST = 10**15
MOST_NODES = 20_000
MOST_DEPTH = 32
_SEGMENT = r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"
ID = re.compile(_SEGMENT)
PATH_ID = re.compile(rf"{_SEGMENT}(/[a-z0-9]([a-z0-9.-]{{0,61}}[a-z0-9])?)*")
_NONE = Quota()


class TreeInvalid(Exception):
    """The tree cannot rule: `path` says where, the message what is wrong and what to do."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


def check(tree: Tree) -> None:
    """Raises TreeInvalid for the first thing that is wrong."""
    for problem in _problems(tree):
        raise problem


def _problems(tree: Tree) -> Iterator[TreeInvalid]:
    yield from _names(tree)
    yield from _shape(tree)
    known = set(RESOURCES) | set(tree.resources)
    for node in tree.nodes:
        yield from _kinds(tree, node)
        yield from _node_numbers(node)
        for key, quota in node.quotas.items():
            yield from _quota(tree, node, key, quota, known=known)
    yield from _sums(tree)
    for budget in tree.budgets:
        yield from _budget(tree, budget)
    yield from _classes(tree)
    yield from _windows(tree, known)


def _names(tree: Tree) -> Iterator[TreeInvalid]:
    if len(tree.nodes) > MOST_NODES:
        yield TreeInvalid("tree", f"has {len(tree.nodes):,} nodes, the most is {MOST_NODES:,}")
    lists: tuple[tuple[str, Iterable[str], re.Pattern[str]], ...] = (
        ("tree", (node.id for node in tree.nodes), PATH_ID),
        ("flavors", (flavor.name for flavor in tree.flavors), PATH_ID),
        ("budgets", (budget.id for budget in tree.budgets), ID),
        ("priority_classes", (one.name for one in tree.classes), ID),
        ("reservations", (window.id for window in tree.windows), ID),
        ("resources", tree.resources, ID),
    )
    for path, names, shape in lists:
        for name, count in Counter(names).items():
            if len(name) > 200 or shape.fullmatch(name) is None:
                yield TreeInvalid(
                    f"{path}.{name[:80]}",
                    f"{name[:80]!r} is not an id: use a-z, 0-9 and -, beginning with a letter",
                )
            if count > 1:
                yield TreeInvalid(
                    f"{path}.{name}", f"{name!r} is there {count} times; give each an id of its own"
                )
    for resource in tree.resources:
        if resource in RESOURCES:
            yield TreeInvalid(f"resources.{resource}", "is there by itself; leave it out")


def _shape(tree: Tree) -> Iterator[TreeInvalid]:
    by_id = tree.by_id
    for node in tree.nodes:
        if node.parent and node.parent not in by_id:
            yield TreeInvalid(f"tree.{node.id}.parent", f"there is no node {node.parent[:80]!r} in this tree")
    for node in tree.nodes:
        seen = [node.id]
        at = by_id.get(node.parent)
        while at is not None:
            if at.id in seen:
                around = " > ".join((*seen[seen.index(at.id) :], at.id)[:10])
                yield TreeInvalid(
                    f"tree.{at.id}.parent", f"the tree has a cycle: {around}; cut it at one node"
                )
            seen.append(at.id)
            at = by_id.get(at.parent)
        if len(seen) > MOST_DEPTH:
            yield TreeInvalid(f"tree.{node.id}", f"is {len(seen)} levels deep, the most is {MOST_DEPTH}")
    roots = [node.id for node in tree.nodes if not node.parent]
    if len(roots) != 1:
        yield TreeInvalid(
            "tree", f"needs one root, the organisation; without a parent are: {', '.join(roots[:5])}"
        )


def _kinds(tree: Tree, node: Node) -> Iterator[TreeInvalid]:
    path = f"tree.{node.id}"
    above = list(tree.path(node.id))[1:]
    if (node.kind is Kind.ORGANISATION) != (not node.parent):
        yield TreeInvalid(path, "the root, and it alone, is an organisation")
    if node.kind in (Kind.TEAM, Kind.PROJECT, Kind.USER) and ID.fullmatch(node.subject) is None:
        yield TreeInvalid(path, f"{node.subject[:80]!r} is not the id of a {node.kind.name.lower()}")
    in_team = any(one.kind is Kind.TEAM for one in above)
    if node.kind in (Kind.TEAM, Kind.GROUP, Kind.ORGANISATION) and in_team:
        yield TreeInvalid(path, "stands below a team; below a team are projects and users")
    if node.kind in (Kind.PROJECT, Kind.USER) and not in_team:
        yield TreeInvalid(path, f"a {node.kind.name.lower()} stands below a team; put it beneath one")
    if any(one.kind is Kind.USER for one in above):
        yield TreeInvalid(path, "stands below a user; a user is a leaf")
    if node.kind is Kind.TEAM and tree.by_team[node.subject] is not node:
        yield TreeInvalid(path, f"the team {node.subject} has another node already; a team has one")


def _node_numbers(node: Node) -> Iterator[TreeInvalid]:
    path = f"tree.{node.id}"
    if not 1 <= node.weight <= 1_000_000_000:
        yield TreeInvalid(f"{path}.weight", "must be above 0 and at most 1,000,000")
    numbers = {
        "min_runtime": node.min_runtime,
        "patience": node.patience,
        "limits.pending_jobs": node.limits.pending_jobs,
        "limits.submits_per_hour": node.limits.submits_per_hour,
        "limits.gpus_per_job": node.limits.gpu_milli_per_job,
        "limits.max_runtime": node.limits.max_runtime,
    }
    for name, value in numbers.items():
        yield from _range(f"{path}.{name}", value)


def _quota(tree: Tree, node: Node, key: Key, quota: Quota, *, known: set[str]) -> Iterator[TreeInvalid]:
    flavor, resource = key
    path = f"tree.{node.id}.quotas.{flavor}.{resource}"
    if flavor != ANY and flavor not in tree.by_flavor:
        names = ", ".join(tree.by_flavor) or "none"
        yield TreeInvalid(path, f"there is no flavor {flavor[:80]!r}; flavors of this tree: {names}")
    if resource not in known:
        yield TreeInvalid(
            path,
            f"there is no resource {resource[:80]!r}; there are {', '.join(sorted(known))};"
            " one of your own goes into `resources`",
        )
    if resource == JOBS and flavor != ANY:
        yield TreeInvalid(path, "jobs are counted over all flavors; write it below '*'")
    for name in ("nominal", "borrow_limit", "lend_limit", "max"):
        yield from _range(f"{path}.{name}", getattr(quota, "most" if name == "max" else name))
    if not node.parent and (quota.borrow_limit is not None or quota.lend_limit is not None):
        yield TreeInvalid(
            path, "the root has nobody to borrow from or lend to; leave borrow_limit and lend_limit out"
        )
    if quota.most is not None and (quota.nominal or 0) > quota.most:
        yield TreeInvalid(
            f"{path}.nominal", f"{_n(quota.nominal)} is over the node's own max {_n(quota.most)}"
        )


def _sums(tree: Tree) -> Iterator[TreeInvalid]:
    """What must hold between a node and those below: nothing is promised that a `max` above forbids."""
    for node in tree.nodes:
        for key, quota in node.quotas.items():
            bound = next(
                (one for one in list(tree.path(node.id))[1:] if one.quotas.get(key, _NONE).most is not None),
                None,
            )
            if (
                bound is not None
                and quota.most is not None
                and quota.most > (most := bound.quotas[key].most or 0)
            ):
                yield TreeInvalid(
                    f"tree.{node.id}.quotas.{key[0]}.{key[1]}.max",
                    f"{_n(quota.most)} is over the max {_n(most)} of {bound.id} above it;"
                    " lower it or raise that one",
                )
            if quota.most is not None:
                total = sum(one.quotas.get(key, _NONE).nominal or 0 for one in tree.below(node.id))
                if total > quota.most:
                    yield TreeInvalid(
                        f"tree.{node.id}.quotas.{key[0]}.{key[1]}.max",
                        f"the nominal quotas from here down are {_n(total)}, over this max {_n(quota.most)}",
                    )
            yield from _lending(tree, node, key, quota)


def _lending(tree: Tree, node: Node, key: Key, quota: Quota) -> Iterator[TreeInvalid]:
    if quota.lend_limit is None:
        return
    total = sum(one.quotas.get(key, _NONE).nominal or 0 for one in tree.below(node.id))
    if quota.lend_limit > total:
        yield TreeInvalid(
            f"tree.{node.id}.quotas.{key[0]}.{key[1]}.lend_limit",
            f"{_n(quota.lend_limit)} is more than there is to lend: nominal is {_n(total)}",
        )


def _budget(tree: Tree, budget: Budget) -> Iterator[TreeInvalid]:
    path = f"budgets.{budget.id}"
    if budget.unit not in (BudgetUnit.GPU_HOURS, BudgetUnit.MONEY):
        yield TreeInvalid(f"{path}.unit", "a budget needs a unit: gpu-hours or money")
    yield from _range(f"{path}.amount", budget.amount)
    if not budget.node and not budget.user:
        yield TreeInvalid(path, "a budget covers a node or a user; give `node` or `user`")
    if budget.node and budget.node not in tree.by_id:
        yield TreeInvalid(f"{path}.node", f"there is no node {budget.node[:80]!r} in this tree")
    if budget.user and ID.fullmatch(budget.user) is None:
        yield TreeInvalid(f"{path}.user", f"{budget.user[:80]!r} is not the id of a user")
    window = budget.window
    if (window.calendar is not None) + (window.rolling is not None) + window.one_off != 1:
        yield TreeInvalid(f"{path}.window", "give one of calendar, rolling and one_off")
    if window.rolling is not None and not 60_000 <= window.rolling <= 3660 * 86_400_000:
        yield TreeInvalid(f"{path}.window.rolling", "must be from 1m to 3660d")
    if window.start is not None and window.end is not None and window.start >= window.end:
        yield TreeInvalid(f"{path}.window", "ends before it begins")
    try:
        ZoneInfo(window.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield TreeInvalid(
            f"{path}.window.timezone",
            f"{window.timezone[:80]!r} is no time zone; give one such as Europe/Berlin",
        )


def _classes(tree: Tree) -> Iterator[TreeInvalid]:
    for one in tree.classes:
        if not -1000 <= one.value <= 1000:
            yield TreeInvalid(f"priority_classes.{one.name}.value", "must be from -1000 to 1000")
        yield from _range(f"priority_classes.{one.name}.max_runtime", one.max_runtime)
    for flavor in tree.flavors:
        yield from _range(f"flavors.{flavor.name}.factor", flavor.factor, most=10**9)
        yield from _range(f"flavors.{flavor.name}.price", flavor.price, most=10**12)


def _windows(tree: Tree, known: set[str]) -> Iterator[TreeInvalid]:
    for window in tree.windows:
        path = f"reservations.{window.id}"
        if window.node not in tree.by_id:
            yield TreeInvalid(f"{path}.node", f"there is no node {window.node[:80]!r} in this tree")
        if window.flavor not in tree.by_flavor:
            yield TreeInvalid(f"{path}.flavor", f"there is no flavor {window.flavor[:80]!r} in this tree")
        if window.resource not in known - {JOBS}:
            yield TreeInvalid(
                f"{path}.resource", f"{window.resource[:80]!r} cannot be kept; give gpu, cpu or mem"
            )
        if window.amount <= 0:
            yield TreeInvalid(f"{path}.amount", "must be above 0")
        yield from _range(f"{path}.amount", window.amount)
        if window.start >= window.end:
            yield TreeInvalid(path, "ends before it begins")


def _range(path: str, value: int | None, *, most: int = LARGEST) -> Iterator[TreeInvalid]:
    if value is not None and not 0 <= value <= most:
        problem = "cannot be negative" if value < 0 else f"is more than {most:,} thousandths"
        yield TreeInvalid(path, f"{_n(value)} {problem}")


def _n(milli: int | None) -> str:
    whole = (milli or 0) / 1000
    return f"{whole:g}"
