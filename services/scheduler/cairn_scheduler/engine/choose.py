"""Where a job would run now: the first of its options that borrows the least, and machines for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from cairn_scheduler.engine import reasons
from cairn_scheduler.engine.fit import Placement, Room
from cairn_scheduler.engine.gates import Gates
from cairn_scheduler.engine.hold import Shadow
from cairn_scheduler.engine.order import Line
from cairn_scheduler.engine.quota import Seat
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import Code, JobRequest, Option, Reason


@dataclass(frozen=True, slots=True)
class Choice:
    """An option that fits, and where; `now`: victims need not be waited for; `debt`: see `Seat.debt`."""

    option: int
    machines: Placement
    now: bool
    debt: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no option fits; `short`: those that would if others ended."""

    reason: Reason
    short: list[int]


@dataclass(slots=True)
class Ground:
    """What a choice is made on. `actual`: see `state`; None while nobody is in a grace."""

    state: State
    actual: State | None
    gates: Gates
    now: int
    shadows: list[Shadow] = field(default_factory=list)

    def choose(self, seat: Seat, request: JobRequest, options: list[int]) -> Choice | Refusal:
        """The option that borrows the least of those that fit, the first of equals."""
        reason: Reason | None = None
        best: Choice | None = None
        short: list[int] = []
        for index in options:
            option = request.options[index]
            gate = self.gates.closed(option, request.uid) or self.gates.unpaid(seat, request, option)
            if gate is None and not self.state.within(seat, option):
                short.append(index)
                reason = reason or reasons.shortage(self.state, seat, request, option)
                continue
            gate = gate or self.gates.kept(seat, request, option)
            debt = seat.debt(option.usage)
            if gate is None and (best is None or debt < best.debt):
                spot = self._spot(seat, request, option)
                if isinstance(spot, Reason):
                    gate = spot
                    if spot.code is not Code.RESERVED_FOR:
                        short.append(index)
                else:
                    best = Choice(index, spot[0], spot[1], debt)
                    if debt == 0:
                        break
            reason = reason or gate
        return best or Refusal(reason or Reason(Code.NO_MATCHING_FLAVOR), short)

    def has_room(self, line: Line) -> bool:
        """Whether the quotas have room for a line's next job."""
        request = line.head()
        if request is None:
            return False
        return any(self.state.within(line.seat, request.options[index]) for index in line.options or ())

    def _spot(self, seat: Seat, request: JobRequest, option: Option) -> tuple[Placement, bool] | Reason:
        """Machines for an option that the quota has room for, and whether they are free already."""
        beside: list[Room] = []
        for shadow in self.shadows:
            passes, extra = shadow.passes(seat, request, option, self.now)
            if not passes:
                return _reserved(shadow)
            beside += [extra] if extra is not None else []
        actual = self.actual
        now = actual is None or actual.within(actual.tree.seats[seat.id], option)
        room = self.state.room(option)
        if room is None:
            return (), now
        placement = _place(room, beside, request)
        if placement is None:
            if beside and room.place(request.ranks, request.per_rank) is not None:
                return _reserved(next(s for s in self.shadows if s.room is not None))
            return reasons.shortage(self.state, seat, request, option)
        if actual is None or not now:
            return placement, now
        held = actual.room(option)
        assert held is not None
        if held.holds(placement, request.per_rank):
            return placement, True
        other = _place(room, [*beside, held], request)
        return (placement, False) if other is None else (other, True)


def _reserved(shadow: Shadow) -> Reason:
    return Reason(
        Code.RESERVED_FOR, flavor=shadow.hold.flavor, others=(shadow.hold.uid,), until=shadow.hold.start
    )


def _place(room: Room, beside: list[Room], request: JobRequest) -> Placement | None:
    """Machines that are free in all of the rooms."""
    placement = room.place(request.ranks, request.per_rank)
    if placement is None or all(other.holds(placement, request.per_rank) for other in beside):
        return placement
    return room.meet(beside).place(request.ranks, request.per_rank)
