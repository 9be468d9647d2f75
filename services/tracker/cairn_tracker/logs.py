"""Console lines in ClickHouse: adding them, and reading on from a cursor.

A run's lines are numbered by arrival, from 1 and without holes, and a reader goes no further than the count
that PostgreSQL has. So a cursor is one number, nothing is missed or repeated however the ranks interleave,
and lines that were written just before a crash, but not committed, are not seen until they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cairn_tracker import pattern
from cairn_tracker.batch import Line, RunKey
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.native import Labels, encode

# Of one answer, so that it stays under the 4 MB of a message.
MOST_BYTES: Final = 3_000_000

_CHOSEN = """
      AND ({attempt:Int32} = 0 OR attempt = {attempt:Int32})
      AND ({rank:Int32} < 0 OR rank = {rank:Int32})
      AND ({stream:String} = '' OR stream = {stream:String})
      AND time >= {since:Float64}
      AND ({grep:String} = '' OR match(text, {grep:String}))
"""

# FINAL: an insert that was tried twice leaves rows of the same number behind until they are merged.
_PAGE = """
SELECT sequence, attempt, rank, stream, number, time, text FROM lines FINAL
WHERE team = {team:String} AND run = {run:String}
  AND sequence > {after:Int64} AND sequence <= {end:Int64}
ORDER BY sequence
"""

# Lines that may be meant, found without FINAL, which reads all texts: the index spares most of them, and what
# has not the words goes no further. Of a line that was written twice it may be the one that counts no longer.
_CANDIDATES = """
SELECT {columns} FROM lines
PREWHERE team = {{team:String}} AND run = {{run:String}}
  AND sequence > {{after:Int64}} AND sequence <= {{last:Int64}}{words}
WHERE true {chosen}
ORDER BY sequence {order} LIMIT 1 BY sequence LIMIT {{most:UInt32}}
"""
_WHOLE = "sequence, attempt, rank, stream, number, time, text"

_REPEATED = """
SELECT sequence FROM lines
WHERE team = {team:String} AND run = {run:String} AND sequence IN {sequences:Array(Int64)}
GROUP BY sequence HAVING count() > 1 LIMIT 1
"""

_THESE = f"""
SELECT {_WHOLE} FROM lines FINAL
WHERE team = {{team:String}} AND run = {{run:String}} AND sequence IN {{sequences:Array(Int64)}}
  {_CHOSEN}
ORDER BY sequence
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Query:
    """Which lines of a run: attempt 0 and rank -1 are all of them."""

    team: str
    run: str
    # The run's count of lines: nothing after it is committed.
    last: int
    attempt: int = 0
    rank: int = -1
    # Empty: every stream.
    stream: str = ""
    # Seconds since 1970.
    since: float = 0.0
    # A regular expression to be found in the text; empty: any text.
    grep: str = ""

    @property
    def every(self) -> bool:
        """Whether no line is left out."""
        return not (self.attempt or self.rank >= 0 or self.stream or self.since or self.grep)


@dataclass(frozen=True, slots=True)
class StoredLine:
    """A line with its place in the run."""

    sequence: int
    attempt: int
    rank: int
    stream: str
    number: int
    time: float
    text: str


async def add(store: ClickHouse, lines: Sequence[Line], counts: Mapping[RunKey, int]) -> dict[RunKey, int]:
    """Writes lines after the `counts` that their runs have; returns the counts to commit."""
    after = dict(counts)
    sequences = []
    for line in lines:
        after[line.run] = after.get(line.run, 0) + 1
        sequences.append(after[line.run])
    if lines:
        await store.insert("lines", _block(lines, sequences))
    return {run: after[run] for run in {line.run for line in lines}}


async def read(store: ClickHouse, query: Query, *, after: int, most: int) -> tuple[list[StoredLine], int]:
    """The next lines after a cursor, and the cursor to go on from."""
    if after >= query.last:
        return [], after
    if query.every:
        end = min(query.last, after + most)
        columns = await store.query(_PAGE, {**_parameters(query), "after": after, "end": end})
    else:
        columns, end = await _chosen(store, query, after=after, most=most)
    found = [StoredLine(*row) for row in zip(*columns, strict=True)]
    size = 0
    for place, line in enumerate(found):
        size += len(line.text.encode()) + 40
        if size > MOST_BYTES and place:
            return found[:place], found[place - 1].sequence
    return found, end


async def tail(store: ClickHouse, query: Query, count: int) -> int:
    """The cursor before the last `count` lines."""
    if query.every:
        return max(0, query.last - count)
    columns = await _candidates(store, query, "sequence", after=0, most=count, order="DESC")
    return max(0, columns[0][-1] - 1) if columns else 0


async def _chosen(
    store: ClickHouse, query: Query, *, after: int, most: int
) -> tuple[Sequence[Sequence[Any]], int]:
    """The next lines that are chosen, by columns, and the cursor to go on from."""
    columns = await _candidates(store, query, _WHOLE, after=after, most=most)
    if not columns:
        return [], query.last
    sequences = list(columns[0])
    # Fewer than were asked for: these are all.
    end = sequences[-1] if len(sequences) == most else query.last
    these = {**_parameters(query), "sequences": sequences}
    if await store.query(_REPEATED, these):
        columns = await store.query(_THESE, these)
    return columns, end


async def _candidates(
    store: ClickHouse, query: Query, columns: str, *, after: int, most: int, order: str = "ASC"
) -> Sequence[Sequence[Any]]:
    """Lines that are chosen, or were before they were written again."""
    words = pattern.words(query.grep)
    needed = "".join(f" AND lower(text) LIKE {{word{place}:String}}" for place in range(len(words)))
    given = {f"word{place}": pattern.like(word) for place, word in enumerate(words)}
    return await store.query(
        _CANDIDATES.format(columns=columns, words=needed, chosen=_CHOSEN, order=order),
        {**_parameters(query), **given, "after": after, "most": most},
    )


def _parameters(query: Query) -> dict[str, object]:
    return {
        "team": query.team,
        "run": query.run,
        "last": query.last,
        "attempt": query.attempt,
        "rank": query.rank,
        "stream": query.stream,
        "since": query.since,
        "grep": query.grep,
    }


def _block(lines: Sequence[Line], sequences: Sequence[int]) -> bytes:
    return encode(
        {
            "team": _labels([line.run.team for line in lines]),
            "run": _labels([line.run.uid for line in lines]),
            "sequence": np.array(sequences, np.int64),
            "attempt": np.array([line.attempt for line in lines], np.int32),
            "rank": np.array([line.rank for line in lines], np.int32),
            "stream": _labels([line.stream for line in lines]),
            "number": np.array([line.number for line in lines], np.int64),
            "time": np.array([line.time for line in lines], np.float64),
            "text": [line.text for line in lines],
        }
    )


def _labels(texts: Sequence[str]) -> Labels:
    places: dict[str, int] = {}
    indexes = [places.setdefault(text, len(places)) for text in texts]
    return Labels(list(places), np.array(indexes, np.int64))
