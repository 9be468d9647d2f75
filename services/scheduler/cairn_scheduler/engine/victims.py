"""Whom to evict so that a job fits: the fewest, and none whose return would evict the job again.

Two ways, by `Policy.sharing`. FAIR is rules S2-a and S2-b of Kueue's KEP 1714 (fair sharing), on the
hierarchy: take from whoever has the largest share, as long as the job's side stays no larger than what is
left to the other (a), else once as long as it stays below what the other had (b); a side that stays within
its nominal quota may always reclaim. PRIORITY is its classical preemption: nearness to the quota, then
priority.

In both, inside a node: lower priority first, then the fewest GPU-seconds lost since the last checkpoint, then
the newest; and in the end whoever is not needed after all is filled back.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cairn_scheduler.engine.quota import Seat
from cairn_scheduler.engine.state import State
from cairn_scheduler.engine.world import (
    Admitted,
    Amounts,
    Borrowing,
    JobRequest,
    Key,
    Option,
    Policy,
    PriorityClass,
    Reclaim,
    Sharing,
    Why,
    Within,
)

Victims = list[tuple[Admitted, Why]]
_Size = tuple[int, bool, int]
# A time at which everybody has run long enough.
LATE = 1 << 62
# So long after a checkpoint little is lost.
_FRESH = 60_000


@dataclass(slots=True)
class Search:
    """One search. `protected`: jobs that are not to be evicted; `until`: when a min_runtime ends, or 0.

    The state is as before when it is over.
    """

    state: State
    seat: Seat
    request: JobRequest
    option: Option
    now: int
    classes: Mapping[str, PriorityClass]
    protected: Mapping[str, object] = field(default_factory=dict)
    until: int = 0
    keys: list[Key] = field(default_factory=list)
    _found: Victims = field(default_factory=list)

    def run(self, policy: Policy) -> Victims:
        """The victims, or none where it is not to be had."""
        klass = self.classes.get(self.request.priority_class)
        if klass is not None and not klass.may_preempt:
            return []
        self.keys = self.state.short(self.seat, self.request, self.option)
        self._found = []
        with self.state.tentative():
            fits = self._fair(policy) if policy.sharing is Sharing.FAIR else self._by_priority()
            if fits:
                self._fill_back(borrowing=fits > 1)
            for job, _ in self._found:
                self.state.add(job)
        return self._found if fits else []

    # What may be evicted

    def candidates(self, seat: Seat) -> Iterator[Admitted]:
        """Jobs of a node that may be evicted for this one, the best first.

        They are looked for as they are asked for: most searches end with the first ones.
        """
        allowed = self._allowed(seat)
        if allowed is None:
            return
        running = self.state.running[seat.id]
        ranking = self.state.ranking(seat.id, self.now, self._rank)
        for at in range(ranking.start, len(ranking.jobs)):
            job = ranking.jobs[at]
            there = running.get(job.request.uid) is job
            if there and allowed(job.request) and self._uses(job) and self._evictable(job, seat):
                yield job

    def _allowed(self, seat: Seat) -> Callable[[JobRequest], bool] | None:
        mine, created = self.request.priority, (self.request.create_time, self.request.uid)
        if seat is not self.seat:
            reclaim = self.seat.node.reclaim
            if reclaim is Reclaim.NEVER:
                return None
            return (lambda job: True) if reclaim is Reclaim.ANY else (lambda job: job.priority < mine)
        within = self.seat.node.within
        if within is Within.NEVER:
            return None
        if within is Within.LOWER:
            return lambda job: job.priority < mine
        return lambda job: (
            job.priority < mine or (job.priority == mine and (job.create_time, job.uid) > created)
        )

    def _uses(self, job: Admitted) -> bool:
        keys = self.keys
        return any(amount > 0 and key in keys for key, amount in job.request.options[job.option].usage)

    def _evictable(self, job: Admitted, seat: Seat) -> bool:
        if job.request.uid in self.protected:
            return False
        klass = self.classes.get(job.request.priority_class)
        if klass is not None and not klass.preemptible:
            return False
        since = self.spared_until(job)
        if since > self.now:
            self.until = since if not self.until else min(self.until, since)
            return False
        return True

    def spared_until(self, job: Admitted) -> int:
        """When it may be evicted at the latest; with a checkpoint it may be sooner."""
        # What its node says, which is what those above say where it does not.
        node = self.state.tree.seats[job.request.node].node
        ran, patience = job.admit_time + node.min_runtime, node.patience
        if not patience:
            return ran
        saved = job.checkpoint_time
        if saved is not None and job.admit_time < saved <= self.now <= saved + _FRESH:
            return ran
        return max(ran, _saved(job) + patience)

    def _rank(self, job: Admitted) -> tuple[int, int, int, str]:
        gpus = sum(a for (f, r), a in job.request.options[job.option].usage if r == "gpu" and f != "*")
        return (job.request.priority, gpus * max(0, self.now - _saved(job)), -job.admit_time, job.request.uid)

    def _evict(self, job: Admitted, why: Why) -> None:
        self.state.remove(job)
        self._found.append((job, why))

    def _fits(self, *, borrowing: bool = True) -> bool:
        if not borrowing and self.seat.borrows(self.option.usage):
            return False
        return self.state.fits(self.seat, self.request, self.option)

    def _fill_back(self, *, borrowing: bool) -> None:
        kept: Victims = self._found[-1:]
        for job, why in reversed(self._found[:-1]):
            self.state.add(job)
            if not self._fits(borrowing=borrowing):
                self.state.remove(job)
                kept.append((job, why))
        self._found = kept[::-1]

    # Fair shares

    def _fair(self, policy: Policy) -> int:
        """Evicts until it fits; 2 where it does, 0 where it never does. The job's own use is in the tree."""
        tree, usage = self.state.tree, self.option.usage
        tree.take(self.seat, usage)
        later: dict[str, list[Admitted] | None] = {}
        fits = self._hopeful() and any(self._now_fits() for _ in self._first(later))
        if not fits and later and policy.initial_share_rule:
            fits = any(self._now_fits() for _ in self._second(later))
        tree.give(self.seat, usage)
        return 2 if fits else 0

    def _hopeful(self) -> bool:
        """Whether anybody may have to give: it costs little to see that, in most searches, nobody has."""
        if self._own_may_give():
            return True
        if self._allowed(self.seat.root if self.seat.parent else self.seat) is None:
            return False
        mine: Seat = self.seat
        for above in list(self.seat.path())[1:]:
            if not mine.exceeds(self.keys):
                if any(child is not mine for key in self.keys for child in above.hot.get(key, {}).values()):
                    return True
            elif self.seat.node.borrowing is Borrowing.NEVER:
                pass
            elif any(mine.share() <= above.largest(mine, key) for key in self.keys):
                return True
            mine = above
        return False

    def _own_may_give(self) -> bool:
        within, mine = self.seat.node.within, self.request.priority
        lowest = min(self.state.levels[self.seat.id], default=mine)
        if within is Within.NEVER or lowest > mine:
            return False
        if within is Within.LOWER or lowest < mine:
            return lowest < mine
        allowed = self._allowed(self.seat)
        own = self.state.running[self.seat.id].values()
        return allowed is not None and any(allowed(job.request) for job in own)

    def _now_fits(self) -> bool:
        self.state.tree.give(self.seat, self.option.usage)
        fits = self._fits()
        self.state.tree.take(self.seat, self.option.usage)
        return fits

    def _first(self, later: dict[str, list[Admitted] | None]) -> Iterator[None]:
        """Reclaim, and rule S2-a: yields after each eviction. Whom it spares is left in `later`."""

        def may(seat: Seat) -> bool | None:
            mine, theirs = _sides(self.seat, seat)
            if seat is self.seat or not (mine or self.seat).exceeds(self.keys):
                return True
            if self.seat.node.borrowing is Borrowing.NEVER:
                return None
            if mine is not None and mine.share() <= theirs.share():
                return True
            # Rule a holds for nobody here; rule b may, once others have been taken from.
            later[seat.id] = None
            return None

        def passed_over(seats: Iterable[Seat]) -> None:
            if self.seat.node.borrowing is not Borrowing.NEVER:
                later.update(dict.fromkeys([seat.id for seat in seats]))

        tree, targets = self.state.tree, _Targets(self, may, {}, passed_over)
        while (seat := targets.next()) is not None:
            queue = targets.queue(seat)
            mine, theirs = _sides(self.seat, seat)
            if seat is self.seat or not (mine or self.seat).exceeds(self.keys):
                self._evict(queue.pop(), Why.WITHIN if seat is self.seat else Why.RECLAIM)
                yield
                continue
            assert mine is not None
            # What one of them uses was not enough to give; then it is not with others who use as much.
            vain: set[Amounts] = set()
            while queue:
                job = queue.pop()
                usage = job.request.options[job.option].usage
                if usage in vain:
                    self._spare(job, seat, later)
                    continue
                if mine.share() <= theirs.share_without(tree.seats[job.request.node], usage):
                    self._evict(job, Why.FAIR)
                    yield
                    break
                vain.add(usage)
                self._spare(job, seat, later)

    def _spare(self, job: Admitted, seat: Seat, later: dict[str, list[Admitted] | None]) -> None:
        spared = later.setdefault(seat.id, [])
        if spared is not None:
            spared.append(job)

    def _second(self, later: dict[str, list[Admitted] | None]) -> Iterator[None]:
        """Rule S2-b, at most once a node."""

        def may(seat: Seat) -> bool | None:
            if seat.id not in later:
                return False
            mine, theirs = _sides(self.seat, seat)
            return True if mine is not None and mine.share() < theirs.share() else None

        targets = _Targets(self, may, later, lambda seats: None)
        while (seat := targets.next()) is not None:
            self._evict(targets.queue(seat).pop(), Why.FAIR)
            yield
            targets.drop(seat)

    # Priorities

    def _by_priority(self) -> int:
        """Evicts until it fits: 1 without, 2 with borrowing; 0 where it never does."""
        near, far = self._reclaimable()
        own = list(self.candidates(self.seat))
        lender = self.seat.node.borrow_reclaim
        under = all(self._under(key) for key in self.keys)
        if not (near or far) or (lender is None and not under):
            ways = [True]
        elif lender is None and not near:
            ways = [False, True]
        else:
            ways = [True, False]
        for borrowing in ways:
            if self._evict_in_order(near, far, own, borrowing=borrowing):
                return 2 if borrowing else 1
            for job, _ in self._found:
                self.state.add(job)
            self._found = []
        return 0

    def _under(self, key: Key) -> bool:
        cell = self.seat.cell(key)
        return cell is None or cell.usage < cell.quota

    def _evict_in_order(
        self,
        near: list[tuple[Admitted, Seat]],
        far: list[tuple[Admitted, Seat]],
        own: list[Admitted],
        *,
        borrowing: bool,
    ) -> bool:
        seats = self.state.tree.seats
        for group, advantage in ((near, True), (far, False)):
            for job, top in group:
                why = Why.RECLAIM
                if not advantage and self._below_threshold(job):
                    why = Why.RECLAIM_BORROWING
                elif not advantage and borrowing:
                    continue
                if not all(s.exceeds(self.keys) for s in _until(seats[job.request.node], top)):
                    continue
                self._evict(job, why)
                if self._fits(borrowing=borrowing):
                    return True
        for job in own:
            self._evict(job, Why.WITHIN)
            if self._fits(borrowing=borrowing):
                return True
        return False

    def _below_threshold(self, job: Admitted) -> bool:
        threshold = self.seat.node.borrow_reclaim
        return (
            threshold is not None
            and job.request.priority < self.request.priority
            and (job.request.priority <= threshold)
        )

    def _reclaimable(self) -> tuple[list[tuple[Admitted, Seat]], list[tuple[Admitted, Seat]]]:
        """Jobs of nodes that borrow: those that the job is nearer to the quota than, and the others."""
        near: list[tuple[Admitted, Seat]] = []
        far: list[tuple[Admitted, Seat]] = []
        if self.seat.node.reclaim is Reclaim.NEVER:
            return near, far
        left = dict(self.option.usage)
        advantage, left = _fit_in(self.seat, left)
        came_from = self.seat
        for top in list(self.seat.path())[1:]:
            found = [(job, top) for seat in self._borrowing(top, came_from) for job in self.candidates(seat)]
            (near if advantage else far).extend(found)
            fits, left = _fit_in(top, left)
            advantage, came_from = advantage or fits, top
        near.sort(key=lambda pair: self._rank(pair[0]))
        far.sort(key=lambda pair: self._rank(pair[0]))
        return near, far

    def _borrowing(self, top: Seat, skip: Seat) -> Iterator[Seat]:
        for child in top.children:
            if child is not skip and child.exceeds(self.keys):
                yield child
                yield from self._borrowing(child, skip)


