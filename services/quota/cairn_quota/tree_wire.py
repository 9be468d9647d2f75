"""Between the values of a tree and the messages of cairn.quota.v1."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from cairn.quota.v1 import (
    budget_pb2,
    flavor_pb2,
    ledger_pb2,
    node_pb2,
    plan_pb2,
    priority_class_pb2,
    tree_pb2,
    window_pb2,
)
from cairn_quota.account import Balance, Entry
from cairn_quota.admission import Verdict
from cairn_quota.plain import Change
from cairn_quota.shares import Standing
from cairn_quota.tree import (
    UNIT,
    Borrowing,
    Budget,
    BudgetUnit,
    Calendar,
    CapacityWindow,
    Flavor,
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
from cairn_quota.validity import TreeInvalid
from cairn_quota.wire import timestamp

E = TypeVar("E", bound=IntEnum)


def tree_message(tree: Tree) -> tree_pb2.QuotaTree:
    """As QuotaTree on the wire, without what only the store knows (version, actor, uses, balances)."""
    return tree_pb2.QuotaTree(
        nodes=[node_message(tree, node) for node in tree.nodes],
        flavors=[_flavor_message(one) for one in tree.flavors],
        budgets=[budget_message(one) for one in tree.budgets],
        priority_classes=[_class_message(one) for one in tree.classes],
        windows=[_window_message(one) for one in tree.windows],
        resources=tree.resources,
        currency=tree.currency,
    )


def tree_value(message: tree_pb2.QuotaTree) -> Tree:
    """The tree in a message, not yet checked. Raises TreeInvalid for what is no value at all."""
    return Tree(
        nodes=tuple(_node_value(one) for one in message.nodes if not one.implied),
        flavors=tuple(_flavor_value(one) for one in message.flavors),
        budgets=tuple(_budget_value(one) for one in message.budgets),
        classes=tuple(_class_value(one) for one in message.priority_classes),
        windows=tuple(_window_value(one) for one in message.windows),
        resources=tuple(message.resources),
        currency=message.currency,
    )


def node_message(tree: Tree, node: Node) -> node_pb2.QuotaNode:
    """As QuotaNode on the wire."""
    message = node_pb2.QuotaNode(
        id=node.id,
        parent=node.parent,
        kind=node_pb2.QuotaNode.Kind.ValueType(node.kind),
        display_name=node.display_name,
        team=tree.team_of(node.id),
        user=node.subject if node.kind is Kind.USER else "",
        project=node.subject if node.kind is Kind.PROJECT else "",
        quotas=[
            node_pb2.Quota(
                flavor=flavor,
                resource=resource,
                nominal=quota.nominal,
                borrow_limit=quota.borrow_limit,
                lend_limit=quota.lend_limit,
                max=quota.most,
            )
            for (flavor, resource), quota in node.quotas.items()
        ],
        weight_milli=node.weight,
        within=node_pb2.QuotaNode.Within.ValueType(node.within),
        reclaim=node_pb2.QuotaNode.Reclaim.ValueType(node.reclaim),
        borrowing=node_pb2.QuotaNode.Borrowing.ValueType(node.borrowing),
        order=node_pb2.QuotaNode.Order.ValueType(node.order),
        min_runtime=_duration(node.min_runtime),
        patience=_duration(node.patience),
        stop=node_pb2.QuotaNode.Stop.ValueType(node.stop),
        implied=node.implied,
    )
    limits = node.limits
    if limits != NodeLimits():
        message.limits.CopyFrom(
            node_pb2.NodeLimits(
                pending_jobs=limits.pending_jobs or 0,
                submits_per_hour=limits.submits_per_hour or 0,
                gpu_milli_per_job=limits.gpu_milli_per_job or 0,
                max_runtime=_duration(limits.max_runtime),
            )
        )
    return message


def _node_value(message: node_pb2.QuotaNode) -> Node:
    kind = _enum(Kind, message.kind, f"tree.{message.id}.kind")
    subjects = {Kind.TEAM: message.team, Kind.PROJECT: message.project, Kind.USER: message.user}
    limits = message.limits
    return Node(
        id=message.id,
        parent=message.parent,
        kind=kind,
        display_name=message.display_name,
        subject=subjects.get(kind, ""),
        quotas={(one.flavor, one.resource): _quota_value(one) for one in message.quotas},
        weight=message.weight_milli or UNIT,
        within=_enum(Within, message.within, f"tree.{message.id}.within"),
        reclaim=_enum(Reclaim, message.reclaim, f"tree.{message.id}.reclaim"),
        borrowing=_enum(Borrowing, message.borrowing, f"tree.{message.id}.borrowing"),
        order=_enum(Order, message.order, f"tree.{message.id}.order"),
        min_runtime=_millis(message.min_runtime) if message.HasField("min_runtime") else None,
        patience=_millis(message.patience) if message.HasField("patience") else None,
        stop=_enum(Stop, message.stop, f"tree.{message.id}.stop"),
        limits=NodeLimits(
            pending_jobs=limits.pending_jobs or None,
            submits_per_hour=limits.submits_per_hour or None,
            gpu_milli_per_job=limits.gpu_milli_per_job or None,
            max_runtime=_millis(limits.max_runtime) if limits.HasField("max_runtime") else None,
        ),
    )


def _quota_value(message: node_pb2.Quota) -> Quota:
    return Quota(
        nominal=message.nominal if message.HasField("nominal") else None,
        borrow_limit=message.borrow_limit if message.HasField("borrow_limit") else None,
        lend_limit=message.lend_limit if message.HasField("lend_limit") else None,
        most=message.max if message.HasField("max") else None,
    )


def use_message(one: Standing) -> node_pb2.Use:
    """As Use on the wire."""
    flavor, resource = one.key
    return node_pb2.Use(
        flavor=flavor,
        resource=resource,
        used=one.used,
        borrowed=one.borrowed,
        lent=one.lent,
        nominal=one.nominal,
    )


def _flavor_message(one: Flavor) -> flavor_pb2.Flavor:
    return flavor_pb2.Flavor(
        name=one.name,
        accelerator=one.accelerator,
        market=flavor_pb2.Flavor.Market.ValueType(one.market),
        pool=one.pool,
        factor_milli=one.factor,
        price_micros=one.price,
    )


def _flavor_value(message: flavor_pb2.Flavor) -> Flavor:
    return Flavor(
        name=message.name,
        accelerator=message.accelerator,
        market=_enum(Market, message.market, f"flavors.{message.name}.market"),
        pool=message.pool,
        factor=message.factor_milli or UNIT,
        price=message.price_micros,
    )


def budget_message(one: Budget, balance: Balance | None = None) -> budget_pb2.Budget:
    """As Budget on the wire, with a balance where one is given."""
    window = budget_pb2.BudgetWindow(timezone="" if one.window.timezone == "UTC" else one.window.timezone)
    if one.window.calendar is not None:
        window.calendar = budget_pb2.BudgetWindow.Calendar.ValueType(one.window.calendar)
    elif one.window.rolling is not None:
        window.rolling.CopyFrom(_duration(one.window.rolling) or Duration())
    else:
        window.one_off.SetInParent()
        if one.window.start is not None:
            window.one_off.start_time.FromDatetime(one.window.start)
        if one.window.end is not None:
            window.one_off.end_time.FromDatetime(one.window.end)
    return budget_pb2.Budget(
        id=one.id,
        node=one.node,
        user=one.user,
        unit=budget_pb2.Budget.Unit.ValueType(one.unit),
        amount=one.amount,
        window=window,
        overrun=budget_pb2.Budget.Overrun.ValueType(one.overrun),
        safe=one.safe,
        balance=None if balance is None else _balance_message(balance),
    )


def _balance_message(one: Balance) -> budget_pb2.BudgetBalance:
    return budget_pb2.BudgetBalance(
        start_time=timestamp(one.start),
        end_time=timestamp(one.end),
        granted=one.granted,
        held=one.held,
        settled=one.settled,
        available=one.available,
        exhausted=one.available <= 0,
    )


def _budget_value(message: budget_pb2.Budget) -> Budget:
    path = f"budgets.{message.id}"
    window, kind = message.window, message.window.WhichOneof("kind")
    once = window.one_off
    return Budget(
        id=message.id,
        unit=_enum(BudgetUnit, message.unit, f"{path}.unit"),
        amount=message.amount,
        window=Window(
            calendar=_enum(Calendar, window.calendar, f"{path}.window") if kind == "calendar" else None,
            timezone=window.timezone or "UTC",
            rolling=_millis(window.rolling) if kind == "rolling" else None,
            one_off=kind == "one_off",
            start=_moment(once.start_time, path) if once.HasField("start_time") else None,
            end=_moment(once.end_time, path) if once.HasField("end_time") else None,
        ),
        node=message.node,
        user=message.user,
        overrun=_enum(Overrun, message.overrun or Overrun.DENY_NEW, f"{path}.overrun"),
        safe=message.safe,
    )


def _class_message(one: PriorityClass) -> priority_class_pb2.PriorityClass:
    return priority_class_pb2.PriorityClass(
        name=one.name,
        value=one.value,
        preemptible=one.preemptible,
        preempts=one.preempts,
        max_runtime=_duration(one.max_runtime),
    )


def _class_value(message: priority_class_pb2.PriorityClass) -> PriorityClass:
    return PriorityClass(
        name=message.name,
        value=message.value,
        preemptible=message.preemptible,
        preempts=message.preempts,
        max_runtime=_millis(message.max_runtime) if message.HasField("max_runtime") else None,
    )


def _window_message(one: CapacityWindow) -> window_pb2.CapacityWindow:
    return window_pb2.CapacityWindow(
        id=one.id,
        node=one.node,
        flavor=one.flavor,
        resource=one.resource,
        amount=one.amount,
        start_time=timestamp(one.start),
        end_time=timestamp(one.end),
    )


def _window_value(message: window_pb2.CapacityWindow) -> CapacityWindow:
    path = f"reservations.{message.id}"
    return CapacityWindow(
        id=message.id,
        node=message.node,
        flavor=message.flavor,
        resource=message.resource,
        amount=message.amount,
        start=_moment(message.start_time, path),
        end=_moment(message.end_time, path),
    )


def change_messages(changes: Iterable[Change]) -> list[tree_pb2.TreeChange]:
    """As TreeChanges on the wire."""
    return [
        tree_pb2.TreeChange(
            action=tree_pb2.TreeChange.Action.ValueType(one.action),
            path=one.path,
            before=one.before,
            after=one.after,
        )
        for one in changes
    ]


def verdict_message(one: Verdict, name: str) -> plan_pb2.Verdict:
    """As Verdict on the wire, under the name that the plan gave the item."""
    return plan_pb2.Verdict(
        name=name,
        code=plan_pb2.Verdict.Code.ValueType(one.code),
        message=one.message,
        node=one.node,
        flavor=one.flavor,
        resource=one.resource,
        limit=one.limit,
        used=one.used,
        requested=one.requested,
        budget=one.budget,
    )


def entry_message(seq: int, one: Entry) -> ledger_pb2.LedgerEntry:
    """As LedgerEntry on the wire."""
    return ledger_pb2.LedgerEntry(
        seq=seq,
        time=timestamp(one.time),
        kind=ledger_pb2.LedgerEntry.Kind.ValueType(one.kind),
        budget=one.budget,
        period_start=timestamp(one.period_start) if one.budget else None,
        debit=ledger_pb2.LedgerEntry.Account.ValueType(one.debit),
        credit=ledger_pb2.LedgerEntry.Account.ValueType(one.credit),
        unit=budget_pb2.Budget.Unit.ValueType(one.unit),
        amount=one.amount,
        reservation=f"teams/{one.team}/reservations/{one.reservation}" if one.reservation else "",
        job_uid=one.job_uid,
        attempt_uid=one.attempt_uid,
        node=one.node,
        team=one.team,
        project=one.project,
        user=f"users/{one.user}" if one.user else "",
        flavor=one.flavor,
        actor=one.actor,
        reason=one.reason,
    )


def _enum(kind: type[E], number: int, path: str) -> E:
    try:
        return kind(number)
    except ValueError:
        raise TreeInvalid(path, f"{number} is not a value of it") from None


def _duration(millis: int | None) -> Duration | None:
    if millis is None:
        return None
    made = Duration()
    made.FromMilliseconds(millis)
    return made


def _millis(message: Duration) -> int:
    try:
        return message.ToTimedelta() // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return -1


def _moment(message: object, path: str) -> datetime:
    try:
        found: datetime = message.ToDatetime(tzinfo=UTC)  # type: ignore[attr-defined]
    except (ValueError, OverflowError):
        raise TreeInvalid(path, "holds a time that is not of the years 1 to 9999") from None
    return found
