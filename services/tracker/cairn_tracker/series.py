"""Metrics over steps, read from ClickHouse: step by step, or in buckets where there are many.

Long series are drawn from the kept buckets of 1,024 steps; only what is asked for more closely than that is
read from the points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker.buckets import BUCKET, WIDTH
from cairn_tracker.clickhouse import ClickHouse

MOST_SERIES: Final = 2_000
# Of all series of one answer together, so that it stays under the 4 MB of a message.
MOST_BUCKETS: Final = 60_000
# A series with more steps than these is never read point by point, however fine it is asked for.
_MOST_RAW: Final = 2_000_000

# One row a step. Sorting beats argMax over a tuple by five to one, for the table is nearly in this order;
# repeated rows of one insert that was tried twice fall away with the same stroke.
LATEST_FIRST: Final = "attempt DESC, time DESC, segment DESC, position DESC, cell DESC, writer DESC"
_RAW_ROWS = """
FROM points
WHERE team = {team:String} AND run IN {runs:Array(String)}
  AND (run, key) IN {pairs:Array(Tuple(String, String))}
  AND step >= {first:Int64} AND step < {end:Int64}
"""
STEPS: Final = f"""
SELECT run, key, step, time, value {_RAW_ROWS}
ORDER BY run, key, step, {LATEST_FIRST}
LIMIT 1 BY run, key, step
"""

# What there is, by whole buckets: so at the ends of a range there may be less.
_EXTENTS = """
SELECT run, key, sum(count), min(first_step), max(last_step) FROM rollups FINAL
WHERE team = {team:String} AND run IN {runs:Array(String)}
  AND if(empty({keys:Array(String)}), NOT startsWith(key, 'system/'), key IN {keys:Array(String)})
  AND bucket >= {low:Int64} AND bucket <= {high:Int64}
GROUP BY run, key ORDER BY run, key
LIMIT {most:UInt32}
"""

_EXACT_EXTENTS = f"SELECT run, key, uniqExact(step), min(step), max(step) {_RAW_ROWS} GROUP BY run, key"

# `lows` and `widths` go with `names`, pairs of run and key: where the first bucket begins, and its width.
_PLACE = """
intDiv({place} - {{lows:Array(Int64)}}[indexOf({{names:Array(String)}}, concat(run, '/', key)) AS i],
       {{widths:Array(Int64)}}[i])
"""

_FROM_POINTS = f"""
SELECT run, key, min(step) AS first, argMax(time, step), argMax(value, step),
    minOrNullIf(value, isFinite(value)), maxOrNullIf(value, isFinite(value)), count()
FROM ({STEPS})
GROUP BY run, key, {_PLACE.format(place="step")}
ORDER BY run, key, first
"""  # noqa: S608

# Of a range that begins or ends within a bucket that piece is read from the points.
_FROM_ROLLUPS = f"""
SELECT run, key, min(first_step) AS first, argMax(time, last_step), argMax(last, last_step),
    minOrNullIf(min, isFinite(min)), maxOrNullIf(max, isFinite(max)), sum(count)
FROM (
    SELECT run, key, bucket, first_step, last_step, time, last, min, max, count FROM rollups FINAL
    WHERE team = {{team:String}} AND run IN {{runs:Array(String)}}
      AND (run, key) IN {{pairs:Array(Tuple(String, String))}}
      AND bucket >= {{low:Int64}} AND bucket < {{high:Int64}}
    UNION ALL
    SELECT run, key, {BUCKET} AS bucket, min(step), max(step), argMax(time, step),
        argMax(value, step), ifNull(minOrNullIf(value, isFinite(value)), nan),
        ifNull(maxOrNullIf(value, isFinite(value)), nan), toInt64(count())
    FROM (SELECT run, key, step, time, value {_RAW_ROWS}
            AND (step < {{low:Int64}} * {WIDTH} OR step >= {{high:Int64}} * {WIDTH})
          ORDER BY run, key, step, {LATEST_FIRST} LIMIT 1 BY run, key, step)
    GROUP BY run, key, bucket)
