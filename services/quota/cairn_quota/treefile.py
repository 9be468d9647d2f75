"""A tree file becomes a Tree: strictly, nothing that is written is ignored. Pure but for the YAML reader."""

from __future__ import annotations

from collections.abc import Iterator

from cairn_quota import fields
from cairn_quota.fields import Fields
from cairn_quota.tree import HOUR as GPU_HOUR
from cairn_quota.tree import (
    UNIT,
    Borrowing,
    Budget,
    BudgetUnit,
    Calendar,
    CapacityWindow,
    Flavor,
    Key,
    Kind,
    Market,
    Node,
    NodeLimits,
    Order,
    Overrun,
    PriorityClass,
    Quota,
    Reclaim,
    Stop,
    Tree,
    Window,
    Within,
)
from cairn_quota.validity import MOST_DEPTH, MOST_NODES, TreeInvalid

MONEY = 1_000_000
TOP = (
    "version", "currency", "resources", "flavors", "priority_classes", "tree", "nodes", "budgets",
    "reservations",
)  # fmt: skip
KINDS = ("organisation", "group", "team", "project", "user")
NODE = (
    *KINDS, "id", "parent", "display_name", "quotas", "weight", "preemption", "order", "min_runtime",
    "patience", "stop", "limits", "children",
)  # fmt: skip
BUDGET = ("node", "user", "unit", "amount", "window", "overrun", "safe")


def parse(document: object) -> Tree:
    """The tree that a whole file describes, not yet checked (`validity.check`). Raises TreeInvalid."""
    top = Fields(document, "", TOP)
    if top.has("tree") == top.has("nodes"):
        raise TreeInvalid("tree", "describe the nodes once: nested below `tree`, or as a list `nodes`")
    if top.has("tree"):
        nodes = tuple(_nodes(top.get("tree"), "tree", parent="", depth=0))
    else:
        nodes = tuple(
            node
            for index, each in enumerate(fields.sequence(top.get("nodes"), "nodes"))
            for node in _nodes(each, f"nodes[{index}]", parent="", depth=0)
        )
    return _tree(top, nodes)


def version(document: object) -> str:
    """The etag of the tree that a file was read from; empty where it does not say."""
    given = document.get("version") if isinstance(document, dict) else None
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 0):
        raise TreeInvalid("version", "is the number that `cairn quota export` wrote; or leave it out")
    return "" if given is None else str(given)


def parse_below(document: object, *, node: str) -> Tree:
    """What a file says of the nodes below `node`, and of their budgets; nothing else may be in it."""
    top = Fields(document, "", ("version", "children", "budgets"))
    children = fields.sequence(top.get("children"), "children")
    nodes = [
        found
        for index, each in enumerate(children)
        for found in _nodes(each, f"children[{index}]", parent=node, depth=1)
    ]
    return Tree(nodes=tuple(nodes), budgets=_budgets(top.get("budgets")))


def _tree(top: Fields, nodes: tuple[Node, ...]) -> Tree:
    flavors, classes = fields.mapping(top.get("flavors"), "flavors"), top.get("priority_classes")
    windows = fields.mapping(top.get("reservations"), "reservations")
    resources = fields.sequence(top.get("resources"), "resources")
    return Tree(
        nodes=nodes,
        flavors=tuple(_flavor(name, each) for name, each in flavors.items()),
        budgets=_budgets(top.get("budgets")),
        classes=tuple(
            _class(name, each) for name, each in fields.mapping(classes, "priority_classes").items()
        ),
        windows=tuple(_window(name, each) for name, each in windows.items()),
        resources=tuple(str(each) for each in resources),
        currency=top.text("currency"),
    )


