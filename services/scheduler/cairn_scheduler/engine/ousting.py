"""Whether a job could take from one that a plan evicts others for: what can be seen without a search.

What is said here to be impossible no search finds (see `victims`); most jobs that wait are passed over so.
"""

from __future__ import annotations

from collections.abc import Iterable

from cairn_scheduler.engine.quota import Seat
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import Admitted, JobRequest, Key, Reclaim, Within


def foremost(kept: Iterable[Admitted]) -> list[Admitted]:
    """Of those that are alike to `could_oust` the newest: where these could not be evicted, nobody could."""
    newest: dict[tuple[object, ...], Admitted] = {}
    for job in kept:
        request = job.request
        kind = (request.node, request.priority, request.options[job.option].usage)
        known = newest.get(kind)
        if known is None or _age(request) > _age(known.request):
            newest[kind] = job
    return list(newest.values())


def could_oust(state: State, seat: Seat, request: JobRequest, kept: Iterable[Admitted]) -> bool:
    """Whether a job of this node might evict one of those, by priority, policy and what nodes borrow."""
    # What may be short: a quota, or room on the flavor's machines.
    keys = {
        key
        for option in request.options
        for key, amount in option.usage
        if amount > 0 and (key[0] == option.flavor or seat.cell(key) is not None)
    }
    for job in kept:
        theirs = state.tree.seats[job.request.node]
        if not any(amount > 0 and key in keys for key, amount in job.request.options[job.option].usage):
            continue
        if theirs is seat:
            possible = _within(seat, request, job.request)
        else:
            possible = theirs.root is seat.root and _reclaims(seat, request, job.request)
            possible = possible and _borrows(theirs, seat, keys)
        if possible:
            return True
    return False


def _within(seat: Seat, request: JobRequest, other: JobRequest) -> bool:
    if seat.node.within is Within.NEVER:
        return False
    if other.priority < request.priority:
        return True
    newer = _age(other) > _age(request)
    return seat.node.within is not Within.LOWER and other.priority == request.priority and newer


def _age(request: JobRequest) -> tuple[int, str]:
    return request.create_time, request.uid


def _reclaims(seat: Seat, request: JobRequest, other: JobRequest) -> bool:
    reclaim = seat.node.reclaim
    return reclaim is Reclaim.ANY or (reclaim is not Reclaim.NEVER and other.priority < request.priority)


def _borrows(theirs: Seat, mine: Seat, keys: set[Key]) -> bool:
    """Whether each node from theirs up to the lowest common one, which is left out, is over its quota."""
    path = set(mine.path())
    for one in theirs.path():
        if one in path:
            return True
        if not one.exceeds(keys):
            return False
    return True
