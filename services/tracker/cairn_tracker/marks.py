"""What was applied already, of each writer. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterable
from typing import Generic, NamedTuple, TypeVar

from cairn_tracker.batch import Event, Line


class SegmentKey(NamedTuple):
    """One segment of one writer's spool; ranges in it are bytes."""

    team: str
    run: str
    writer: str
    segment: int

    @classmethod
    def of(cls, event: Event) -> SegmentKey:
        return cls(*event.run, event.message.writer, event.message.segment)


class LineKey(NamedTuple):
    """One writer's lines of one rank in one attempt; ranges in it are line numbers."""

    team: str
    run: str
    attempt: int
    rank: int
    writer: str

    @classmethod
    def of(cls, line: Line) -> LineKey:
        return cls(*line.run, line.attempt, line.rank, line.writer)


Key = TypeVar("Key", bound=Hashable)


class Marks(Generic[Key]):
    """Half-open ranges by key: those that were applied before, and those that are new."""

    def __init__(self) -> None:
        self._known: dict[Key, list[tuple[int, int]]] = {}
        self._before: dict[Key, list[tuple[int, int]]] = {}
        self._fresh: dict[Key, list[tuple[int, int]]] = {}

    def know(self, key: Key, ranges: Iterable[tuple[int, int]]) -> None:
        """Takes what was applied before."""
        for start, end in ranges:
            self._add(key, start, end)
        self._before[key] = list(self._known.get(key, []))

    def claim(self, key: Key, start: int, end: int) -> bool:
        """Whether there is anything new in a range; if so, it is applied from here on.

        A range of no length has no identity, and is new each time.
        """
        if end <= start:
            return True
        if self._covers(key, start, end):
            return False
        self._add(key, start, end)
        fresh = self._fresh.setdefault(key, [])
        if fresh and fresh[-1][1] == start:
            fresh[-1] = (fresh[-1][0], end)
        else:
            fresh.append((start, end))
        return True

    def fresh(self) -> list[tuple[Key, int, int]]:
        """What was claimed: of a key in that order, what follows without a gap as one."""
        return [(key, start, end) for key, ranges in self._fresh.items() for start, end in ranges]

    def began_as(self, other: Marks[Key]) -> bool:
        """Whether of all keys that something was claimed of the same was known before as in `other`."""
        return all(self._before.get(key) == other._before.get(key) for key in self._fresh)

    def _covers(self, key: Key, start: int, end: int) -> bool:
        ranges = self._known.get(key)
        if not ranges or ranges[-1][1] <= start:
            return False
        place = bisect_right(ranges, (start, end)) - 1
        # A range that begins at the same place and ends later sorts behind.
        return any(low <= start and end <= high for low, high in ranges[max(0, place) : place + 2])

    def _add(self, key: Key, start: int, end: int) -> None:
        ranges = self._known.setdefault(key, [])
        if not ranges or ranges[-1][1] < start:
            ranges.append((start, end))
            return
        if ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], end)
            return
        merged: list[tuple[int, int]] = []
        for low, high in ranges:
            if high < start or end < low:
                merged.append((low, high))
            else:
                start, end = min(start, low), max(end, high)
        merged.append((start, end))
        self._known[key] = sorted(merged)