def _saved(job: Admitted) -> int:
    """Since when it would lose its work."""
    return job.admit_time if job.checkpoint_time is None else max(job.admit_time, job.checkpoint_time)


class _Waiting:
    """Candidates, the best first; true while there are any."""

    def __init__(self, jobs: Iterable[Admitted]) -> None:
        self._jobs = iter(jobs)
        self._next = next(self._jobs, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def pop(self) -> Admitted:
        """The best of those that are left."""
        job = self._next
        assert job is not None
        self._next = next(self._jobs, None)
        return job


class _Targets:
    """The nodes to take from, the largest share first, level by level.

    `may`: whether one is to be looked at; None: neither it nor any with a smaller share beside it, of which
    `passed_over` is told. `given`: what to take there; all candidates where it is not said.
    """

    def __init__(
        self,
        search: Search,
        may: Callable[[Seat], bool | None],
        given: dict[str, list[Admitted] | None],
        passed_over: Callable[[Iterable[Seat]], None],
    ) -> None:
        self._search, self._may, self._given, self._passed_over = search, may, given, passed_over
        self._path = set(search.seat.path())
        self._queues: dict[str, _Waiting] = {}
        self._done: set[str] = set()
        # By node: its children, the largest first, each with the share that it had when it was put there.
        self._heaps: dict[str, list[tuple[_Size, Seat]]] = {}

    def queue(self, seat: Seat) -> _Waiting:
        """What may be evicted there, the best first; for the caller to pop from."""
        if seat.id not in self._queues:
            given = self._given.get(seat.id)
            self._queues[seat.id] = _Waiting(self._search.candidates(seat) if given is None else given)
        return self._queues[seat.id]

    def drop(self, seat: Seat) -> None:
        """No more of this node."""
        self._done.add(seat.id)

    def next(self) -> Seat | None:
        """The node to take from now; None: there is none left."""
        root = self._search.seat.root
        return None if root.id in self._done else self._below(root)

    def _below(self, seat: Seat) -> Seat | None:
        """The target below a node; None: there is none left, and the node is done."""
        own = seat is self._search.seat or seat not in self._path
        heap = self._heaps.get(seat.id)
        if heap is None:
            heap = self._heaps[seat.id] = [(_largest_first(child), child) for child in self._open(seat)]
            heapq.heapify(heap)
        while heap:
            size, child = heap[0]
            # Shares only fall while others are evicted: who is the first with what it has now, is it.
            if child.id in self._done or not (child in self._path or child.exceeds(self._search.keys)):
                heapq.heappop(heap)
            elif (now := _largest_first(child)) != size:
                heapq.heapreplace(heap, (now, child))
            elif child.children or child in self._path:
                if (found := self._below(child)) is not None:
                    return found
            else:
                if (may := self._may(child)) and self.queue(child):
                    return child
                self._done.add(child.id)
                if may is None:
                    self._pass_over(heap)
        if own and self._may(seat) and self.queue(seat):
            return seat
        self._done.add(seat.id)
        return None

    def _pass_over(self, heap: list[tuple[_Size, Seat]]) -> None:
        left = [child for _, child in heap if child.id not in self._done]
        self._passed_over(one for one in left if not one.children and one not in self._path)
        heap[:] = [entry for entry in heap if entry[1].children or entry[1] in self._path]
        heapq.heapify(heap)

    def _open(self, seat: Seat) -> Iterator[Seat]:
        """Children that may hold targets: those over their quota in a key that is short, and the own side."""
        seen: set[str] = set()
        for key in self._search.keys:
            for child in seat.hot.get(key, {}).values():
                if child.id not in seen:
                    seen.add(child.id)
                    yield child
        for child in self._path:
            if child.parent is seat and child.id not in seen:
                yield child


def _largest_first(seat: Seat) -> _Size:
    return (-seat.share(), not seat.children, -seat.rank)


def _sides(one: Seat, other: Seat) -> tuple[Seat | None, Seat]:
    """The children of the lowest common node that hold each of them; None where it is that node itself."""
    mine: Seat | None = None
    left, right = one, other
    below = other
    while left is not right:
        if left.depth >= right.depth and left.depth > 0:
            mine, left = left, left.parent  # type: ignore[assignment]
        else:
            below, right = right, right.parent  # type: ignore[assignment]
    return mine, below


def _until(seat: Seat, top: Seat) -> Iterator[Seat]:
    """The seat and those above it that are below `top`."""
    for one in seat.path():
        if one is top:
            return
        yield one


def _fit_in(seat: Seat, usage: Mapping[Key, int]) -> tuple[bool, dict[Key, int]]:
    """Whether a node's own quota has room for it, and how much of it would be felt above."""
    fits, felt = True, {}
    for key, amount in usage.items():
        cell = seat.cell(key)
        if cell is None:
            continue
        if cell.usage + amount > cell.quota:
            fits = False
        felt[key] = max(0, amount - max(0, cell.local - cell.usage))
    return fits, felt