def _nodes(value: object, path: str, *, parent: str, depth: int) -> Iterator[Node]:
    """A node and all below it."""
    if depth > MOST_DEPTH:
        raise TreeInvalid(path[:200], f"the tree has a cycle, or is more than {MOST_DEPTH} levels deep")
    read = Fields(value, path, NODE)
    node = _node(read, parent=parent)
    yield node
    made = 1
    for index, each in enumerate(fields.sequence(read.get("children"), read.at("children"))):
        for below in _nodes(each, f"{path}.children[{index}]", parent=node.id, depth=depth + 1):
            made += 1
            if made > MOST_NODES:
                raise TreeInvalid(path, f"has more than {MOST_NODES:,} nodes")
            yield below


def _node(read: Fields, *, parent: str) -> Node:
    kinds = [name for name in KINDS if read.has(name)]
    if len(kinds) != 1:
        raise TreeInvalid(
            read.path, f"give exactly one of {', '.join(KINDS)}: what the node is, and its name"
        )
    kind, subject = Kind[kinds[0].upper()], read.text(kinds[0])
    if parent and read.has("parent"):
        raise TreeInvalid(read.at("parent"), f"stands below {parent} already; leave `parent` out")
    parent = parent or read.text("parent")
    if kind in (Kind.ORGANISATION, Kind.GROUP) and read.has("id"):
        raise TreeInvalid(read.at("id"), f"the id of a {kinds[0]} is its name; leave `id` out")
    preemption = Fields(read.get("preemption"), read.at("preemption"), ("within", "reclaim", "borrowing"))
    nested = kind in (Kind.PROJECT, Kind.USER)
    return Node(
        id=read.text("id", f"{parent}/{subject}" if nested else subject),
        parent=parent,
        kind=kind,
        display_name=read.text("display_name"),
        subject=subject if kind in (Kind.TEAM, Kind.PROJECT, Kind.USER) else "",
        quotas=_quotas(read),
        weight=read.scaled("weight", UNIT, UNIT) or 0,
        within=preemption.choice("within", Within, Within.INHERITED),
        reclaim=preemption.choice("reclaim", Reclaim, Reclaim.INHERITED),
        borrowing=preemption.choice("borrowing", Borrowing, Borrowing.INHERITED),
        order=read.choice("order", Order, Order.INHERITED),
        min_runtime=read.span("min_runtime"),
        patience=read.span("patience"),
        stop=read.choice("stop", Stop, Stop.NONE),
        limits=_limits(Fields(read.get("limits"), read.at("limits"), LIMITS)),
    )


LIMITS = ("pending_jobs", "submits_per_hour", "gpus_per_job", "max_runtime")


def _limits(read: Fields) -> NodeLimits:
    return NodeLimits(
        pending_jobs=read.whole("pending_jobs"),
        submits_per_hour=read.whole("submits_per_hour"),
        gpu_milli_per_job=read.scaled("gpus_per_job", UNIT),
        max_runtime=read.span("max_runtime"),
    )


def _quotas(read: Fields) -> dict[Key, Quota]:
    """`flavor: {resource: amount, or {nominal, borrow_limit, lend_limit, max}}`"""
    path = read.at("quotas")
    found: dict[Key, Quota] = {}
    for flavor, resources in fields.mapping(read.get("quotas"), path).items():
        for resource, value in fields.mapping(resources, f"{path}.{flavor}").items():
            found[flavor, resource] = _quota(value, f"{path}.{flavor}.{resource}", resource)
    return found


def _quota(value: object, path: str, resource: str) -> Quota:
    if not isinstance(value, dict):
        return Quota(nominal=_amount(value, path, resource))
    read = Fields(value, path, ("nominal", "borrow_limit", "lend_limit", "max"))
    amounts = {
        name: None if read.get(name) is None else _amount(read.get(name), read.at(name), resource)
        for name in ("nominal", "borrow_limit", "lend_limit", "max")
    }
    return Quota(
        nominal=amounts["nominal"],
        borrow_limit=amounts["borrow_limit"],
        lend_limit=amounts["lend_limit"],
        most=amounts["max"],
    )


def _amount(value: object, path: str, resource: str) -> int:
    return fields.size(value, path) if resource == "mem" else fields.scaled(value, path, UNIT)


