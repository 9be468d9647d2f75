"""What a line of jobs looks at: its failure stands as long as nothing of that has changed."""

from __future__ import annotations

from collections.abc import Sequence

from cairn_scheduler.engine.quota import Cell, Seat
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import Key, Option


class Watch:
    """The cells and machines that the lines of one node with the same keys depend on.

    `freed` grows whenever something was freed that could let a job fit; `moved` whenever anything changed
    that could give it victims. Both are remembered until the state changes again.
    """

    __slots__ = ("_at", "_freed", "_moved", "_state", "cells", "movers", "rooms", "seats")

    def __init__(self, state: State, seat: Seat, keys: Sequence[Key], rooms: Sequence[str]) -> None:
        cells: dict[int, Cell] = {}
        movers: dict[int, Cell] = {}
        for key in keys:
            cell = seat.cell(key)
            for one in cell.path() if cell is not None else ():
                if one.binds():
                    cells[id(one)] = one
                if one.parent is None and key in seat.root.quotas:
                    movers[id(one)] = one
        self._state = state
        self.cells, self.movers = list(cells.values()), list(movers.values())
        self.seats = [one for one in seat.path() if one.parent is not None]
        self.rooms = [state.rooms[name] for name in rooms]
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

    def _look(self) -> None:
        self._at = self._state.tree.changes
        freed = moved = 0
        for cell in self.cells:
            freed += cell.gen
        for cell in self.movers:
            moved += cell.move
        for seat in self.seats:
            moved += seat.shifts
        for room in self.rooms:
            freed += room.gen
            moved += room.move
        self._freed, self._moved = freed, moved


class Watches:
    """One watch for all lines of a node that look at the same."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._known: dict[tuple[str, tuple[Key, ...], tuple[str, ...]], Watch] = {}

    def of(self, seat: Seat, options: Sequence[Option]) -> Watch:
        """The watch of jobs with these options at a node."""
        keys = tuple(sorted({key for option in options for key, _ in option.usage}))
        pools = {self._state.flavors[o.flavor].pool for o in options if self._state.room(o) is not None}
        rooms = tuple(sorted(pools))
        known = self._known.get((seat.id, keys, rooms))
        if known is None:
            known = self._known[seat.id, keys, rooms] = Watch(self._state, seat, keys, rooms)
        return known
