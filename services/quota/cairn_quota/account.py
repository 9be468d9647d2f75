"""The double-entry ledger: entries, balances, and what an attempt's time posts to them. Pure.

Each entry moves an amount from one account to another, so all accounts together are always zero; of each
budget and period, granted = available + held + settled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum

from cairn_quota import budget as budgets
from cairn_quota.budget import Period
from cairn_quota.model import Meter, Reservation
from cairn_quota.tree import Budget, BudgetUnit, Flavor, Overrun, Window

BookKey = tuple[str, datetime]
"""A budget's id and the start of its period."""
WARN_AT = 5
"""Warned once a fifth is left."""


class Kind(IntEnum):
    """Numbers as in cairn.quota.v1.LedgerEntry.Kind."""

    GRANT = 1
    HOLD = 2
    SETTLE = 3
    RELEASE = 4
    REFUND = 5
    ADJUST = 6


class Account(IntEnum):
    """Numbers as in cairn.quota.v1.LedgerEntry.Account."""

    OUTSIDE = 1
    AVAILABLE = 2
    HELD = 3
    SETTLED = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """`amount` (above zero) goes from `debit` to `credit`. Budget "": usage itself."""

    time: datetime
    kind: Kind
    budget: str
    period_start: datetime
    debit: Account
    credit: Account
    unit: BudgetUnit
    amount: int
    reservation: str = ""
    job_uid: str = ""
    attempt_uid: str = ""
    node: str = ""
    team: str = ""
    project: str = ""
    user: str = ""
    flavor: str = ""
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Balance:
    """Of one budget in one period. `base`: of what is granted, by the tree's word."""

    budget: str
    start: datetime
    end: datetime | None
    unit: BudgetUnit
    base: int = 0
    granted: int = 0
    held: int = 0
    settled: int = 0
    # Of what is granted, for a rolling budget: what was settled longer ago than it looks back.
    rolled: int = 0
    warned: bool = False
    exhausted: bool = False

    @property
    def available(self) -> int:
        """What may still be held."""
        return self.granted - self.held - self.settled

    @property
    def key(self) -> BookKey:
        """Budget and period."""
        return self.budget, self.start


@dataclass(frozen=True, slots=True)
class Holding:
    """What one hold holds of one budget, in one period."""

    reservation_uid: str
    budget: str
    start: datetime
    held: int