def _flavor(name: str, value: object) -> Flavor:
    read = Fields(value, f"flavors.{name}", ("accelerator", "market", "pool", "factor", "price"))
    return Flavor(
        name=name,
        accelerator=read.text("accelerator").upper(),
        market=read.choice("market", Market, Market.ANY),
        pool=read.text("pool"),
        factor=_present(read.scaled("factor", UNIT, UNIT)),
        price=_present(read.scaled("price", MONEY, 0)),
    )


def _budgets(value: object) -> tuple[Budget, ...]:
    return tuple(_budget(name, each) for name, each in fields.mapping(value, "budgets").items())


def _budget(name: str, value: object) -> Budget:
    read = Fields(value, f"budgets.{name}", BUDGET)
    unit = read.choice("unit", BudgetUnit, BudgetUnit.NONE)
    if unit not in (BudgetUnit.GPU_HOURS, BudgetUnit.MONEY):
        raise TreeInvalid(read.at("unit"), "a budget needs a unit: gpu-hours or money")
    amount = _budget_amount(read, unit)
    return Budget(
        id=name,
        unit=unit,
        amount=amount,
        window=_budget_window(read),
        node=read.text("node"),
        user=read.text("user"),
        overrun=read.choice("overrun", Overrun, Overrun.DENY_NEW),
        safe=read.flag("safe", default=False),
    )


def _budget_amount(read: Fields, unit: BudgetUnit) -> int:
    if not read.has("amount"):
        raise TreeInvalid(read.at("amount"), "a budget needs an amount")
    value = read.get("amount")
    if unit is BudgetUnit.MONEY:
        return fields.scaled(value, read.at("amount"), MONEY)
    if isinstance(value, str) and value.endswith("ms"):
        # GPU-milliseconds: what the ledger counts in, for amounts that are no round part of an hour.
        return fields.scaled(value.removesuffix("ms"), read.at("amount"), 1)
    return fields.scaled(value, read.at("amount"), GPU_HOUR)


def _budget_window(budget: Fields) -> Window:
    path = budget.at("window")
    if not budget.has("window"):
        raise TreeInvalid(path, "a budget needs a window: {calendar: month}, {rolling: 30d} or {one_off: {}}")
    read = Fields(budget.get("window"), path, ("calendar", "timezone", "rolling", "one_off"))
    once = Fields(read.get("one_off"), read.at("one_off"), ("from", "to"))
    return Window(
        calendar=read.choice("calendar", Calendar, Calendar.MONTH) if read.has("calendar") else None,
        timezone=read.text("timezone", "UTC"),
        rolling=read.span("rolling"),
        one_off=read.has("one_off"),
        start=once.moment("from"),
        end=once.moment("to"),
    )


def _class(name: str, value: object) -> PriorityClass:
    path = f"priority_classes.{name}"
    read = Fields(value, path, ("value", "preemptible", "preempts", "max_runtime"))
    return PriorityClass(
        name=name,
        value=read.whole("value", 0) or 0,
        preemptible=read.flag("preemptible", default=True),
        preempts=read.flag("preempts", default=True),
        max_runtime=read.span("max_runtime"),
    )


def _window(name: str, value: object) -> CapacityWindow:
    path = f"reservations.{name}"
    read = Fields(value, path, ("node", "flavor", "resource", "amount", "from", "to"))
    start, end = read.moment("from"), read.moment("to")
    if start is None or end is None:
        raise TreeInvalid(path, "a reservation needs `from` and `to`, such as 2026-12-24T08:00:00Z")
    resource = read.text("resource", "gpu")
    return CapacityWindow(
        id=name,
        node=read.text("node"),
        flavor=read.text("flavor"),
        resource=resource,
        amount=_amount(read.get("amount"), read.at("amount"), resource),
        start=start,
        end=end,
    )


def _present(value: int | None) -> int:
    assert value is not None
    return value
