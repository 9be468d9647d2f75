"""Console lines in ClickHouse: adding them, and reading on from a cursor.

A run's lines are numbered by arrival, from 1 and without holes, and a reader goes no further than the count
that PostgreSQL has. So a cursor is one number, nothing is missed or repeated however the ranks interleave,
and lines that were written just before a crash, but not committed, are not seen until they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

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
_READ = f"""
SELECT sequence, attempt, rank, stream, number, time, text FROM lines FINAL
WHERE team = {{team:String}} AND run = {{run:String}}
  AND sequence > {{after:Int64}} AND sequence <= {{last:Int64}}
  {_CHOSEN}
ORDER BY sequence
LIMIT {{most:UInt32}}
"""  # noqa: S608

_TAIL = f"""
SELECT min(sequence) FROM (
    SELECT sequence FROM lines FINAL
    WHERE team = {{team:String}} AND run = {{run:String}} AND sequence <= {{last:Int64}}
      {_CHOSEN}
    ORDER BY sequence DESC LIMIT {{most:UInt32}})
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
    columns = await store.query(_READ, {**_parameters(query), "after": after, "most": most})
    found = [StoredLine(*row) for row in zip(*columns, strict=True)]
    size = 0
    for place, line in enumerate(found):
        size += len(line.text.encode()) + 40
        if size > MOST_BYTES and place:
            return found[:place], found[place - 1].sequence
    # A short page has seen everything there is, also what the filters left out.
    return found, found[-1].sequence if len(found) == most else query.last


async def tail(store: ClickHouse, query: Query, count: int) -> int:
    """The cursor before the last `count` lines."""
    if query.last == 0:
        return 0
    columns = await store.query(_TAIL, {**_parameters(query), "most": count})
    first = int(columns[0][0]) if columns and columns[0] else 0
    return max(0, first - 1)


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
