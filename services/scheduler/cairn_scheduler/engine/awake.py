"""Which nodes a pass has to look at: those with a line whose failure may not stand any more.

A line that failed, and that saw nothing change since, would fail again for the same reason: a pass that
leaves it out makes the same plan. All lines of a node are looked at together, for they take turns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cairn_scheduler.engine.order import Line
from cairn_scheduler.engine.world import CAN_STARVE, Hold, Reason

if TYPE_CHECKING:
    from cairn_scheduler.engine.decide import Engine

Mark = tuple[Reason | None, int, int, int]


@dataclass(slots=True)
class Awake:
    """`names`: the nodes; `wake`: when the passing of time alone will add to them."""

    names: set[str]
    wake: list[int]
    _before: dict[Line, Mark]

    def stir(self, engine: Engine, now: int) -> bool:
        """Adds nodes that a pass changed something for though it left them out; whether there are any.

        Then what the pass found out about the lines that it looked at is forgotten: it is to be made again.
        """
        more = {
            name
            for name, lines in engine.queue.lines.items()
            if name not in self.names and any(not line.unchanged(now) for line in lines.values())
        }
        if not more:
            return False
        for line, mark in self._before.items():
            line.reason, line.freed, line.moved, line.until = mark
        self._before |= _marks(engine, more)
        self.names |= more
        return True


def awake(engine: Engine, now: int) -> Awake:
    """The nodes to look at now."""
    reserved = _reserved(engine, now)
    names: set[str] = {job.request.node for job in engine.stopping.values()} & engine.queue.lines.keys()
    wake: list[int] = []
    for name, lines in engine.queue.lines.items():
        if name in names:
            continue
        times: list[int] = []
        for line in lines.values():
            if line.reason is None or not line.unchanged(now) or _starves(engine, line, now, reserved, times):
                names.add(name)
                break
        else:
            wake += times
    return Awake(names, wake, _marks(engine, names))


def _starves(engine: Engine, line: Line, now: int, reserved: set[str], times: list[int]) -> bool:
    """Whether its first job may get a reservation now; if not, when it may is added to `times`."""
    if line.until:
        times.append(line.until)
    if line.reason is None or line.reason.code not in CAN_STARVE:
        return False
    if line.pools is None:
        line.pools = _pools(engine, line)
    if line.pools <= reserved:
        return False
    policy = engine.frame.policy
    time, uid = line.jobs[0]
    due = time + policy.reserve_after
    if due <= now or line.requests[uid].overtaken >= policy.most_overtaken:
        return True
    times.append(due)
    return False


def _pools(engine: Engine, line: Line) -> frozenset[str]:
    """Where its jobs could have a reservation at all: it takes nominal quota."""
    request = line.requests[line.jobs[0][1]]
    options = [request.options[index] for index in line.options or ()]
    return frozenset(_pool(engine, o.flavor) for o in options if line.seat.holds(o.usage))


def _reserved(engine: Engine, now: int) -> set[str]:
    """Pools with a reservation that goes on, or that rest after one."""
    return {hold.pool for hold in goes_on(engine, engine.frame.holds, now)}


def goes_on(engine: Engine, holds: Iterable[Hold], now: int) -> list[Hold]:
    """Reservations whose jobs wait still; one that has run out rests for as long again."""
    bound = engine.frame.policy.reserve_bound
    return [hold for hold in holds if hold.uid in engine.pending and now < hold.until + bound]


def _pool(engine: Engine, flavor: str) -> str:
    found = engine.state.flavors.get(flavor)
    return "" if found is None else found.pool


def _marks(engine: Engine, names: Iterable[str]) -> dict[Line, Mark]:
    lines = engine.queue.lines
    return {
        line: (line.reason, line.freed, line.moved, line.until)
        for name in names
        for line in lines[name].values()
    }
