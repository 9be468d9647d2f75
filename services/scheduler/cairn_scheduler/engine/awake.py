"""Which nodes a pass has to look at: those with a line whose failure may not stand any more.

A line that failed, and that saw nothing change since, would fail again for the same reason: a pass that
leaves it out makes the same plan. All lines of a node are looked at together, for they take turns.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cairn_scheduler.engine.order import Line
from cairn_scheduler.engine.world import CAN_STARVE, Hold, Reason, Sharing

if TYPE_CHECKING:
    from cairn_scheduler.engine.decide import Engine

# So many starving lines are looked at before all of them are.
_TRIED_FIRST = 8
_NOWHERE: frozenset[str] = frozenset()
Mark = tuple[Reason | None, int, int, int]


@dataclass(slots=True)
class Awake:
    """`names`: the nodes; `wake`: when the passing of time alone will add to them."""

    names: set[str]
    wake: list[int]
    # Lines whose first job starves, in nodes that are left out at first: where it could have a reservation.
    _starving: dict[Line, frozenset[str]]
    _before: dict[Line, Mark]
    _changes: int

    def stir(self, engine: Engine, now: int, holds: Iterable[Hold]) -> bool:
        """Adds nodes that a pass changed something for though it left them out; whether there are any.

        Then what the pass found out about the lines that it looked at is forgotten: it is to be made again.
        """
        taken = {hold.pool for hold in holds}
        more = {line.seat.id for line, pools in self._starving.items() if not pools <= taken}
        self._starving = {}
        if self._changes != engine.state.tree.changes:
            more |= {
                name
                for name, lines in engine.queue.lines.items()
                if name not in self.names and any(not line.unchanged(now) for line in lines.values())
            }
            self._changes = engine.state.tree.changes
        more -= self.names
        if not more:
            return False
        self.forget(self._before)
        self._before |= _marks(engine, more)
        self.names |= more
        return True

    def forget(self, lines: Iterable[Line]) -> None:
        """What a pass found out about these does not count: it was found with a plan that is void."""
        for line in lines:
            if line in self._before:
                line.reason, line.freed, line.moved, line.until = self._before[line]


def awake(engine: Engine, now: int) -> Awake:
    """The nodes to look at now."""
    reserved = {hold.pool for hold in goes_on(engine, engine.frame.holds, now)}
    names: set[str] = {job.request.node for job in engine.stopping.values()} & engine.queue.lines.keys()
    wake: list[int] = []
    starving: dict[Line, frozenset[str]] = {}
    for name, lines in engine.queue.lines.items():
        if name in names:
            continue
        if any(not line.unchanged(now) for line in lines.values()):
            names.add(name)
            continue
        for line in lines.values():
            if line.until:
                wake.append(line.until)
            due, pools = _due(engine, line)
            if pools <= reserved:
                continue
            if due <= now:
                starving[line] = pools
            else:
                wake.append(due)
    names |= _first(engine, starving)
    return Awake(names, wake, starving, _marks(engine, names), engine.state.tree.changes)


def _first(engine: Engine, starving: Mapping[Line, object]) -> set[str]:
    """The nodes of those whose turn it is next: as a rule one of them gets the reservation."""
    fair = engine.frame.policy.sharing is Sharing.FAIR

    def turn(line: Line) -> tuple[object, ...]:
        return (line.standing(engine.state, fair=fair), -line.priority, line.jobs[0])

    return {line.seat.id for line in heapq.nsmallest(_TRIED_FIRST, starving, key=turn)}


def _due(engine: Engine, line: Line) -> tuple[int, frozenset[str]]:
    """From when on its first job starves, and the pools where it could have a reservation."""
    if line.reason is None or line.reason.code not in CAN_STARVE:
        return 0, _NOWHERE
    if line.pools is None:
        line.pools = _pools(engine, line)
    if line.due is None:
        policy = engine.frame.policy
        time, uid = line.jobs[0]
        overtaken = line.requests[uid].overtaken >= policy.most_overtaken
        line.due = 0 if overtaken else time + policy.reserve_after
    return line.due, line.pools


def _pools(engine: Engine, line: Line) -> frozenset[str]:
    """Where its jobs could have a reservation at all: it takes nominal quota."""
    request = line.requests[line.jobs[0][1]]
    options = [request.options[index] for index in line.options or ()]
    return frozenset(engine.state.pool(o) for o in options if line.seat.holds(o.usage))


def goes_on(engine: Engine, holds: Iterable[Hold], now: int) -> list[Hold]:
    """Reservations whose jobs wait still; one that has run out rests for as long again."""
    bound = engine.frame.policy.reserve_bound
    return [hold for hold in holds if hold.uid in engine.pending and now < hold.until + bound]


def _marks(engine: Engine, names: Iterable[str]) -> dict[Line, Mark]:
    lines = engine.queue.lines
    return {
        line: (line.reason, line.freed, line.moved, line.until)
        for name in names
        for line in lines[name].values()
    }
