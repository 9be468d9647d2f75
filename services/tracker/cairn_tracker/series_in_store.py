"""Series that are too many rows to be brought here: cut into buckets by ClickHouse, where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from cairn_tracker.batch import Floats
from cairn_tracker.buckets import BUCKET, WIDTH
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.drawing import Extent, Series, width

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

# As `STEPS`, of what is asked for otherwise.
SHOWN: Final = f"""
SELECT run, key, step, time, value FROM points
WHERE team = {{{{team:String}}}} AND run IN {{{{runs:Array(String)}}}} AND {{of_keys}}
  AND step >= {{{{first:Int64}}}} AND step < {{{{end:Int64}}}}
ORDER BY run, key, step, {LATEST_FIRST}
LIMIT 1 BY run, key, step
"""  # noqa: S608

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


# Of few steps, as a rule: only of those is looked up which value shows.
_UNBOUNDED = f"""
SELECT run, key, countIf(NOT isFinite(value))
FROM (SELECT run, key, step, value {_RAW_ROWS}
        AND (run, key, step) IN (SELECT run, key, step {_RAW_ROWS} AND NOT isFinite(value))
      ORDER BY run, key, step, {LATEST_FIRST} LIMIT 1 BY run, key, step)
GROUP BY run, key
"""  # noqa: S608


async def unbounded(
    store: ClickHouse, team: str, names: Sequence[tuple[str, str]], *, first: int, end: int
) -> dict[tuple[str, str], int]:
    """How many steps show NaN or an infinity, by run and key; what has none is left out."""
    if not names:
        return {}
    asked = {"team": team, "runs": sorted({run for run, _ in names}), "pairs": list(names)}
    columns = await store.query(_UNBOUNDED, {**asked, "first": first, "end": end})
    return {(run, key): int(count) for run, key, count in zip(*columns, strict=True) if count}


async def extents(
    store: ClickHouse, team: str, *, runs: Sequence[str], keys: Sequence[str], first: int, end: int, most: int
) -> list[Extent]:
    """What there is between two steps, kept buckets counted whole; of `most` series at most."""
    parameters = {
        "team": team,
        "runs": list(runs),
        "keys": list(keys),
        "low": first // WIDTH,
        "high": (end - 1) // WIDTH,
        "most": most,
    }
    columns = await store.query(_EXTENTS, parameters)
    return [Extent(*row) for row in zip(*columns, strict=True)]


async def from_points(
    store: ClickHouse, team: str, extents: Sequence[Extent], most: int, *, first: int, end: int
) -> list[Series]:
    """Series in at most `most` buckets, from the points."""
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


async def from_rollups(
    store: ClickHouse, team: str, extents: Sequence[Extent], most: int, *, first: int, end: int
) -> list[Series]:
    """Series in at most `most` buckets of whole kept ones."""
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
                steps=np.array(steps, np.int64),
                times=np.array(times, np.int64) / 1e6,
                last=np.array(last, np.float64),
                min=_nan_for_none(least),
                max=_nan_for_none(most),
                counts=np.array(counts, np.int64),
            )
        )
    return made


def _nan_for_none(values: Sequence[float | None]) -> Floats:
    return np.array(values, np.float64)
