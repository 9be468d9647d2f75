"""Metrics over steps, read from ClickHouse: step by step, or in buckets where there are many.

Long series are drawn from the kept buckets of 1,024 steps; only what is asked for more closely than that is
read from the points. What is read is cut into the buckets asked for here, in whole columns: a short question
costs the engine a third of one that groups. What is too much to be brought here is worked out where it lies
(`series_in_store`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker import drawing, series_in_store
from cairn_tracker.buckets import WIDTH
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.drawing import Extent, Name, Rows, Series
from cairn_tracker.series_in_store import SHOWN

MOST_SERIES: Final = 2_000
# Of all series of one answer together, so that it stays under the 4 MB of a message.
MOST_BUCKETS: Final = 60_000
# A series with more steps than these is never read point by point, however fine it is asked for.
_MOST_RAW: Final = 2_000_000
# Rows of one question that are brought here: beyond that the engine groups them.
MOST_ROWS: Final = 250_000
# A range of at most so many steps is read from the points without a look at the buckets.
_CLOSE: Final = 2 * WIDTH

_BUCKETS = """
SELECT run, key, first_step, last_step, time, last, min, max, count FROM rollups FINAL
WHERE team = {{team:String}} AND run IN {{runs:Array(String)}} AND {of_keys}
  AND bucket >= {{low:Int64}} AND bucket <= {{high:Int64}}
LIMIT {{most:UInt32}}
"""
_POINTS = """
SELECT run, key, step, time, value FROM points
WHERE team = {{team:String}} AND run IN {{runs:Array(String)}} AND {of_keys}
  AND step >= {{first:Int64}} AND step < {{end:Int64}}
LIMIT {{most:UInt32}}
"""
_THESE_KEYS = "key IN {keys:Array(String)}"
_ALL_KEYS = "NOT startsWith(key, 'system/')"
_PAIRS = "(run, key) IN {pairs:Array(Tuple(String, String))}"


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which metrics (no keys: all of what the program measured) between which steps."""

    team: str
    runs: Sequence[str]
    keys: Sequence[str]
    first: int
    end: int
    # That are brought here.
    most_rows: int

    @property
    def of_keys(self) -> str:
        return _THESE_KEYS if self.keys else _ALL_KEYS

    def parameters(self) -> dict[str, Any]:
        return {
            "team": self.team, "runs": list(self.runs), "keys": list(self.keys),
            "first": self.first, "end": self.end, "low": self.first // WIDTH, "high": (self.end - 1) // WIDTH,
            "most": self.most_rows + 1,
        }  # fmt: skip


async def series(
    store: ClickHouse,
    team: str,
    *,
    runs: Sequence[str],
    keys: Sequence[str],
    max_buckets: int,
    first: int,
    end: int,
    most_rows: int = MOST_ROWS,
) -> list[Series]:
    """The metrics of runs (no keys: every one) from step `first` to before `end`, at most `max_buckets` each.

    By run and key. Many series share `MOST_BUCKETS`; what takes more than `most_rows` is worked out by the
    engine. Raises InvalidArgument for more than `MOST_SERIES`.
    """
    if first >= end:
        return []
    asked = _Asked(team, runs, keys, first, end, most_rows)
    if end - first <= _CLOSE:
        shown = await _shown(store, asked)
        if shown is not None:
            return drawing.by_step(shown, _most(max_buckets, len(shown.names)))
    columns = await store.columns(_BUCKETS.format(of_keys=asked.of_keys), asked.parameters())
    kept = drawing.buckets(columns)
    if len(kept) > most_rows:
        extents = await series_in_store.extents(
            store, team, runs=runs, keys=keys, first=first, end=end, most=MOST_SERIES + 1
        )
    else:
        extents = drawing.extents(kept)
    most = _most(max_buckets, len(extents))
    rolled = [extent for extent in extents if is_rolled(extent, most)]
    close = [extent for extent in extents if not is_rolled(extent, most)]
    found = await _from_points(store, asked, close, most)
    if len(kept) > most_rows:
        found += await series_in_store.from_rollups(store, team, rolled, most, first=first, end=end)
    else:
        found += await _from_buckets(store, asked, kept, rolled, most)
    return sorted(found, key=lambda item: (item.run, item.key))


def is_rolled(extent: Extent, most: int) -> bool:
    """Whether a series is drawn from the kept buckets: it has more steps than were asked for even without its
    first and last bucket (which a range can cut), and a bucket asked for is about as wide as a kept one."""
    if extent.steps <= most + 2 * WIDTH:
        return False
    return extent.steps > _MOST_RAW or 2 * (extent.high - extent.low + 1) >= WIDTH * most


def _most(max_buckets: int, count: int) -> int:
    """Buckets that each of so many series may have."""
    if count > MOST_SERIES:
        raise InvalidArgument(
            f"more than {MOST_SERIES:,} series: ask for fewer runs or name the keys",
            reason=Reason.FIELD_INVALID,
        )
    return max(1, min(max_buckets, MOST_BUCKETS // max(1, count)))


async def _from_points(
    store: ClickHouse, asked: _Asked, extents: Sequence[Extent], most: int
) -> list[Series]:
    if not extents:
        return []
    if sum(extent.steps for extent in extents) <= asked.most_rows:
        shown = await _shown(store, asked, _names(extents))
        if shown is not None:
            return drawing.by_step(shown, most)
    return await series_in_store.from_points(
        store, asked.team, extents, most, first=asked.first, end=asked.end
    )


async def _from_buckets(
    store: ClickHouse, asked: _Asked, kept: Rows, extents: Sequence[Extent], most: int
) -> list[Series]:
    if not extents:
        return []
    names = _names(extents)
    # The buckets that lie in the range as a whole; of the others that piece is read from the points.
    low, high = -(-asked.first // WIDTH), asked.end // WIDTH
    number = kept.first_step // WIDTH
    rows = kept.only((number >= low) & (number < high)).of(names)
    last = max(extent.high for extent in extents)
    pieces = [(asked.first, low * WIDTH), (max(asked.first, high * WIDTH), min(asked.end, last + 1))]
    for first, end in pieces:
        if first < end:
            cut = replace(asked, first=first, end=end)
            points = await _shown(store, cut, names)
            if points is None:
                return await series_in_store.from_rollups(
                    store, asked.team, extents, most, first=asked.first, end=asked.end
                )
            rows = drawing.together(rows, points)
    return drawing.by_bucket(rows, most)


async def _shown(store: ClickHouse, asked: _Asked, names: Sequence[Name] = ()) -> Rows | None:
    """The points that show, of these metrics only if there are any; None where they are too many rows."""
    of_keys, parameters = asked.of_keys, asked.parameters()
    if names:
        runs, keys = {run for run, _ in names}, {key for _, key in names}
        parameters |= {"runs": sorted(runs), "keys": sorted(keys)}
        of_keys = _THESE_KEYS
        if len(runs) * len(keys) != len(names):
            parameters["pairs"] = list(names)
            of_keys = f"{_THESE_KEYS} AND {_PAIRS}"
    rows = drawing.points(await store.columns(_POINTS.format(of_keys=of_keys), parameters))
    if len(rows) > asked.most_rows:
        return None
    if drawing.repeats(rows):
        rows = drawing.points(await store.columns(SHOWN.format(of_keys=of_keys), parameters))
    return rows


def _names(extents: Collection[Extent]) -> list[Name]:
    return [(extent.run, extent.key) for extent in extents]
