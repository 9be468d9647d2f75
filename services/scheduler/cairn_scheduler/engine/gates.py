"""What keeps a job back whatever is free: holds, stops, limits, budgets, circuits, windows for others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cairn_scheduler.engine.quota import Seat
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import (
    ANY,
    UNIT,
    Admitted,
    Budget,
    Circuit,
    Code,
    JobRequest,
    Key,
    Node,
    Option,
    Overrun,
    PriorityClass,
    Reason,
    Reservation,
    Snapshot,
    Stop,
)


def asleep(request: JobRequest, now: int) -> Reason | None:
    """Why a job is not in the queue at all now."""
    if request.held:
        return Reason(Code.HELD, note=request.held)
    if request.waits_for:
        return Reason(Code.DEPENDENCY_WAIT, others=request.waits_for[:5])
    if request.not_before > now:
        return Reason(Code.RETRY_WAIT, until=request.not_before)
    return None


def refused_for_ever(
    state: State, seat: Seat, request: JobRequest, classes: Mapping[str, PriorityClass]
) -> Reason | None:
    """Why no option can ever hold it, whoever ends; None where one could. Also the check at submission."""
    for node in (one.node for one in seat.path()):
        found = _over_limits(node, request)
        if found is not None:
            return found
    klass = classes.get(request.priority_class)
    if klass is not None and klass.longest_run is not None and _longer(request, klass.longest_run):
        note = f"priority class {klass.name} runs for at most {klass.longest_run // 1000} s"
        return Reason(Code.EXCEEDS_MAX, resource="runtime", requested=request.max_runtime or 0,
                      limit=klass.longest_run, note=note)  # fmt: skip
    reasons = [_too_large(state, seat, request, option) for option in request.options]
    if not reasons:
        return Reason(Code.NO_MATCHING_FLAVOR, note="it names no flavor")
    if all(reason is not None for reason in reasons):
        return next((r for r in reasons if r is not None and r.code is Code.EXCEEDS_MAX), reasons[0])
    return None


def usable(state: State, seat: Seat, request: JobRequest) -> list[int]:
    """The options that could hold it if nothing else ran."""
    options = enumerate(request.options)
    return [index for index, option in options if _too_large(state, seat, request, option) is None]


def gpus(option: Option) -> int:
    """Thousandths of GPUs that an option uses."""
    return sum(amount for (flavor, resource), amount in option.usage if resource == "gpu" and flavor != ANY)


def cost(budget: Budget, option: Option, milliseconds: int) -> int:
    """What an option takes of a budget in that time, in the budget's unit."""
    rate = budget.rates.get(option.flavor, budget.rates.get("", 0))
    return gpus(option) * milliseconds * rate // (UNIT * UNIT)


def unused(budget: Budget) -> int:
    """What running jobs may still use, what they hold ahead included."""
    return budget.left if budget.unused is None else budget.unused


