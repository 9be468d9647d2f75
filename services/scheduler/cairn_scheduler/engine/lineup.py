"""Whose turn it is in a pass: lines with a job to try, by node, and the nodes by their standing."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from cairn_scheduler.engine import gates
from cairn_scheduler.engine.order import Line, LineOrder, order_in_node
from cairn_scheduler.engine.quota import Seat
from cairn_scheduler.engine.world import Sharing

if TYPE_CHECKING:
    from cairn_scheduler.engine.decide import Engine


class LineUp:
    """The lines of the nodes `names` that a pass deals with.

    `use`: decayed use by (node, user), which the pass adds to. `fresh`: jobs that got a place in it.
    """

    def __init__(
        self,
        engine: Engine,
        names: Collection[str],
        use: Mapping[tuple[str, str], int],
        fresh: Mapping[str, object],
    ) -> None:
        self._engine, self._names, self._use, self._fresh = engine, names, use, fresh
        self._fair = engine.frame.policy.sharing is Sharing.FAIR
        # The best of a node's lines is the last; of the nodes in `_sorted` that is known to be so.
        self._live: dict[str, list[Line]] = {}
        self._sorted: set[str] = set()
        self._heap: list[tuple[object, ...]] = []
        self._tick = self._pushed = 0
        self._may: Callable[[Line], bool] | None = None

    def __bool__(self) -> bool:
        return bool(self._heap)

    def gather(self, may: Callable[[Line], bool] | None = None) -> None:
        """All lines that have a job without a place, or those of them that may be tried at all: who may not
        does not come to do so by others' starts."""
        self._may = may
        queue = self._engine.queue
        for name in self._names if len(self._names) < len(queue.lines) else queue.lines:
            live = [line for line in queue.lines[name].values() if self.open(line)]
            if live:
                self._live[name] = live
                self._sorted.discard(name)
                self._push(self._engine.state.tree.seats[name])

    def open(self, line: Line) -> bool:
        """Back to a line's first job that has no place yet; whether there is one."""
        line.first = 0
        self._skip(line)
        return line.first < len(line.jobs)

    def next(self) -> Line | None:
        """The line whose first job is to be tried now; None: all were. To be answered by `passed`."""
        while self._heap:
            entry = heapq.heappop(self._heap)
            seat: Seat = entry[-1]  # type: ignore[assignment]
            if seat.id in self._live and (entry[-3] == self._tick or self._still(seat)):
                return self._best(seat.id)
        return None

    def passed(self, line: Line, *, started: bool) -> None:
        """Its first job got a place, and the next one's turn may come; or nothing more of it is tried."""
        name = line.seat.id
        if started:
            self._skip(line)
            self._sorted.discard(name)
        if not started or line.first >= len(line.jobs):
            live = self._live.get(name)
            if live is not None and line in live:
                live.remove(line)
        self._push(line.seat)

    def revive(self, line: Line) -> None:
        """A line is to be tried again, or for the first time."""
        live = self._live.setdefault(line.seat.id, [])
        if line in live:
            self._sorted.discard(line.seat.id)
        elif line.seat.id in self._sorted and line.first < len(line.jobs):
            # Many victims of one node wait again one after the other: the others keep their order.
            live.insert(self._place(live, line), line)
        else:
            live.append(line)
            self._sorted.discard(line.seat.id)
        self._tick += 1
        self._push(line.seat)

    def changed(self, seat: Seat) -> None:
        """A job of the node got a place: shares and its users' use are others now."""
        self._sorted.discard(seat.id)
        self._tick += 1

    def _skip(self, line: Line) -> None:
        while (head := line.head()) is not None and head.uid in self._fresh:
            line.first += 1

    def _best(self, name: str) -> Line | None:
        live = self._live.get(name)
        if not live:
            return None
        if name not in self._sorted:
            live[:] = [line for line in live if line.first < len(line.jobs)]
            live.sort(key=self._order, reverse=True)
            self._sorted.add(name)
        while self._may is not None and live and not self._may(self._known(live[-1])):
            live.pop()
        return live[-1] if live else None

    def _place(self, live: list[Line], line: Line) -> int:
        """Where a line goes among those that are sorted, the best of them last."""
        order = self._order(line)
        low, high = 0, len(live)
        while low < high:
            middle = (low + high) // 2
            if self._order(live[middle]) > order:
                low = middle + 1
            else:
                high = middle
        return low

    def _known(self, line: Line) -> Line:
        """The line, with what can never change."""
        request = line.head()
        if line.options is None and request is not None:
            state = self._engine.state
            line.fixed = gates.refused_for_ever(state, line.seat, request, self._engine.classes)
            line.options = gates.usable(state, line.seat, request)
        return line

    def _order(self, line: Line) -> LineOrder:
        return order_in_node(line, self._use)

    def _push(self, seat: Seat) -> None:
        line = self._best(seat.id)
        if line is None:
            self._live.pop(seat.id, None)
            return
        request = line.head()
        assert request is not None
        order = self._known(line).standing(self._engine.state, fair=self._fair)
        heapq.heappush(
            self._heap,
            (order, -request.priority, request.create_time, request.uid, self._tick, self._pushed, seat),
        )
        self._pushed += 1

    def _still(self, seat: Seat) -> bool:
        """Pushes an entry anew that was made before something changed; whether it is still the first."""
        self._push(seat)
        if self._heap and self._heap[0][-1] is seat and self._heap[0][-3] == self._tick:
            heapq.heappop(self._heap)
            return True
        return False
