"""Who is next: jobs that are alike wait in a line, lines compete inside their node, nodes by their share.

Inside a node: priority, then requeued ones, then the user with less (decayed) use, then age. Between nodes,
from the root down: who stays within its quota, then the smaller share after the admission.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping

from cairn_scheduler.engine.quota import NOTHING, Cell, Seat, Share
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import Amounts, JobRequest, Option, Reason

Shape = tuple[object, ...]
# A failure with this stamp is one that has to be looked at in every pass.
ALWAYS = -1
Standing = tuple[tuple[bool, Share], ...]
LineOrder = tuple[int, bool, int, int, str]


class Line:
    """Jobs of one node that are alike in all that a decision looks at, the oldest first.

    `reason`: why its first one did not start when it was last tried, at the stamps `freed` and `moved`.
    """

    __slots__ = (
        "_standing",
        "cells",
        "first",
        "fixed",
        "freed",
        "jobs",
        "key",
        "moved",
        "movers",
        "options",
        "priority",
        "reason",
        "requests",
        "requeued",
        "rooms",
        "seat",
        "until",
        "user",
    )  # fmt: skip

    def __init__(self, key: Shape, seat: Seat, request: JobRequest) -> None:
        self.key, self.seat = key, seat
        self.priority, self.requeued, self.user = request.priority, request.requeued, request.user
        self.jobs: list[tuple[int, str]] = []
        self.requests: dict[str, JobRequest] = {}
        self.reason: Reason | None = None
        self.freed = self.moved = ALWAYS
        self.until = 0
        # What can never change: why none of them can ever start, and the options that could hold them.
        self.fixed: Reason | None = None
        self.options: list[int] | None = None
        # How many of `jobs` are dealt with in this pass.
        self.first = 0
        self._standing: tuple[int, Standing] | None = None
        self.cells: list[Cell] | None = None
        self.movers: list[Cell] = []
        self.rooms: tuple[str, ...] = ()

    def put(self, request: JobRequest) -> None:
        """Adds a job."""
        insort(self.jobs, (request.create_time, request.uid))
        self.requests[request.uid] = request

    def drop(self, uid: str) -> None:
        """Takes a job out."""
        request = self.requests.pop(uid)
        at = bisect_left(self.jobs, (request.create_time, uid))
        del self.jobs[at]

    def head(self) -> JobRequest | None:
        """The next one in this pass."""
        if self.first >= len(self.jobs):
            return None
        return self.requests[self.jobs[self.first][1]]

    def stamp(self, state: State) -> int:
        """Grows whenever something was freed that could let its first job fit."""
        if self.cells is None:
            self._watch(state)
            assert self.cells is not None
        freed = 0
        for cell in self.cells:
            freed += cell.gen
        for name in self.rooms:
            freed += state.rooms[name].gen
        return freed

    def motion(self, state: State) -> int:
        """Grows whenever anything changed that could give it victims."""
        if self.cells is None:
            self._watch(state)
        return sum(cell.move for cell in self.movers) + sum(state.rooms[name].move for name in self.rooms)

    def unchanged(self, state: State, now: int) -> bool:
        """Whether nothing has changed since it failed that could let its first job start."""
        if self.freed == ALWAYS or (self.until and self.until <= now):
            return False
        return self.freed == self.stamp(state) and self.moved == self.motion(state)

    def standing(self, state: State, *, fair: bool) -> Standing:
        """From the root's child down: whether each would borrow, and its share; the best of its options."""
        version = sum(seat.version for seat in self.seat.path() if seat.parent is not None)
        if self._standing is None or self._standing[0] != version:
            self._standing = (version, self._stand(state, fair=fair))
        return self._standing[1]

    def _stand(self, state: State, *, fair: bool) -> Standing:
        options = self.requests[self.jobs[0][1]].options
        if self.seat.parent is None or not options:
            return ()
        numbers = self.options or range(len(options))
        return min(self._stand_with(state, options[number].usage, fair=fair) for number in numbers)

    def _stand_with(self, state: State, usage: Amounts, *, fair: bool) -> Standing:
        with state.tentative():
            state.tree.take(self.seat, usage)
            keys = [key for key, amount in usage if amount > 0]
            order = [
                (seat.exceeds(keys), seat.share() if fair else NOTHING)
                for seat in self.seat.path()
                if seat.parent is not None
            ]
            state.tree.give(self.seat, usage)
        return tuple(order[::-1])

    def _watch(self, state: State) -> None:
        options = self.requests[self.jobs[0][1]].options
        cells: dict[int, Cell] = {}
        movers: dict[int, Cell] = {}
        for option in options:
            for key, _ in option.usage:
                cell = self.seat.cell(key)
                if cell is None:
                    continue
                for one in cell.path():
                    if one.binds():
                        cells[id(one)] = one
                    if one.parent is None and key in self.seat.root.quotas:
                        movers[id(one)] = one
        self.cells, self.movers = list(cells.values()), list(movers.values())
        rooms = {state.flavors[o.flavor].pool for o in options if state.room(o) is not None}
        self.rooms = tuple(sorted(rooms))


class Queue:
    """All pending jobs that could start, in lines by node. `use`: decayed use by (node, user)."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.lines: dict[str, dict[Shape, Line]] = {name: {} for name in state.tree.seats}
        self.line_of: dict[str, Line] = {}
        self._alike: dict[tuple[Option, ...], int] = {}
        self._numbers: dict[int, tuple[tuple[Option, ...], int]] = {}

    def put(self, request: JobRequest) -> Line:
        """Adds a job to its line."""
        key = (
            request.priority,
            request.requeued,
            request.user,
            self._number(request.options),
            request.ranks,
            request.per_rank,
            request.priority_class,
            request.max_runtime,
            request.attempted,
        )
        lines = self.lines[request.node]
        line = lines.get(key)
        if line is None:
            line = lines[key] = Line(key, self._state.tree.seats[request.node], request)
        line.put(request)
        self.line_of[request.uid] = line
        return line

    def drop(self, uid: str) -> None:
        """Takes a job out of its line."""
        line = self.line_of.pop(uid)
        line.drop(uid)
        if not line.jobs:
            del self.lines[line.seat.id][line.key]

    def _number(self, options: tuple[Option, ...]) -> int:
        """The same number for equal options; by identity first, for most jobs share theirs."""
        known = self._numbers.get(id(options))
        if known is not None:
            return known[1]
        number = self._alike.setdefault(options, len(self._alike))
        # Kept alive with it, so that the identity stays its own.
        self._numbers[id(options)] = (options, number)
        return number


def best_line(lines: Iterable[Line], use: Mapping[tuple[str, str], int]) -> Line | None:
    """The line whose first job is the next of its node; None where none has any."""
    best: Line | None = None
    first: LineOrder | None = None
    for line in lines:
        if line.first >= len(line.jobs):
            continue
        time, uid = line.jobs[line.first]
        order = (-line.priority, not line.requeued, use.get((line.seat.id, line.user), 0), time, uid)
        if first is None or order < first:
            best, first = line, order
    return best
