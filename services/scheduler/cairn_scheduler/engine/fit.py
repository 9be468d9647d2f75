"""Machines: whether a gang fits on what is free in a fixed pool, and where.

All ranks of a gang are alike, so it fits if the machines together have room for as many ranks; that is exact.
Machines that are left the fullest come first, so that whole machines stay free for those who need them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from heapq import nsmallest

from cairn_scheduler.engine.world import Machine, Pool

Placement = tuple[tuple[str, int], ...]
Need = tuple[tuple[str, int], ...]


class Room:
    """What is free on the machines of one pool while a plan is made."""

    __slots__ = ("_alike", "_capacity", "_free", "_resources", "gen", "move", "name")

    def __init__(self, pool: Pool) -> None:
        self.name = pool.name
        # How often something was freed here, and how often anything changed.
        self.gen = self.move = 0
        self._resources: tuple[str, ...] = tuple(sorted({r for m in pool.machines for r in m.capacity}))
        self._free: dict[str, tuple[int, ...]] = {}
        self._capacity: dict[tuple[int, ...], int] = {}
        # Machines by what they have free: few groups, however many machines.
        self._alike: dict[tuple[int, ...], dict[str, None]] = {}
        for name, capacity in _each(pool.machines):
            free = tuple(capacity.get(resource, 0) for resource in self._resources)
            self._free[name] = free
            self._capacity[free] = self._capacity.get(free, 0) + 1
            self._alike.setdefault(free, {})[name] = None

    def copy(self) -> Room:
        """One that changes by itself."""
        other = object.__new__(Room)
        other.name, other._resources, other._capacity = self.name, self._resources, self._capacity
        other.gen, other.move = self.gen, self.move
        other._free = dict(self._free)
        other._alike = {free: dict(names) for free, names in self._alike.items()}
        return other

    def meet(self, others: Iterable[Room]) -> Room:
        """One in which only that is free which is free in all of them; all are of the same pool."""
        both = self.copy()
        both._alike = {}
        for name, free in both._free.items():
            for other in others:
                free = tuple(map(min, free, other._free[name]))
            both._free[name] = free
            both._alike.setdefault(free, {})[name] = None
        return both

    def holds(self, placement: Placement, need: Need) -> bool:
        """Whether just these machines have room for it."""
        vector = self._vector(need)
        return vector is not None and all(
            name in self._free and _ranks(self._free[name], vector, ranks) >= ranks
            for name, ranks in placement
        )

    def place(self, ranks: int, need: Need) -> Placement | None:
        """Where the ranks would go, or None where not all of them fit."""
        vector = self._vector(need)
        if vector is None:
            return None
        groups = []
        for free, names in self._alike.items():
            most = _ranks(free, vector, ranks)
            if most:
                left = tuple(f - v * most for f, v in zip(free, vector, strict=True))
                groups.append((left, free, most, names))
        placed: list[tuple[str, int]] = []
        groups.sort(key=lambda group: (group[0], group[1]))
        for _, _, most, names in groups:
            for name in nsmallest(-(-ranks // most), names):
                here = min(most, ranks)
                placed.append((name, here))
                ranks -= here
                if not ranks:
                    return tuple(sorted(placed))
        return None

    def free_ranks(self, need: Need, most: int) -> int:
        """How many ranks fit now, counted up to `most`."""
        vector = self._vector(need)
        if vector is None:
            return 0
        return min(most, sum(_ranks(f, vector, most) * len(names) for f, names in self._alike.items()))

    def possible_ranks(self, need: Need, most: int) -> int:
        """How many would fit if nothing ran."""
        vector = self._vector(need)
        if vector is None:
            return 0
        return min(most, sum(_ranks(f, vector, most) * count for f, count in self._capacity.items()))

    def free(self, resource: str) -> int:
        """The sum of what is free on all machines."""
        if resource not in self._resources:
            return 0
        at = self._resources.index(resource)
        return sum(free[at] * len(names) for free, names in self._alike.items())

    def has(self, resource: str) -> bool:
        """Whether any machine names it; else it is not looked at."""
        return resource in self._resources

    def take(self, placement: Placement, need: Need) -> None:
        """Uses machines; unknown ones (gone since) are left out."""
        self._change(placement, need, -1)

    def give(self, placement: Placement, need: Need) -> None:
        """Frees machines."""
        self._change(placement, need, 1)

    def _change(self, placement: Placement, need: Need, sign: int) -> None:
        amounts = dict(need)
        vector = tuple(sign * amounts.get(resource, 0) for resource in self._resources)
        for name, ranks in placement:
            free = self._free.get(name)
            if free is None:
                continue
            names = self._alike[free]
            del names[name]
            if not names:
                del self._alike[free]
            free = tuple(f + v * ranks for f, v in zip(free, vector, strict=True))
            self._free[name] = free
            self._alike.setdefault(free, {})[name] = None

    def _vector(self, need: Need) -> tuple[int, ...] | None:
        """What a rank needs, in the order of our resources; None where we have no such resource at all."""
        amounts = dict(need)
        if any(amount and resource not in self._resources for resource, amount in need if resource == "gpu"):
            return None
        return tuple(amounts.get(resource, 0) for resource in self._resources)


def _each(machines: Iterable[Machine]) -> Iterable[tuple[str, Mapping[str, int]]]:
    for machine in sorted(machines, key=lambda machine: machine.name):
        if machine.count == 1:
            yield machine.name, machine.capacity
            continue
        for number in range(machine.count):
            yield f"{machine.name}-{number:04}", machine.capacity


def _ranks(free: tuple[int, ...], need: tuple[int, ...], most: int) -> int:
    """How many ranks one machine holds, at most `most`."""
    for f, n in zip(free, need, strict=True):
        if n > 0:
            if f < n:
                return 0
            most = min(most, f // n)
    return most
