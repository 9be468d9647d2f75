"""Budgets: their periods, whom they cover, what things cost. Pure.

Costs are cumulative from an attempt's start and rounded down there, so that however an attempt's time is cut
into pieces, the pieces add up to the same integer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cairn_quota.model import Reservation
from cairn_quota.tree import HOUR, UNIT, Budget, BudgetUnit, Calendar, Flavor, Tree, Window

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
PIECE = timedelta(minutes=15)
"""Usage is cut here: every time zone's days begin at such a moment."""
SLICE = 600_000
"""Milliseconds of its run that a job holds ahead in a budget that is not `safe`."""
_MONTHS = {Calendar.MONTH: 1, Calendar.QUARTER: 3, Calendar.YEAR: 12}


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` to before `end`; None: without an end."""

    start: datetime
    end: datetime | None


@lru_cache(maxsize=1024)
def period(window: Window, at: datetime) -> Period | None:
    """The period of a budget at a moment, in UTC; None: it is not there then."""
    if window.rolling is not None:
        return Period(BEGINNING, None)
    if window.one_off:
        start = window.start or BEGINNING
        inside = start <= at and (window.end is None or at < window.end)
        return Period(start, window.end) if inside else None
    assert window.calendar is not None
    return calendar_period(window.calendar, window.timezone, at)


def calendar_period(calendar: Calendar, timezone: str, at: datetime) -> Period:
    """The day, week, month, quarter or year of a moment in a time zone."""
    zone = ZoneInfo(timezone)
    day = at.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    if calendar is Calendar.DAY:
        start, end = day, day + timedelta(days=1)
    elif calendar is Calendar.WEEK:
        start = day - timedelta(days=day.weekday())
        end = start + timedelta(days=7)
    else:
        months = _MONTHS[calendar]
        first = (day.month - 1) // months * months
        start = day.replace(month=first + 1, day=1)
        after = first + months
        end = start.replace(year=day.year + after // 12, month=after % 12 + 1)
    return Period(start.replace(tzinfo=zone).astimezone(UTC), end.replace(tzinfo=zone).astimezone(UTC))


def covering(tree: Tree, *, node: str, user: str) -> list[Budget]:
    """The budgets that a job of the user at a node is paid from: all of them, each in full."""
    places = ["", *(one.id for one in tree.path(node))] if node in tree.by_id else [""]
    return [
        budget
        for place in places
        for budget in tree.budgets_at.get(place, ())
        if not budget.user or budget.user == user
    ]


def cost(
    unit: BudgetUnit, hold: Reservation, flavor: Flavor | None, millis: int, *, raw: bool = False
) -> int:
    """What the first `millis` of a run under this hold cost. `raw`: GPU-hours without the flavor's factor."""
    if unit is BudgetUnit.MONEY:
        return hold.price * millis // HOUR
    if unit is BudgetUnit.CPU_HOURS:
        return hold.resources.get("cpu", 0) * millis // UNIT
    factor = UNIT if raw or flavor is None else flavor.factor
    return hold.resources.get("gpu", 0) * factor * millis // UNIT**2


def priced(hold: Reservation, flavor: Flavor | None) -> int:
    """The price of an hour of a hold that states none: by its flavor."""
    if hold.price or flavor is None:
        return hold.price
    return hold.resources.get("gpu", 0) * flavor.price // UNIT


def pieces(
    start: datetime, end: datetime, cuts: tuple[datetime, ...] = ()
) -> Iterator[tuple[datetime, datetime]]:
    """A stretch of time, cut at every quarter of an hour and at `cuts`."""
    at = start
    while at < end:
        after = BEGINNING + ((at - BEGINNING) // PIECE + 1) * PIECE
        after = min((after, end, *(cut for cut in cuts if at < cut)))
        yield at, after
        at = after


def millis(start: datetime, at: datetime) -> int:
    """From one moment to another, never below zero."""
    return max(0, (at - start) // timedelta(milliseconds=1))
