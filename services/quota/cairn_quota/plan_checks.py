"""What a plan's items must look like; those that do not are judged INVALID, the others go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cairn.quota.v1 import allocation_pb2, plan_pb2
from cairn_common.errors import InvalidArgument, Reason
from cairn_common.ids import new_uid
from cairn_quota import checks
from cairn_quota.admission import Code, Verdict
from cairn_quota.model import Reservation, ReservationState
from cairn_quota.plan_store import Name, Plan
from cairn_quota.reservation_rows import amounts_of

MOST_ITEMS = 10_000


def plan(request: allocation_pb2.ApplyPlanRequest, *, now: datetime) -> tuple[Plan, dict[int, Verdict]]:
    """The plan, and verdicts (by position among all items) for those that cannot be used."""
    if len(request.ends) + len(request.holds) > MOST_ITEMS:
        raise InvalidArgument(
            f"A plan has at most {MOST_ITEMS:,} items; send the rest in another one.",
            reason=Reason.FIELD_INVALID,
            field="holds",
        )
    refused: dict[int, Verdict] = {}
    ends: list[Name] = []
    for at, name in enumerate(request.ends):
        try:
            team, uid, number = checks.reservation_name(name)
            ends.append((team, f"{uid}-{number}"))
        except InvalidArgument as error:
            refused[at] = Verdict(name, Code.INVALID, error.message)
    holds = []
    for at, hold in enumerate(request.holds, start=len(request.ends)):
        try:
            holds.append(reservation(hold, now=now))
        except InvalidArgument as error:
            refused[at] = Verdict(hold.name, Code.INVALID, error.message)
    expected = {one.node: one.version for one in request.expected_versions}
    made = Plan(ends, holds, request.tree_version, expected, request.epoch)
    return made, refused


def in_order(given: Sequence[Verdict], refused: Mapping[int, Verdict], total: int) -> list[Verdict]:
    """The verdicts of all items, those that were refused before included."""
    rest = iter(given)
    return [refused[at] if at in refused else next(rest) for at in range(total)]


def reservation(message: plan_pb2.Hold, *, now: datetime) -> Reservation:
    """What an item is to hold. Raises InvalidArgument."""
    team, uid, number = checks.reservation_name(message.name)
    resources = {name: amount for name, amount in message.amounts.items() if amount}
    longest: int | None = None
    if message.HasField("max_runtime"):
        longest = checks.ttl(message.max_runtime, "max_runtime") // timedelta(milliseconds=1)
    user = message.user.removeprefix("users/")
    for name, value in (("node", message.node), ("flavor", message.flavor), ("user", user)):
        checks.text(value, name)
    checks.text(message.project, "project")
    return Reservation(
        team=team,
        id=f"{uid}-{number}",
        uid=new_uid(),
        job_uid=uid,
        admission=number,
        amounts=amounts_of(resources),
        state=ReservationState.HELD,
        create_time=now,
        ask_time=now,
        end_time=None,
        node=message.node,
        flavor=message.flavor,
        resources=resources,
        user=user,
        project=message.project,
        price=message.price_micros_per_hour,
        max_runtime=longest,
        priority_class=message.priority_class,
    )


def timezone(name: str) -> None:
    """Raises InvalidArgument for what is no time zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise checks.invalid("timezone", "is no time zone; give one such as Europe/Berlin") from None