class Gates:
    """The gates of one pass. Budgets that must be safe are drawn down as jobs are admitted."""

    def __init__(self, state: State, snapshot: Snapshot, now: int) -> None:
        self._state, self._now = state, now
        self._budgets: dict[str, list[Budget]] = {}
        for budget in snapshot.budgets:
            self._budgets.setdefault(budget.node, []).append(budget)
        self.left = {budget.id: budget.left for budget in snapshot.budgets}
        self._circuits: dict[str, Circuit] = {circuit.flavor: circuit for circuit in snapshot.circuits}
        self._probed: dict[str, str] = {}
        self._windows = [window for window in snapshot.reservations if window.end > now]
        self.wake: list[int] = [c.probe_at for c in snapshot.circuits if c.probe_at > now]
        self.wake += [t for w in self._windows for t in (w.start, w.end) if t > now]

    def stopped(self, seat: Seat) -> Reason | None:
        """Whether nothing starts below one of the nodes above it."""
        for one in seat.path():
            if one.node.stop is not Stop.NONE:
                return Reason(Code.HELD, node=one.id, note=f"node {one.id} is stopped ({one.node.stop})")
        return None

    def closed(self, option: Option, uid: str) -> Reason | None:
        """Whether the flavor's circuit lets nobody through."""
        circuit = self._circuits.get(option.flavor)
        if circuit is None:
            return None
        probing = self._probed.get(option.flavor) or circuit.probing
        if circuit.probe_at > self._now or (probing and probing != uid):
            return Reason(Code.CIRCUIT_OPEN, flavor=option.flavor, until=circuit.probe_at,
                          others=(probing,) if probing else (), note=circuit.region)  # fmt: skip
        return None

    def unpaid(self, seat: Seat, request: JobRequest, option: Option) -> Reason | None:
        """Whether a budget lets it not start."""
        for budget in self._budgets_of(seat, request):
            left = self.left[budget.id]
            if left <= 0 and not (budget.overrun is Overrun.DENY_NEW and request.attempted):
                return Reason(Code.BUDGET_EXHAUSTED, node=budget.node, flavor=option.flavor,
                              resource=budget.unit, limit=left, note=budget.id)  # fmt: skip
            if not budget.safe:
                continue
            if request.max_runtime is None:
                note = f"{budget.id}: a job needs a max_runtime here"
                return Reason(Code.BUDGET_UNSAFE, node=budget.node, resource=budget.unit, note=note)
            needed = cost(budget, option, request.max_runtime)
            if needed > left:
                return Reason(Code.BUDGET_UNSAFE, node=budget.node, flavor=option.flavor,
                              resource=budget.unit, requested=needed, limit=left, note=budget.id)  # fmt: skip
        return None

    def kept(self, seat: Seat, request: JobRequest, option: Option) -> Reason | None:
        """Whether it would use what a window keeps for others."""
        for window in self._windows:
            if seat.id == window.node or any(one.id == window.node for one in seat.path()):
                continue
            ends = None if request.max_runtime is None else self._now + request.max_runtime
            if ends is not None and ends <= window.start:
                continue
            found = self._kept_by(window, seat, option)
            if found is not None:
                return found
        return None

    def admitted(self, seat: Seat, request: JobRequest, option: Option) -> None:
        """What follows from an admission for those that come after it."""
        for budget in self._budgets_of(seat, request):
            if budget.safe and request.max_runtime is not None:
                self.left[budget.id] -= cost(budget, option, request.max_runtime)
        if option.flavor in self._circuits:
            self._probed[option.flavor] = request.uid

    def withdrawn(self, seat: Seat, request: JobRequest, option: Option) -> None:
        """Takes back what followed from an admission."""
        for budget in self._budgets_of(seat, request):
            if budget.safe and request.max_runtime is not None:
                self.left[budget.id] += cost(budget, option, request.max_runtime)
        if self._probed.get(option.flavor) == request.uid:
            del self._probed[option.flavor]

    def evicts(self) -> bool:
        """Whether anybody may have to stop for nobody's sake: a node is drained, or a budget says so."""
        budgets = (budget for budgets in self._budgets.values() for budget in budgets)
        return any(one.overrun is Overrun.PREEMPT and one.left <= 0 for one in budgets) or any(
            seat.node.stop is Stop.DRAIN for seat in self._state.tree.seats.values()
        )

    def evicted(self, jobs: Iterable[Admitted]) -> list[tuple[Admitted, Budget | None]]:
        """Running jobs that stop for nobody's sake: below a drained node, or by an exhausted budget."""
        found: list[tuple[Admitted, Budget | None]] = []
        seats = self._state.tree.seats
        for job in jobs:
            seat = seats[job.request.node]
            if any(one.node.stop is Stop.DRAIN for one in seat.path()):
                found.append((job, None))
                continue
            for budget in self._budgets_of(seat, job.request):
                if budget.overrun is Overrun.PREEMPT and unused(budget) <= 0:
                    found.append((job, budget))
                    break
        return found

    def _budgets_of(self, seat: Seat, request: JobRequest) -> list[Budget]:
        if not self._budgets:
            return []
        above = [budget for one in seat.path() for budget in self._budgets.get(one.id, ())]
        return [budget for budget in above if not budget.user or budget.user == request.user]

    def _kept_by(self, window: Reservation, seat: Seat, option: Option) -> Reason | None:
        owner = self._state.tree.seats.get(window.node)
        if owner is None or owner.root is not seat.root:
            return None
        kept = dict(window.amounts)
        for key, amount in option.usage:
            top, own = seat.root.cell(key), owner.cell(key)
            if key not in kept or top is None or own is None:
                continue
            outstanding = max(0, kept[key] - own.total)
            if top.available() - outstanding < amount:
                return Reason(
                    Code.RESERVED_FOR,
                    node=window.node,
                    flavor=key[0],
                    resource=key[1],
                    requested=amount,
                    limit=outstanding,
                    until=window.end,
                    note=window.id,
                )
        return None


def _longer(request: JobRequest, limit: int) -> bool:
    return request.max_runtime is None or request.max_runtime > limit


def _over_limits(node: Node, request: JobRequest) -> Reason | None:
    if node.max_gpus_per_job is not None:
        least = min((gpus(option) for option in request.options), default=0)
        if least > node.max_gpus_per_job:
            return Reason(Code.EXCEEDS_MAX, node=node.id, resource="gpu", requested=least,
                          limit=node.max_gpus_per_job, note="GPUs per job")  # fmt: skip
    if node.max_runtime is not None and _longer(request, node.max_runtime):
        return Reason(Code.EXCEEDS_MAX, node=node.id, resource="runtime", requested=request.max_runtime or 0,
                      limit=node.max_runtime, note="run time in ms; say max_runtime")  # fmt: skip
    return None


def _too_large(state: State, seat: Seat, request: JobRequest, option: Option) -> Reason | None:
    """Why an option could not hold it even if nothing else ran."""
    if state.flavors and option.flavor not in state.flavors:
        return Reason(Code.NO_MATCHING_FLAVOR, flavor=option.flavor, note="no such flavor")
    for key, amount in option.usage:
        cell = seat.cell(key)
        if cell is None or amount <= 0:
            continue
        most = cell.potential()
        if amount > most:
            return Reason(Code.EXCEEDS_MAX, node=_narrowest(seat, key), flavor=key[0], resource=key[1],
                          requested=amount, limit=max(0, most))  # fmt: skip
    room = state.room(option)
    if room is not None and room.possible_ranks(request.per_rank, request.ranks) < request.ranks:
        return Reason(Code.NO_MATCHING_FLAVOR, flavor=option.flavor, requested=request.ranks,
                      limit=room.possible_ranks(request.per_rank, request.ranks),
                      note=f"pool {room.name} has no machines for so many ranks of this size")  # fmt: skip
    return None


def _narrowest(seat: Seat, key: Key) -> str:
    """The lowest node above which there is no more to be had."""
    cell = seat.cell(key)
    assert cell is not None
    most, name = cell.potential(), seat.id
    for one in cell.path():
        if one.potential() == most:
            name = one.seat.id
    return name
