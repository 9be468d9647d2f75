"""Which of those that a plan evicts others for a job would evict itself, in the next plan.

Most jobs that wait are passed over without a search: what `could_oust` says to be impossible none finds.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from cairn_scheduler.engine.comeback import comes_back
from cairn_scheduler.engine.quota import Seat
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.victims import Search
from cairn_scheduler.engine.world import Admitted, JobRequest, Key, Policy, Reclaim, Within


def ousted(searches: Iterable[tuple[int, Search]], policy: Policy, kept: Container[str]) -> set[str]:
    """Whom a job takes from, of the `kept` ones; by its searches, each with the number of its option."""
    for index, search in searches:
        victims = search.run(policy)
        found = {job.request.uid for job, _ in victims if job.request.uid in kept}
        if found and not comes_back(search, victims, index, policy):
            return found
        if victims:
            break
    return set()


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
