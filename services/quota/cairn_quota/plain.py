"""A Tree as the plain values of a tree file, and the difference between two of them. Pure.

`treefile.parse(plain(tree)) == tree`, for every tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum

from cairn_quota.fields import written
from cairn_quota.tree import (
    HOUR,
    UNIT,
    Borrowing,
    Budget,
    BudgetUnit,
    CapacityWindow,
    Flavor,
    Kind,
    Market,
    Node,
    Order,
    PriorityClass,
    Quota,
    Reclaim,
    Stop,
    Tree,
    Window,
    Within,
)

MONEY = 1_000_000
Plain = dict[str, object]
_SPANS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


class Action(IntEnum):
    """Numbers as in cairn.quota.v1.TreeChange.Action."""

    ADDED = 1
    REMOVED = 2
    CHANGED = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: where, and what stood and stands there, as in a tree file."""

    action: Action
    path: str
    before: str
    after: str


def plain(tree: Tree) -> Plain:
    """What a tree file of this tree holds."""
    return _without_empty(
        {
            "currency": tree.currency,
            "resources": list(tree.resources),
            "flavors": {one.name: _flavor(one) for one in tree.flavors},
            "priority_classes": {one.name: _class(one) for one in tree.classes},
            "tree": _node(tree, tree.root),
            "budgets": {one.id: _budget(one) for one in tree.budgets},
            "reservations": {one.id: _window(one) for one in tree.windows},
        }
    )


def changes(before: Tree, after: Tree) -> list[Change]:
    """Every difference, in the order of the files; whole nodes, budgets and so on as one."""
    old, new = _things(before), _things(after)
    found: list[Change] = []
    for path, value in new.items():
        if path not in old:
            found.append(Change(Action.ADDED, path, "", text(value)))
        else:
            found.extend(_inside(path, old[path], value))
    found.extend(Change(Action.REMOVED, path, text(old[path]), "") for path in old if path not in new)
    return found