GROUP BY run, key, {_PLACE.format(place="bucket")}
ORDER BY run, key, first
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one run in buckets. Parallel columns, ascending by step."""

    run: str
    key: str
    # Each bucket is one step.
    exact: bool
    steps: Sequence[int]
    # Of each bucket's last step; seconds since 1970.
    times: Sequence[float]
    last: Sequence[float]
    # Of the finite values; NaN where there are none.
    min: Sequence[float]
    max: Sequence[float]
    # Steps in the bucket.
    counts: Sequence[int]


@dataclass(frozen=True, slots=True)
class Extent:
    """How many steps a metric has, and between which."""

    run: str
    key: str
    steps: int
    low: int
    high: int


async def series(
    store: ClickHouse,
    team: str,
    *,
    runs: Sequence[str],
    keys: Sequence[str],
    max_buckets: int,
    first: int,
    end: int,
) -> list[Series]:
    """The metrics of runs (no keys: every one) from step `first` to before `end`, at most `max_buckets` each.

    Many series share `MOST_BUCKETS`. Raises InvalidArgument for more than `MOST_SERIES` series.
    """
    extents = await _extents(store, team, runs=runs, keys=keys, first=first, end=end)
    most = max(1, min(max_buckets, MOST_BUCKETS // max(1, len(extents))))
    rolled = [extent for extent in extents if is_rolled(extent, most)]
    close = [extent for extent in extents if not is_rolled(extent, most)]
    found = await _from_points(store, team, close, most, first=first, end=end)
    found += await _from_rollups(store, team, rolled, most, first=first, end=end)
    return sorted(found, key=lambda item: (item.run, item.key))


def is_rolled(extent: Extent, most: int) -> bool:
    """Whether a series is drawn from the kept buckets: it has more steps than were asked for even without its
    first and last bucket (which a range can cut), and a bucket asked for is about as wide as a kept one."""
    if extent.steps <= most + 2 * WIDTH:
        return False
    return extent.steps > _MOST_RAW or 2 * (extent.high - extent.low + 1) >= WIDTH * most


def width(extent: Extent, most: int) -> int:
    """Steps in a bucket, so that there are at most `most` of them; 1 where each step can have its own."""
    if extent.steps <= most:
        return 1
    return -(-(extent.high - extent.low + 1) // most)


async def _extents(
    store: ClickHouse, team: str, *, runs: Sequence[str], keys: Sequence[str], first: int, end: int
) -> list[Extent]:
    """What there is between two steps, kept buckets counted whole."""
    parameters = {
        "team": team,
        "runs": list(runs),
        "keys": list(keys),
        "low": first // WIDTH,
        "high": (end - 1) // WIDTH,
        "most": MOST_SERIES + 1,
    }
    columns = await store.query(_EXTENTS, parameters) if first < end else []
    extents = [Extent(*row) for row in zip(*columns, strict=True)]
    if len(extents) > MOST_SERIES:
        raise InvalidArgument(
            f"more than {MOST_SERIES:,} series: ask for fewer runs or name the keys",
            reason=Reason.FIELD_INVALID,
        )
    return extents


async def _from_points(
    store: ClickHouse, team: str, extents: Sequence[Extent], most: int, *, first: int, end: int
) -> list[Series]:
    wanted = {**_which(team, extents), "first": first, "end": end}
    if any(extent.low < first or extent.high >= end for extent in extents):
        columns = await store.query(_EXACT_EXTENTS, wanted)
        extents = [Extent(*row) for row in zip(*columns, strict=True)]
        wanted |= _which(team, extents)
    if not extents:
        return []
    places = {
        "names": [f"{extent.run}/{extent.key}" for extent in extents],
        "lows": [extent.low for extent in extents],
        "widths": [width(extent, most) for extent in extents],
    }
    exact = {(extent.run, extent.key): extent.steps <= most for extent in extents}
    return _series(await store.query(_FROM_POINTS, {**wanted, **places}), exact)


async def _from_rollups(
    store: ClickHouse, team: str, extents: Sequence[Extent], most: int, *, first: int, end: int
) -> list[Series]:
    if not extents:
        return []
    lows = [max(extent.low, first) // WIDTH for extent in extents]
    highs = [min(extent.high, end - 1) // WIDTH for extent in extents]
    parameters = {
        **_which(team, extents),
        "first": first,
        "end": end,
        # The buckets that lie in the range as a whole.
        "low": -(-first // WIDTH),
        "high": end // WIDTH,
        "names": [f"{extent.run}/{extent.key}" for extent in extents],
        "lows": lows,
        "widths": [-(-(high - low + 1) // most) for low, high in zip(lows, highs, strict=True)],
    }
    exact = {(extent.run, extent.key): False for extent in extents}
    return _series(await store.query(_FROM_ROLLUPS, parameters), exact)


def _which(team: str, extents: Sequence[Extent]) -> dict[str, Any]:
    return {
        "team": team,
        "runs": sorted({extent.run for extent in extents}),
        "pairs": [(extent.run, extent.key) for extent in extents],
    }


def _series(columns: Sequence[Sequence[Any]], exact: Mapping[tuple[str, str], bool]) -> list[Series]:
    if not columns:
        return []
    runs, keys, *rest = columns
    starts = [
        row
        for row in range(len(runs))
        if row == 0 or (runs[row], keys[row]) != (runs[row - 1], keys[row - 1])
    ]
    made = []
    for start, end in zip(starts, [*starts[1:], len(runs)], strict=True):
        steps, times, last, least, most, counts = (column[start:end] for column in rest)
        made.append(
            Series(
                run=runs[start],
                key=keys[start],
                exact=exact[runs[start], keys[start]],
                steps=steps,
                times=[time / 1e6 for time in times],
                last=last,
                min=_nan_for_none(least),
                max=_nan_for_none(most),
                counts=counts,
            )
        )
    return made


def _nan_for_none(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
