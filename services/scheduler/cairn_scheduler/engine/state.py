"""What is held while a plan is made: the quota tree and the machines together, with all changes undone after.

There are two of these. In the **promised** one victims are gone already and those who get their places have
them; everything is decided there. In the **actual** one victims hold what they have until they are gone; who
fits in the promised one alone is promised a place and starts later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from cairn_scheduler.engine.fit import Placement, Room
from cairn_scheduler.engine.quota import Seat, Tree
from cairn_scheduler.engine.world import Admitted, Flavor, JobRequest, Key, Node, Option, Pool, PoolKind


class Ranking:
    """The jobs of a node in the order in which they would be evicted, each as it was when it was put there.

    Who is gone stays in `jobs` (put back it is at its place again); `start` is behind those that went first.
    """

    __slots__ = ("jobs", "known", "start")

    def __init__(self, jobs: Iterable[Admitted], rank: Callable[[Admitted], tuple[object, ...]]) -> None:
        self.jobs = sorted(jobs, key=rank)
        self.known = {job.request.uid: job for job in self.jobs}
        self.start = 0

    def skip(self, running: Mapping[str, Admitted]) -> None:
        """Passes over those in front that are gone for good."""
        while self.start < len(self.jobs):
            job = self.jobs[self.start]
            if running.get(job.request.uid) is job:
                break
            self.start += 1


class State:
    """See the module. `running`: by node id, the jobs charged to it; `levels`: how many of each priority."""

    __slots__ = ("_ranked", "_ranked_at", "flavors", "levels", "rooms", "running", "tree")

    def __init__(self, nodes: Iterable[Node], flavors: Iterable[Flavor], pools: Iterable[Pool]) -> None:
        self.tree = Tree(nodes)
        self.flavors = {flavor.name: flavor for flavor in flavors}
        self.rooms = {pool.name: Room(pool) for pool in pools if pool.kind is PoolKind.FIXED}
        self.running: dict[str, dict[str, Admitted]] = {name: {} for name in self.tree.seats}
        self.levels: dict[str, dict[int, int]] = {name: {} for name in self.tree.seats}
        self._ranked: dict[str, Ranking] = {}
        self._ranked_at = 0

    def ranking(self, node: str, now: int, rank: Callable[[Admitted], tuple[object, ...]]) -> Ranking:
        """The jobs of a node by `rank`, which is the same for all that ask at one time."""
        if self._ranked_at != now:
            self._ranked.clear()
            self._ranked_at = now
        found = self._ranked.get(node)
        if found is None:
            found = self._ranked[node] = Ranking(self.running[node].values(), rank)
        return found

    def swap(self, job: Admitted) -> None:
        """The same place, of a job that came further."""
        self.running[job.request.node][job.request.uid] = job
        self._ranked.pop(job.request.node, None)

    def pool(self, option: Option) -> str:
        """Where an option runs; empty: that is not looked at."""
        flavor = self.flavors.get(option.flavor)
        return "" if flavor is None else flavor.pool

    def room(self, option: Option) -> Room | None:
        """The machines that an option uses; None where they are not looked at."""
        flavor = self.flavors.get(option.flavor)
        return None if flavor is None else self.rooms.get(flavor.pool)

    def add(self, job: Admitted) -> None:
        """A job holds what it has."""
        request = job.request
        option = request.options[job.option]
        self.tree.take(self.tree.seats[request.node], option.usage)
        self.running[request.node][request.uid] = job
        levels = self.levels[request.node]
        levels[request.priority] = levels.get(request.priority, 0) + 1
        ranked = self._ranked.get(request.node)
        if ranked is not None and ranked.known.get(request.uid) is not job:
            del self._ranked[request.node]
        if not self.tree.quiet:
            self.note(request.node)
        room = self.room(option)
        if room is not None and job.machines:
            room.take(job.machines, request.per_rank)
            room.move += not self.tree.quiet

    def remove(self, job: Admitted) -> None:
        """A job holds nothing any more."""
        request = job.request
        option = request.options[job.option]
        self.tree.give(self.tree.seats[request.node], option.usage)
        del self.running[request.node][request.uid]
        levels = self.levels[request.node]
        levels[request.priority] -= 1
        if not levels[request.priority]:
            del levels[request.priority]
        if not self.tree.quiet:
            self.note(request.node)
            if request.node in self._ranked:
                self._ranked[request.node].skip(self.running[request.node])
        room = self.room(option)
        if room is not None and job.machines:
            room.give(job.machines, request.per_rank)
            room.gen += not self.tree.quiet
            room.move += not self.tree.quiet

    def undo(self, job: Admitted, *, added: bool) -> None:
        """Takes an `add` or a `remove` back, which frees nothing that was not free before it."""
        with self.tentative():
            if added:
                self.remove(job)
            else:
                self.add(job)
        self.note(job.request.node)
        self._ranked.pop(job.request.node, None)

    def note(self, node: str) -> None:
        """What was remembered of the shares of a node and those above it is not true any more."""
        for seat in self.tree.seats[node].path():
            seat.version += 1

    @contextmanager
    def tentative(self) -> Iterator[None]:
        """What is changed inside is changed back by the caller, and is nobody's news."""
        before, self.tree.quiet = self.tree.quiet, True
        try:
            yield
        finally:
            self.tree.quiet = before

    def within(self, seat: Seat, option: Option) -> bool:
        """Whether the quota has room for it."""
        for key, amount in option.usage:
            cell = seat.cell(key)
            if cell is not None and amount > 0 and cell.available() < amount:
                return False
        return True

    def short(self, seat: Seat, request: JobRequest, option: Option) -> list[Key]:
        """The keys of which too little is there; all of its flavor's where machines are what is lacking."""
        short: list[Key] = []
        for key, amount in option.usage:
            cell = seat.cell(key)
            if cell is not None and amount > 0 and cell.available() < amount:
                short.append(key)
        room = self.room(option)
        if room is not None and room.free_ranks(request.per_rank, request.ranks) < request.ranks:
            amounts = dict(request.per_rank)
            for key, _ in option.usage:
                if key[0] == option.flavor and amounts.get(key[1]) and key not in short:
                    short.append(key)
        return short

    def place(self, request: JobRequest, option: Option) -> Placement | None:
        """Machines for it, `()` where they are not looked at; None where they do not suffice."""
        room = self.room(option)
        return () if room is None else room.place(request.ranks, request.per_rank)

    def fits(self, seat: Seat, request: JobRequest, option: Option) -> bool:
        """Quota and machines."""
        if not self.within(seat, option):
            return False
        room = self.room(option)
        return room is None or room.free_ranks(request.per_rank, request.ranks) >= request.ranks