def text(value: object) -> str:
    """A plain value on one line, as YAML's flow style has it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {text(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(text(each) for each in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _things(tree: Tree) -> dict[str, object]:
    top = plain(tree)
    found: dict[str, object] = {name: top[name] for name in ("currency", "resources") if name in top}
    for node in tree.nodes:
        mine = {name: value for name, value in _node(tree, node, deep=False).items() if name != "id"}
        found[f"nodes.{node.id}"] = mine | ({"parent": node.parent} if node.parent else {})
    for part in ("flavors", "priority_classes", "budgets", "reservations"):
        values = top.get(part)
        if isinstance(values, Mapping):
            found |= {f"{part}.{name}": value for name, value in values.items()}
    return found


def _inside(path: str, before: object, after: object) -> Iterator[Change]:
    if before == after:
        return
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        yield Change(Action.CHANGED, path, text(before), text(after))
        return
    for name in (*after, *(name for name in before if name not in after)):
        at = f"{path}.{name}"
        if name not in before:
            yield Change(Action.ADDED, at, "", text(after[name]))
        elif name not in after:
            yield Change(Action.REMOVED, at, text(before[name]), "")
        else:
            yield from _inside(at, before[name], after[name])


def _node(tree: Tree, node: Node, *, deep: bool = True) -> Plain:
    name = node.subject or node.id
    nested = node.kind in (Kind.PROJECT, Kind.USER)
    usual = f"{node.parent}/{name}" if nested else name
    children = tree.children.get(node.id, []) if deep else []
    preemption = {
        "within": None if node.within is Within.INHERITED else written(node.within),
        "reclaim": None if node.reclaim is Reclaim.INHERITED else written(node.reclaim),
        "borrowing": None if node.borrowing is Borrowing.INHERITED else written(node.borrowing),
    }
    limits = {
        "pending_jobs": node.limits.pending_jobs,
        "submits_per_hour": node.limits.submits_per_hour,
        "gpus_per_job": _number(node.limits.gpu_milli_per_job, UNIT),
        "max_runtime": _span(node.limits.max_runtime),
    }
    return _without_empty(
        {
            node.kind.name.lower(): name,
            "id": None if node.id == usual else node.id,
            "display_name": node.display_name,
            "quotas": _quotas(node),
            "weight": None if node.weight == UNIT else _number(node.weight, UNIT),
            "preemption": _without_empty(preemption),
            "order": None if node.order is Order.INHERITED else written(node.order),
            "min_runtime": _span(node.min_runtime),
            "patience": _span(node.patience),
            "stop": None if node.stop is Stop.NONE else written(node.stop),
            "limits": _without_empty(limits),
            "children": [_node(tree, child) for child in children],
        }
    )


def _quotas(node: Node) -> Plain:
    found: dict[str, Plain] = {}
    for (flavor, resource), quota in node.quotas.items():
        found.setdefault(flavor, {})[resource] = _quota(quota, resource)
    return dict(found)


def _quota(quota: Quota, resource: str) -> object:
    values = {
        "nominal": quota.nominal,
        "borrow_limit": quota.borrow_limit,
        "lend_limit": quota.lend_limit,
        "max": quota.most,
    }
    shown = {name: amount(value, resource) for name, value in values.items() if value is not None}
    return shown["nominal"] if list(shown) == ["nominal"] else shown


def amount(milli: int, resource: str) -> object:
    """An amount of a resource as a tree file has it: a number, or for memory a text with its unit."""
    if resource != "mem":
        return _number(milli, UNIT)
    return f"{milli // 1_024_000}GiB" if milli % 1_024_000 == 0 else f"{_number(milli, UNIT)}MiB"


def _flavor(one: Flavor) -> Plain:
    return _without_empty(
        {
            "accelerator": one.accelerator,
            "market": None if one.market is Market.ANY else written(one.market).replace("_", "-"),
            "pool": one.pool,
            "factor": None if one.factor == UNIT else _number(one.factor, UNIT),
            "price": _number(one.price, MONEY) if one.price else None,
        }
    )


def _budget(one: Budget) -> Plain:
    hours = one.unit is BudgetUnit.GPU_HOURS
    return _without_empty(
        {
            "node": one.node,
            "user": one.user,
            "unit": written(one.unit).replace("_", "-"),
            "amount": _exact(one.amount, HOUR if hours else MONEY),
            "window": _budget_window(one.window),
            "overrun": written(one.overrun),
            "safe": one.safe or None,
        }
    )


def _budget_window(window: Window) -> Plain:
    if window.one_off:
        return {"one_off": _without_empty({"from": _moment(window.start), "to": _moment(window.end)})}
    if window.rolling is not None:
        return {"rolling": _span(window.rolling)}
    assert window.calendar is not None
    zone = None if window.timezone == "UTC" else window.timezone
    return _without_empty({"calendar": written(window.calendar), "timezone": zone})


def _class(one: PriorityClass) -> Plain:
    return _without_empty(
        {
            "value": one.value,
            "preemptible": None if one.preemptible else False,
            "preempts": None if one.preempts else False,
            "max_runtime": _span(one.max_runtime),
        }
    )


def _window(one: CapacityWindow) -> Plain:
    return {
        "node": one.node,
        "flavor": one.flavor,
        "resource": one.resource,
        "amount": amount(one.amount, one.resource),
        "from": _moment(one.start),
        "to": _moment(one.end),
    }


def _without_empty(values: Mapping[str, object]) -> Plain:
    return {name: value for name, value in values.items() if value is not None and value not in ("", [], {})}


def _number(value: int | None, scale: int) -> int | float | None:
    if value is None:
        return None
    return value // scale if value % scale == 0 else value / scale


def _exact(value: int, scale: int) -> object:
    """A number that reads back as the very same; where none does, a text in the ledger's own unit."""
    made = _number(value, scale)
    if isinstance(made, float) and Decimal(str(made)) * scale != value:
        return f"{value}ms" if scale == HOUR else str(Decimal(value) / Decimal(scale))
    return made


def _span(millis: int | None) -> str | None:
    if millis is None:
        return None
    unit, size = next(((unit, size) for unit, size in _SPANS if millis and millis % size == 0), ("s", 1000))
    return f"{millis // size}{unit}"


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
