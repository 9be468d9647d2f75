"""Whether victims would come back to it: an eviction that the next pass would undo is none to plan."""

from __future__ import annotations

from cairn_scheduler.engine.victims import LATE, Search, Victims
from cairn_scheduler.engine.world import Admitted, Policy


def comes_back(search: Search, victims: Victims, index: int, policy: Policy) -> bool:
    """Whether one of its victims, queued again, would evict the job that a search was made for."""
    state, request = search.state, search.request
    with state.tentative():
        for job, _ in victims:
            state.remove(job)
        placement = state.place(request, request.options[index])
        assert placement is not None
        # Long since admitted: its min_runtime does not protect it for ever.
        winner = Admitted(request, index, placement, 0)
        state.add(winner)
        nodes = {request.node, *(job.request.node for job, _ in victims)}
        for node in nodes:
            state.note(node)
        alike = {(job.request.node, job.request.options, job.request.priority): job for job, _ in victims}
        back = any(_would_evict(search, job, policy) for job in alike.values())
        state.remove(winner)
        for job, _ in victims:
            state.add(job)
        for node in nodes:
            state.note(node)
    return back


def _would_evict(search: Search, victim: Admitted, policy: Policy) -> bool:
    state, request = search.state, victim.request
    seat = state.tree.seats[request.node]
    if any(state.fits(seat, request, option) for option in request.options):
        return False
    for option in request.options:
        other = Search(state, seat, request, option, search.now, search.classes, search.protected)
        if _takes(other, search.request.uid, policy):
            return True
        # Whom a min_runtime protects now it does not protect for ever: then another set may be the one.
        if other.until:
            other = Search(state, seat, request, option, LATE, search.classes, search.protected)
            if _takes(other, search.request.uid, policy):
                return True
    return False


def _takes(search: Search, uid: str, policy: Policy) -> bool:
    return any(job.request.uid == uid for job, _ in search.run(policy))
