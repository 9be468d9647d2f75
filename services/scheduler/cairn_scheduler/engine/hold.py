"""The one bounded reservation of a pool: when a starving job will fit, and who may pass it until then.

As in EASY backfill (Lifka, 1995): jobs that end before, and jobs that fit beside it even then. The time comes
from the running jobs' `max_runtime`; a job without one is taken to run for `Policy.assumed_runtime`.

Where its node may reclaim, only jobs of the nominal quota that it waits for are held back, and who needs its
machines: what others borrow of that quota it takes back when its time has come.
"""

from __future__ import annotations

from dataclasses import dataclass

from cairn_scheduler.engine.fit import Room
from cairn_scheduler.engine.quota import Seat
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import Admitted, Hold, JobRequest, Key, Option, Policy, Reclaim


@dataclass(slots=True)
class Shadow:
    """What is left beside the job when it will start; `room` is None where quota alone decides."""

    hold: Hold
    root: Seat
    slack: dict[Key, int]
    room: Room | None
    assumed: int
    # Below it jobs are kept from taking what the job will need; None: in the whole tree.
    top: Seat | None = None

    def passes(self, seat: Seat, request: JobRequest, option: Option, now: int) -> tuple[bool, Room | None]:
        """Whether a job may go first; and machines that it then has to fit on, too."""
        if self.ends_before(request, now) or request.uid == self.hold.uid:
            return True, None
        if seat.root is self.root if self.top is None else self.top in seat.path():
            for key, amount in option.usage:
                if amount > self.slack.get(key, amount):
                    return False, None
        return True, self.room if option.flavor == self.hold.flavor else None

    def ends_before(self, request: JobRequest, now: int) -> bool:
        """Whether it will be over by then."""
        runs = request.max_runtime if request.max_runtime is not None else self.assumed
        return now + runs <= self.hold.start

    def passed(self, seat: Seat, job: Admitted, now: int) -> None:
        """A job went first: what it uses then is not left any more."""
        request, option = job.request, job.request.options[job.option]
        if self.ends_before(request, now) or request.uid == self.hold.uid:
            return
        if seat.root is self.root:
            for key, amount in option.usage:
                if key in self.slack:
                    self.slack[key] -= amount
        if self.room is not None and option.flavor == self.hold.flavor and job.machines:
            self.room.take(job.machines, request.per_rank)


def foresee(
    state: State, seat: Seat, request: JobRequest, option: Option, now: int, policy: Policy, until: int
) -> Shadow | None:
    """When it will fit, by what is known of the running jobs; None where that never lets it."""
    with state.tentative():
        return _foresee(state, seat, request, option, now, policy, until)


def _foresee(
    state: State, seat: Seat, request: JobRequest, option: Option, now: int, policy: Policy, until: int
) -> Shadow | None:
    keys = {key for key, amount in option.usage if amount > 0 and seat.cell(key) is not None}
    ending = sorted(_ends(state, option, keys, policy), key=lambda pair: (pair[0], pair[1].request.uid))
    removed: list[Admitted] = []
    start, at = now, 0
    while not state.fits(seat, request, option) and at < len(ending):
        start = max(now, ending[at][0])
        while at < len(ending) and ending[at][0] <= start:
            job = ending[at][1]
            state.remove(job)
            removed.append(job)
            at += 1
    shadow = None
    if state.fits(seat, request, option):
        hold = Hold(request.uid, option.flavor, state.pool(option), start, until)
        shadow = _beside(state, seat, request, option, hold, policy)
    for job in removed:
        state.add(job)
    return shadow


def _beside(
    state: State, seat: Seat, request: JobRequest, option: Option, hold: Hold, policy: Policy
) -> Shadow:
    slack: dict[Key, int] = {}
    for key, amount in option.usage:
        available = seat.available(key)
        if available is not None:
            slack[key] = available - amount
    room = state.room(option)
    if room is not None:
        placement = room.place(request.ranks, request.per_rank)
        room = room.copy()
        assert placement is not None
        room.take(placement, request.per_rank)
    top = None if seat.node.reclaim is Reclaim.NEVER else seat.holder(option.usage)
    return Shadow(hold, seat.root, slack, room, policy.assumed_runtime, top)


def _ends(state: State, option: Option, keys: set[Key], policy: Policy) -> list[tuple[int, Admitted]]:
    """Running jobs that hold some of these keys or machines of its pool, and when they will be over."""
    room = state.room(option)
    ends = []
    for jobs in state.running.values():
        for job in jobs.values():
            theirs = job.request.options[job.option]
            beside = room is not None and state.room(theirs) is room
            if beside or any(key in keys for key, _ in theirs.usage):
                runs = job.request.max_runtime
                ends.append((job.admit_time + (policy.assumed_runtime if runs is None else runs), job))
    return ends
