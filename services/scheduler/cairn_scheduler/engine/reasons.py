"""Why a job did not start when it was tried: the dominant reason with its evidence."""

from __future__ import annotations

from cairn_scheduler.engine.quota import Cell, Seat
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import Code, JobRequest, Key, Option, Reason, Reclaim


def shortage(state: State, seat: Seat, request: JobRequest, option: Option) -> Reason:
    """What an option lacks in the quota or on the machines."""
    for key, amount in option.usage:
        cell = seat.cell(key)
        if cell is not None and amount > 0 and cell.available() < amount:
            return _quota(state, seat, cell, amount, option)
    room = state.room(option)
    if room is None:
        return Reason(Code.NOT_EVALUATED, flavor=option.flavor)
    free = room.free_ranks(request.per_rank, request.ranks)
    fragmented = all(
        room.free(resource) >= amount * request.ranks
        for resource, amount in request.per_rank
        if room.has(resource)
    )
    return Reason(
        Code.GANG_FRAGMENTED if fragmented else Code.CAPACITY_FULL,
        flavor=option.flavor,
        resource=lacking(state, request, option),
        requested=request.ranks,
        limit=room.possible_ranks(request.per_rank, request.ranks),
        used=free,
        note=f"pool {room.name} has room for {free} of {request.ranks} ranks now",
    )


def lacking(state: State, request: JobRequest, option: Option) -> str:
    """The resource of which a pool has too little free; `gpu` where it is only scattered."""
    room = state.room(option)
    assert room is not None
    for resource, amount in request.per_rank:
        if room.has(resource) and room.free(resource) < amount * request.ranks:
            return resource
    return "gpu"


def binding(cell: Cell, amount: int) -> Cell:
    """The cell on the path that says no, the highest of them: who is full there cannot be helped below."""
    found = cell
    below = cell.available()
    for one in cell.path():
        if one.available() <= below:
            found = one
    return found if below < amount else cell


def _quota(state: State, seat: Seat, cell: Cell, amount: int, option: Option) -> Reason:
    stuck = binding(cell, amount)
    flavor, resource = cell.key
    code = Code.QUOTA_FULL
    limit = stuck.quota if stuck.most is None else min(stuck.quota, stuck.most)
    if stuck.parent is None:
        lending = cell.key in state.tree.lending
        if lending and _unlent(stuck, cell.key) >= amount - cell.available():
            code = Code.LENDING_LIMITED
        elif _others_borrow(seat, cell.key):
            code = Code.FAIR_SHARE_BEHIND
            if not seat.borrows(option.usage) and seat.node.reclaim is not Reclaim.ANY:
                code = Code.PRIORITY_BEHIND
    elif stuck.borrow is not None:
        limit = stuck.quota + stuck.borrow
    return Reason(code, node=stuck.seat.id, flavor=flavor, resource=resource, requested=amount,
                  limit=limit, used=stuck.usage if stuck.most is None else stuck.total)  # fmt: skip


def _unlent(root: Cell, key: Key) -> int:
    """What lies idle in nodes that do not lend it."""
    idle = 0
    stack = list(root.seat.children)
    while stack:
        seat = stack.pop()
        stack.extend(seat.children)
        if key in seat.quotas:
            cell = seat.cell(key)
            if cell is not None and cell.local > cell.usage:
                idle += cell.local - cell.usage
    return idle


def _others_borrow(seat: Seat, key: Key) -> bool:
    path = set(seat.path())
    return any(child not in path for one in path for child in one.hot.get(key, {}).values())