@dataclass
class Books:
    """Balances and holdings as they stand, and what was posted to them since."""

    balances: dict[BookKey, Balance] = field(default_factory=dict)
    # By the reservation's uid and the budget.
    holdings: dict[str, dict[str, Holding]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    changed: set[BookKey] = field(default_factory=set)
    moved: set[tuple[str, str]] = field(default_factory=set)

    def post(self, entry: Entry) -> None:
        """Writes an entry of above zero down and moves the balances by it."""
        if entry.amount <= 0:
            return
        self.entries.append(entry)
        if not entry.budget:
            return
        key = entry.budget, entry.period_start
        self.balances[key] = moved(self.balances[key], entry)
        self.changed.add(key)

    def grant(self, budget: Budget, period: Period, *, now: datetime, actor: str) -> Balance:
        """The balance of a period, begun with the budget's amount, or brought to it where that changed."""
        key = budget.id, period.start
        balance = self.balances.get(key)
        if balance is None:
            balance = Balance(budget.id, period.start, period.end, budget.unit)
        if balance.base != budget.amount or key not in self.balances:
            more = budget.amount - balance.base
            self.balances[key] = replace(balance, base=budget.amount, end=period.end)
            self.changed.add(key)
            self.post(_given(budget, period.start, more, kind=Kind.GRANT, now=now, actor=actor))
        return self.balances[key]

    def hold(self, holding: Holding, entry: Entry) -> None:
        """Sets what a hold holds, with the entry that says so."""
        self.post(entry)
        self.holdings.setdefault(holding.reservation_uid, {})[holding.budget] = holding
        self.moved.add((holding.reservation_uid, holding.budget))

    def holding(self, hold: Reservation, budget: Budget) -> Holding | None:
        """What a hold holds of a budget."""
        return self.holdings.get(hold.uid, {}).get(budget.id)


def roll(books: Books, budget: Budget, *, before: int, now: datetime, actor: str) -> None:
    """Grants anew what left a rolling budget's window; `before`: all that was settled before the window."""
    balance = books.grant(budget, Period(budgets.BEGINNING, None), now=now, actor=actor)
    more = before - balance.rolled
    if more:
        books.balances[balance.key] = replace(balance, rolled=before)
        books.changed.add(balance.key)
        entry = _given(budget, balance.start, more, kind=Kind.GRANT, now=now, actor=actor)
        books.post(replace(entry, reason="left the window"))


def moved(balance: Balance, entry: Entry) -> Balance:
    """The balance after an entry."""
    debit, credit, amount = entry.debit, entry.credit, entry.amount
    outside, held, settled = Account.OUTSIDE, Account.HELD, Account.SETTLED
    return replace(
        balance,
        granted=balance.granted + amount * ((debit is outside) - (credit is outside)),
        held=balance.held + amount * ((credit is held) - (debit is held)),
        settled=balance.settled + amount * ((credit is settled) - (debit is settled)),
    )


def derived(balance: Balance, entries: Iterable[Entry]) -> Balance:
    """What a balance has to be by the entries of its budget and period alone."""
    found = replace(balance, granted=0, held=0, settled=0)
    for entry in entries:
        if (entry.budget, entry.period_start) == balance.key:
            found = moved(found, entry)
    return found


def adjust(books: Books, budget: Budget, period: Period, entry: Entry, *, amount: int) -> None:
    """Adds to a period (below zero: takes from it) by a person's word."""
    given = _given(budget, period.start, amount, kind=Kind.ADJUST, now=entry.time, actor=entry.actor)
    books.post(replace(given, reason=entry.reason))


def _given(budget: Budget, start: datetime, amount: int, *, kind: Kind, now: datetime, actor: str) -> Entry:
    ways = (Account.OUTSIDE, Account.AVAILABLE)
    debit, credit = ways if amount >= 0 else ways[::-1]
    return Entry(now, kind, budget.id, start, debit, credit, budget.unit, abs(amount), actor=actor)


@dataclass(frozen=True, slots=True)
class Payer:
    """A hold with the budgets that pay for it."""

    hold: Reservation
    flavor: Flavor | None
    budgets: tuple[Budget, ...]

    @property
    def cuts(self) -> tuple[datetime, ...]:
        """Moments at which a budget begins or ends that are no quarter of an hour."""
        windows = (one.window for one in self.budgets)
        return tuple(at for window in windows for at in (window.start, window.end) if at is not None)

    def entry(self, kind: Kind, budget: Budget, start: datetime, amount: int, *, time: datetime) -> Entry:
        """An entry of this hold's in a budget; SETTLE out of what is held."""
        debit, credit = _WAYS[kind]
        return self._line(time, kind, (budget.id, start), (debit, credit), budget.unit, amount)

    def usage(self, unit: BudgetUnit, amount: int, *, time: datetime, attempt: str) -> Entry:
        """Usage itself; below zero it is given back."""
        ways = (Account.OUTSIDE, Account.SETTLED)
        book = "", budgets.BEGINNING
        if amount < 0:
            return self._line(time, Kind.REFUND, book, ways[::-1], unit, -amount, attempt=attempt)
        return self._line(time, Kind.SETTLE, book, ways, unit, amount, attempt=attempt)

    def _line(
        self,
        time: datetime,
        kind: Kind,
        book: BookKey,
        ways: tuple[Account, ...],
        unit: BudgetUnit,
        amount: int,
        *,
        attempt: str = "",
    ) -> Entry:
        hold = self.hold
        return Entry(
            time=time, kind=kind, budget=book[0], period_start=book[1], debit=ways[0], credit=ways[1],
            unit=unit, amount=amount, reservation=hold.id, job_uid=hold.job_uid, attempt_uid=attempt,
            node=hold.node, team=hold.team, project=hold.project, user=hold.user, flavor=hold.flavor,
        )  # fmt: skip


_WAYS = {
    Kind.HOLD: (Account.AVAILABLE, Account.HELD),
    Kind.RELEASE: (Account.HELD, Account.AVAILABLE),
    Kind.SETTLE: (Account.HELD, Account.SETTLED),
    Kind.REFUND: (Account.SETTLED, Account.AVAILABLE),
}
_USED = (BudgetUnit.GPU_HOURS, BudgetUnit.MONEY, BudgetUnit.CPU_HOURS)


def rehold(books: Books, payer: Payer, *, ran: int, now: datetime, actor: str) -> None:
    """Brings what a hold holds in each budget to what it should: the next slice of its run, or (`safe`) all
    of its longest run that is left. Never more than is available. `ran`: milliseconds so far."""
    for budget in payer.budgets:
        period = budgets.period(budget.window, now)
        if period is None:
            _let_go(books, payer, budget, now=now)
            continue
        balance = books.grant(budget, period, now=now, actor=actor)
        old = books.holding(payer.hold, budget)
        if old is not None and old.start != period.start:
            _let_go(books, payer, budget, now=now)
            old = None
        held = old.held if old else 0
        ahead = budgets.SLICE
        if budget.safe and payer.hold.max_runtime is not None:
            ahead = max(0, payer.hold.max_runtime - ran)
        wanted = budgets.cost(budget.unit, payer.hold, payer.flavor, ran + ahead) - budgets.cost(
            budget.unit, payer.hold, payer.flavor, ran
        )
        more = min(wanted - held, max(0, balance.available))
        if more:
            kind = Kind.HOLD if more > 0 else Kind.RELEASE
            entry = payer.entry(kind, budget, period.start, abs(more), time=now)
            books.hold(Holding(payer.hold.uid, budget.id, period.start, held + more), entry)


def close(books: Books, payer: Payer, *, now: datetime) -> None:
    """Gives back all that a hold holds."""
    for name, holding in list(books.holdings.get(payer.hold.uid, {}).items()):
        known = next((one for one in payer.budgets if one.id == name), None)
        unit = books.balances[name, holding.start].unit
        _let_go(books, payer, known or _gone(name, unit), now=now)


def _gone(name: str, unit: BudgetUnit) -> Budget:
    """A budget that the tree no longer has, as far as its entries need it."""
    return Budget(name, unit, 0, Window(rolling=1))


def _let_go(books: Books, payer: Payer, budget: Budget, *, now: datetime) -> None:
    old = books.holding(payer.hold, budget)
    if old is not None and old.held:
        entry = payer.entry(Kind.RELEASE, budget, old.start, old.held, time=now)
        books.hold(replace(old, held=0), entry)


def advance(books: Books, payer: Payer, meter: Meter, *, until: datetime, actor: str) -> Meter:
    """Charges an attempt up to a moment; where it was charged beyond that already, gives back."""
    if until < meter.until:
        return _give_back(books, payer, meter, until=until)
    for start, end in budgets.pieces(meter.until, until, payer.cuts):
        first, last = budgets.millis(meter.start, start), budgets.millis(meter.start, end)
        for unit in _USED:
            used = _between(unit, payer, first, last, raw=True)
            books.post(payer.usage(unit, used, time=start, attempt=meter.attempt_uid))
        for budget in payer.budgets:
            used = _between(budget.unit, payer, first, last)
            _settle(books, payer, budget, used, at=start, attempt=meter.attempt_uid, actor=actor)
    return replace(meter, until=max(meter.until, until))


def reprice(books: Books, before: Payer, payer: Payer, meter: Meter, *, actor: str) -> None:
    """Charges what an attempt was charged at one price at another one, each piece in its own period."""
    if before.hold.price == payer.hold.price:
        return
    for start, end in budgets.pieces(meter.start, meter.until, payer.cuts):
        span = budgets.millis(meter.start, start), budgets.millis(meter.start, end)
        more = _between(BudgetUnit.MONEY, payer, *span) - _between(BudgetUnit.MONEY, before, *span)
        books.post(payer.usage(BudgetUnit.MONEY, more, time=start, attempt=meter.attempt_uid))
        for budget in payer.budgets:
            if budget.unit is not BudgetUnit.MONEY:
                continue
            if more > 0:
                _settle(books, payer, budget, more, at=start, attempt=meter.attempt_uid, actor=actor)
            else:
                _refund(books, payer, budget, -more, at=start, attempt=meter.attempt_uid)


def _settle(
    books: Books, payer: Payer, budget: Budget, used: int, *, at: datetime, attempt: str, actor: str
) -> None:
    """Settles one piece: out of what is held, the rest out of what is available."""
    period = budgets.period(budget.window, at)
    if period is None or not used:
        return
    books.grant(budget, period, now=at, actor=actor)
    old = books.holding(payer.hold, budget)
    held = min(used, old.held) if old is not None and old.start == period.start else 0
    settled = replace(payer.entry(Kind.SETTLE, budget, period.start, used, time=at), attempt_uid=attempt)
    if held and old is not None:
        books.hold(replace(old, held=old.held - held), replace(settled, amount=held))
    books.post(replace(settled, amount=used - held, debit=Account.AVAILABLE))


def _give_back(books: Books, payer: Payer, meter: Meter, *, until: datetime) -> Meter:
    """The attempt ended before `meter.until`."""
    until = max(until, meter.start)
    for start, end in budgets.pieces(until, meter.until, payer.cuts):
        first, last = budgets.millis(meter.start, start), budgets.millis(meter.start, end)
        for unit in _USED:
            used = _between(unit, payer, first, last, raw=True)
            books.post(payer.usage(unit, -used, time=start, attempt=meter.attempt_uid))
        for budget in payer.budgets:
            used = _between(budget.unit, payer, first, last)
            _refund(books, payer, budget, used, at=start, attempt=meter.attempt_uid)
    return replace(meter, until=until)


def _refund(books: Books, payer: Payer, budget: Budget, used: int, *, at: datetime, attempt: str) -> None:
    """Gives one piece back; never more than was settled: it may be a budget that came later."""
    period = budgets.period(budget.window, at)
    balance = books.balances.get((budget.id, period.start)) if period else None
    if period is not None and balance is not None:
        back = payer.entry(Kind.REFUND, budget, period.start, min(used, balance.settled), time=at)
        books.post(replace(back, attempt_uid=attempt))


def _between(unit: BudgetUnit, payer: Payer, first: int, last: int, *, raw: bool = False) -> int:
    until = budgets.cost(unit, payer.hold, payer.flavor, last, raw=raw)
    return until - budgets.cost(unit, payer.hold, payer.flavor, first, raw=raw)


@dataclass(frozen=True, slots=True)
class Shortage:
    """The budget that does not let a hold be made; `unsafe`: only because it may run for too long."""

    budget: str
    unsafe: bool
    available: int
    wanted: int


def shortage(books: Books, payer: Payer, *, attempted: bool, now: datetime, actor: str) -> Shortage | None:
    """What stands against admitting a hold. A job that ran before goes on under DENY_NEW."""
    for budget in payer.budgets:
        period = budgets.period(budget.window, now)
        if period is None:
            continue
        left = books.grant(budget, period, now=now, actor=actor).available
        if left <= 0 and budget.overrun is Overrun.DRAIN:
            return Shortage(budget.id, False, left, 0)
        longest = payer.hold.max_runtime
        wanted = budgets.cost(
            budget.unit, payer.hold, payer.flavor, longest if longest is not None else budgets.SLICE
        )
        if not wanted or (attempted and budget.overrun is Overrun.DENY_NEW and not budget.safe):
            continue
        if left <= 0:
            return Shortage(budget.id, False, left, wanted)
        if budget.safe and (longest is None or wanted > left):
            return Shortage(budget.id, True, left, wanted)
    return None


def alarms(balance: Balance) -> tuple[bool, bool]:
    """Whether four fifths of a period are spent or held, and whether all of it is."""
    left = balance.available
    return left * WARN_AT <= balance.granted, left <= 0
