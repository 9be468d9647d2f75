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
        self._fresh: list[tuple[Key, int, int]] = []

    def know(self, key: Key, ranges: Iterable[tuple[int, int]]) -> None:
        """Takes what was applied before."""
        for start, end in ranges:
            self._add(key, start, end)

    def claim(self, key: Key, start: int, end: int) -> bool:
        """Whether there is anything new in a range; if so, it is applied from here on.

        A range of no length has no identity, and is new each time.
        """
        if end <= start:
            return True
        if self._covers(key, start, end):
            return False
        self._add(key, start, end)
        self._fresh.append((key, start, end))
        return True

    def fresh(self) -> list[tuple[Key, int, int]]:
        """What was claimed, in that order."""
        return self._fresh

    def _covers(self, key: Key, start: int, end: int) -> bool:
        ranges = self._known.get(key, [])
        place = bisect_right(ranges, (start, end)) - 1
        # A range that begins at the same place and ends later sorts behind.
        return any(low <= start and end <= high for low, high in ranges[max(0, place) : place + 2])

    def _add(self, key: Key, start: int, end: int) -> None:
        merged: list[tuple[int, int]] = []
        for low, high in self._known.get(key, []):
            if high < start or end < low:
                merged.append((low, high))
            else:
                start, end = min(start, low), max(end, high)
        merged.append((start, end))
        self._known[key] = sorted(merged)
