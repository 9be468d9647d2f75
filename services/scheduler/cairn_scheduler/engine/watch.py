"""What a line of jobs looks at: its failure stands as long as nothing of that has changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cairn_scheduler.engine.fit import Room
from cairn_scheduler.engine.quota import Cell, Seat
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import JobRequest, Key, Option


class Watch:
    """Cells and machines, and the shares of a node and those above it.

    `freed` grows whenever something was freed that could let a job fit; `moved` whenever anything changed
    that could give it victims. Both are remembered until the state changes again.
    """

    __slots__ = ("_at", "_freed", "_moved", "_state", "cells", "keys", "movers", "rooms", "seats", "takers")

    def __init__(
        self,
        state: State,
        seat: Seat,
        *,
        cells: Iterable[Cell],
        movers: Iterable[Cell],
        freeing: Iterable[Room],
        moving: Iterable[Room],
        keys: Iterable[Key] = (),
    ) -> None:
        self._state = state
        self.keys = frozenset(keys)
        self.cells, self.movers = tuple(cells), tuple(movers)
        self.rooms, self.takers = tuple(freeing), tuple(moving)
        self.seats = tuple(one for one in seat.path() if one.parent is not None)
        self._at = -1
        self._freed = self._moved = 0

    def freed(self) -> int:
        """See the class."""
        if self._at != self._state.tree.changes:
            self._look()
        return self._freed

    def moved(self) -> int:
        """See the class."""
        if self._at != self._state.tree.changes:
            self._look()
        return self._moved

    def covers(self, jobs: Iterable[JobRequest]) -> bool:
        """Whether these use nothing, whichever way they run, that does not move this."""
        return all(key in self.keys for job in jobs for option in job.options for key, _ in option.usage)

    def _look(self) -> None:
        self._at = self._state.tree.changes
        freed = moved = 0
        for cell in self.cells:
            freed += cell.gen
        for room in self.rooms:
            freed += room.gen
        for cell in self.movers:
            moved += cell.move
        for room in self.takers:
            moved += room.move
        for seat in self.seats:
            moved += seat.shifts
        self._freed, self._moved = freed, moved


class Watches:
    """One watch for all lines of a node that look at the same."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._all: dict[tuple[str, tuple[Key, ...], tuple[str, ...]], Watch] = {}
        self._some: dict[tuple[object, ...], Watch] = {}

    def of(self, seat: Seat, options: Sequence[Option]) -> Watch:
        """Everything that jobs with these options at a node can depend on."""
        keys = tuple(sorted({key for option in options for key, _ in option.usage}))
        pools = {self._state.pool(o) for o in options if self._state.room(o) is not None}
        known = (seat.id, keys, tuple(sorted(pools)))
        if known not in self._all:
            cells = [one for key in keys if (cell := seat.cell(key)) is not None for one in cell.path()]
            rooms = [self._state.rooms[name] for name in sorted(pools)]
            self._all[known] = Watch(
                self._state,
                seat,
                cells=_once(one for one in cells if one.binds()),
                movers=_once(one for one in cells if one.parent is None and one.key in seat.root.quotas),
                freeing=rooms,
                moving=rooms,
                keys=keys,
            )
        return self._all[known]

    def less(self, seat: Seat, request: JobRequest, options: Iterable[Option]) -> Watch | None:
        """What a job depends on that quota keeps back; None: on all that it could.

        Where nobody borrows from a node, what happens there and above is nothing to those below; and machines
        count where they do not suffice.
        """
        cells: list[Cell] = []
        tops: list[Cell] = []
        rooms: dict[str, Room] = {}
        for option in options:
            no: list[Cell] = []
            for key, amount in option.usage:
                cell = seat.cell(key)
                if cell is None or amount <= 0:
                    continue
                reach = cell.reach()
                no += cell.against(amount)
                cells += reach
                tops.append(reach[-1])
            if not no or any(one not in cells for one in no):
                return None
            room = self._state.room(option)
            if room is not None and room.free_ranks(request.per_rank, request.ranks) < request.ranks:
                rooms[room.name] = room
        cells = _once(one for one in cells if one.binds())
        tops = _once(tops)
        known = (seat.id, *map(id, cells), "", *map(id, tops), *sorted(rooms))
        if known not in self._some:
            self._some[known] = Watch(
                self._state, seat, cells=cells, movers=tops, freeing=(), moving=rooms.values()
            )
        return self._some[known]


def _once(cells: Iterable[Cell]) -> list[Cell]:
    return list({id(one): one for one in cells}.values())
