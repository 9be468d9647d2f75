"""Properties of the double-entry ledger: whatever runs, in whatever pieces it is charged."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn_quota import account, budget
from cairn_quota.account import Account, Books, Entry, Kind, Payer, derived
from cairn_quota.model import Amounts, Meter, Reservation, ReservationState
from cairn_quota.tree import HOUR, Budget, BudgetUnit, Calendar, Flavor, Overrun, Window

START = datetime(2026, 3, 28, 21, 7, 13, 250_000, tzinfo=UTC)
FLAVOR = Flavor("h100", factor=3333, price=2_500_001)
RAW = (BudgetUnit.GPU_HOURS, BudgetUnit.MONEY, BudgetUnit.CPU_HOURS)


def hold(uid: str = "r", *, gpu: int = 1500, max_runtime: int | None = None) -> Reservation:
    made = Reservation(
        team="a", id=f"{uid}-1", uid=uid, job_uid=uid, admission=1, amounts=Amounts(jobs=1),
        state=ReservationState.HELD, create_time=START, ask_time=START, end_time=None, node="a",
        flavor="h100", resources={"gpu": gpu, "cpu": 4000}, user="ada", max_runtime=max_runtime,
    )  # fmt: skip
    return replace(made, price=budget.priced(made, FLAVOR))


def at(millis: int) -> datetime:
    return START + timedelta(milliseconds=millis)


windows = st.sampled_from(
    [
        Window(calendar=Calendar.DAY, timezone="Europe/Zurich"),
        Window(calendar=Calendar.MONTH, timezone="Asia/Kathmandu"),
        Window(calendar=Calendar.WEEK),
        Window(rolling=3_600_000),
        Window(one_off=True, start=at(-50_000_000), end=at(7_000_001)),
        Window(one_off=True),
    ]
)
budgets = st.lists(
    st.builds(
        Budget,
        id=st.sampled_from(["b", "c", "d"]),
        unit=st.sampled_from([BudgetUnit.GPU_HOURS, BudgetUnit.MONEY]),
        amount=st.integers(0, 20 * HOUR),
        window=windows,
        overrun=st.sampled_from(Overrun),
        safe=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda one: one.id,
)
moments = st.lists(st.integers(0, 100_000_000), max_size=8).map(sorted)


def used(entries: list[Entry], unit: BudgetUnit) -> int:
    signs = {Kind.SETTLE: 1, Kind.REFUND: -1}
    return sum(signs[one.kind] * one.amount for one in entries if not one.budget and one.unit is unit)


def balanced(books: Books) -> None:
    """Every balance is what the entries say; nothing is negative beyond what running jobs passed."""
    for balance in books.balances.values():
        again = derived(balance, books.entries)
        assert (again.granted, again.held, again.settled) == (balance.granted, balance.held, balance.settled)
        assert balance.granted == balance.available + balance.held + balance.settled
        assert balance.held >= 0
        assert balance.settled >= 0
        holdings = [
            one
            for of_hold in books.holdings.values()
            for one in of_hold.values()
            if (one.budget, one.start) == balance.key
        ]
        assert sum(one.held for one in holdings) == balance.held
    for one in books.entries:
        assert one.amount > 0
        assert one.debit is not one.credit


@given(budgets, moments, st.integers(0, 100_000_000), st.integers(0, 3000))
@settings(deadline=None)
def test_the_sum_of_usage_depends_on_start_and_end_alone(
    some: list[Budget], ticks: list[int], end: int, gpu: int
) -> None:
    books = Books()
    payer = Payer(hold(gpu=gpu), FLAVOR, tuple(some))
    account.rehold(books, payer, ran=0, now=START, actor="t")
    meter = Meter("x", "r", START, None, START)
    for tick in ticks:
        meter = account.advance(books, payer, meter, until=at(tick), actor="t")
        account.rehold(books, payer, ran=tick, now=at(tick), actor="t")
        balanced(books)
    # It ended before the last tick, or after it: what was charged is made to be right.
    meter = account.advance(books, payer, meter, until=at(end), actor="t")
    account.close(books, payer, now=at(end))
    balanced(books)
    assert meter.until == at(end)
    assert all(one.held == 0 for one in books.balances.values())
    for unit in RAW:
        assert used(books.entries, unit) == budget.cost(unit, payer.hold, FLAVOR, end, raw=True)


@given(budgets, moments, st.integers(0, 100_000_000))
@settings(deadline=None)
def test_ticks_missed_by_a_lost_service_lose_nothing(some: list[Budget], ticks: list[int], end: int) -> None:
    settled: list[Any] = []
    for seen in (ticks, []):
        books, meter = Books(), Meter("x", "r", START, None, START)
        payer = Payer(hold(), FLAVOR, tuple(some))
        account.rehold(books, payer, ran=0, now=START, actor="t")
        for tick in (one for one in seen if one <= end):
            meter = account.advance(books, payer, meter, until=at(tick), actor="t")
        account.advance(books, payer, meter, until=at(end), actor="t")
        account.close(books, payer, now=at(end))
        settled.append({key: one.settled for key, one in books.balances.items() if one.settled})
    assert settled[0] == settled[1]


@given(windows, st.integers(0, 400 * 86_400_000))
@settings(deadline=None)
def test_every_moment_is_in_the_period_that_it_is_said_to_be_in(window: Window, after: int) -> None:
    found = budget.period(window, at(after))
    if found is None:
        assert window.one_off
        return
    assert found.start <= at(after)
    assert found.end is None or at(after) < found.end
    assert budget.period(window, found.start) == found
    if found.end is not None and window.calendar is not None:
        following = budget.period(window, found.end)
        assert following is not None
        assert following.start == found.end


@given(st.integers(0, 10**8), st.integers(0, 10**8))
@settings(deadline=None)
def test_pieces_cover_a_stretch_without_gaps_and_none_crosses_a_quarter_of_an_hour(a: int, b: int) -> None:
    start, end = at(min(a, b)), at(max(a, b))
    found = list(budget.pieces(start, end))
    assert [one for one, _ in found[1:]] == [one for _, one in found[:-1]]
    assert found == [] or (found[0][0], found[-1][1]) == (start, end)
    for first, last in found:
        quarter = (first - budget.BEGINNING) // budget.PIECE
        assert (last - budget.BEGINNING - timedelta(microseconds=1)) // budget.PIECE == quarter


MONTH = Window(calendar=Calendar.MONTH)


def paying(amount_hours: float, **more: Any) -> Budget:
    return Budget("b", BudgetUnit.GPU_HOURS, int(amount_hours * HOUR), MONTH, **more)


def shortage(books: Books, one: Budget, held: Reservation, *, attempted: bool = False) -> str | None:
    payer = Payer(held, Flavor("plain"), (one,))
    found = account.shortage(books, payer, attempted=attempted, now=START, actor="t")
    return None if found is None else f"{found.budget} {'unsafe' if found.unsafe else 'spent'}"


def spent(one: Budget) -> Books:
    books = Books()
    payer = Payer(hold("first", gpu=1000), Flavor("plain"), (one,))
    account.advance(books, payer, Meter("x", "first", START, None, START), until=at(HOUR), actor="t")
    return books


@pytest.mark.parametrize(
    ("overrun", "gpu", "attempted", "refused"),
    [
        (Overrun.DENY_NEW, 1000, False, True),
        (Overrun.DENY_NEW, 1000, True, False),
        (Overrun.DENY_NEW, 0, False, False),
        (Overrun.DRAIN, 1000, True, True),
        (Overrun.DRAIN, 0, False, True),
        (Overrun.PREEMPT, 1000, True, True),
        (Overrun.PREEMPT, 0, False, False),
    ],
)
def test_a_spent_budget_refuses_by_its_rule(
    overrun: Overrun, gpu: int, attempted: bool, refused: bool
) -> None:
    one = paying(1, overrun=overrun)
    assert shortage(Books(), one, hold(gpu=gpu)) is None
    found = shortage(spent(one), one, hold(gpu=gpu), attempted=attempted)
    assert (found == "b spent") is refused


def test_a_safe_budget_admits_only_what_fits_for_its_longest_run() -> None:
    one = paying(2, safe=True)
    assert shortage(Books(), one, hold(gpu=1000, max_runtime=2 * HOUR)) is None
    assert shortage(Books(), one, hold(gpu=1000, max_runtime=2 * HOUR + 1000)) == "b unsafe"
    assert shortage(Books(), one, hold(gpu=1000)) == "b unsafe"
    books = Books()
    payer = Payer(hold(gpu=1000, max_runtime=2 * HOUR), Flavor("plain"), (one,))
    account.rehold(books, payer, ran=0, now=START, actor="t")
    assert [balance.held for balance in books.balances.values()] == [2 * HOUR]
    assert shortage(books, one, hold("other", gpu=1000, max_runtime=1000)) == "b spent"


def test_jobs_that_run_hold_their_next_ten_minutes_and_no_more_than_there_is() -> None:
    one, books = paying(0.25), Books()
    payers = [Payer(hold(uid, gpu=1000), Flavor("plain"), (one,)) for uid in ("p", "q", "s")]
    for payer in payers:
        account.rehold(books, payer, ran=0, now=START, actor="t")
    assert [books.holdings[uid]["b"].held for uid in ("p", "q")] == [
        HOUR // 6,
        HOUR // 12,
    ]
    assert "s" not in books.holdings
    (balance,) = books.balances.values()
    assert account.alarms(balance) == (True, True)


def test_what_leaves_a_rolling_window_is_granted_anew() -> None:
    one = Budget("b", BudgetUnit.GPU_HOURS, HOUR, Window(rolling=2 * HOUR))
    books = spent(one)
    (balance,) = books.balances.values()
    assert balance.available == 0
    account.roll(books, one, before=HOUR // 2, now=at(3 * HOUR), actor="t")
    account.roll(books, one, before=HOUR // 2, now=at(3 * HOUR), actor="t")
    (balance,) = books.balances.values()
    assert (balance.available, balance.settled) == (HOUR // 2, HOUR)
    balanced(books)


def test_a_changed_amount_is_granted_or_taken_back() -> None:
    books, one = Books(), paying(2)
    period = budget.period(one.window, START)
    assert period is not None
    books.grant(one, period, now=START, actor="t")
    for hours in (3, 1):
        changed = replace(one, amount=hours * HOUR)
        assert books.grant(changed, period, now=START, actor="t").granted == hours * HOUR
    assert [(entry.debit, entry.amount) for entry in books.entries] == [
        (Account.OUTSIDE, 2 * HOUR),
        (Account.OUTSIDE, HOUR),
        (Account.AVAILABLE, 2 * HOUR),
    ]
    balanced(books)
