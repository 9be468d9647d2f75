"""Metric points in ClickHouse: adding them, and reading them as series and summaries.

Every row that was ever logged is kept. Readers see one value a step: of the latest attempt that logged it,
and there the latest one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from cairn_common.errors import InvalidArgument, Reason
from cairn_tracker.batch import MetricKey, Points, RunKey
from cairn_tracker.clickhouse import ClickHouse
from cairn_tracker.model import Summary
from cairn_tracker.native import Labels, encode

# Rows in one block: beyond this a block costs memory and wins nothing.
_BLOCK_ROWS: Final = 500_000
MOST_SERIES: Final = 2_000
# Of all series of one answer together, so that it stays under the 4 MB of a message.
MOST_BUCKETS: Final = 60_000

# One row a step. Sorting beats argMax over a tuple by five to one, for the table is nearly in this order;
# repeated rows of one insert that was tried twice fall away with the same stroke.
LATEST_FIRST: Final = "attempt DESC, time DESC, segment DESC, position DESC, cell DESC, writer DESC"
_STEPS = f"""
SELECT run, key, step, time, value FROM points
WHERE team = {{team:String}} AND run IN {{runs:Array(String)}}
  AND (empty({{keys:Array(String)}}) OR key IN {{keys:Array(String)}})
  AND step >= {{first:Int64}} AND step < {{end:Int64}}
ORDER BY run, key, step, {LATEST_FIRST}
LIMIT 1 BY run, key, step
"""  # noqa: S608

_EXTENTS = """
SELECT run, key, uniqExact(step), min(step), max(step) FROM points
WHERE team = {team:String} AND run IN {runs:Array(String)}
  AND (empty({keys:Array(String)}) OR key IN {keys:Array(String)})
  AND step >= {first:Int64} AND step < {end:Int64}
GROUP BY run, key ORDER BY run, key
LIMIT {most:UInt32}
"""

# `lows` and `widths` go with `names`, pairs of run and key: where the first bucket begins, and its width.
_BUCKETS = f"""
SELECT run, key, min(step) AS first_step, argMax(time, step), argMax(value, step),
    minOrNullIf(value, isFinite(value)), maxOrNullIf(value, isFinite(value)), count()
FROM ({_STEPS})
GROUP BY run, key,
    intDiv(step - {{lows:Array(Int64)}}[indexOf({{names:Array(String)}}, concat(run, '/', key)) AS i],
           {{widths:Array(Int64)}}[i])
ORDER BY run, key, first_step
"""  # noqa: S608

_SUMMARIES = f"""
SELECT run, key, argMax(value, step), max(step), count(),
    minOrNullIf(value, isFinite(value)), argMinOrNullIf(step, value, isFinite(value)),
    maxOrNullIf(value, isFinite(value)), argMaxOrNullIf(step, value, isFinite(value))
FROM ({_STEPS})
GROUP BY run, key
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


async def add(store: ClickHouse, points: Points) -> None:
    """Writes points; on return they are on disk. The same points again change nothing that is read."""
    for start in range(0, len(points), _BLOCK_ROWS):
        await store.insert("points", _block(points, slice(start, start + _BLOCK_ROWS)))


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
    wanted = {"team": team, "runs": list(runs), "keys": list(keys), "first": first, "end": end}
    columns = await store.query(_EXTENTS, {**wanted, "most": MOST_SERIES + 1})
    extents = [Extent(*row) for row in zip(*columns, strict=True)]
    if len(extents) > MOST_SERIES:
        raise InvalidArgument(
            f"more than {MOST_SERIES:,} series: ask for fewer runs or name the keys",
            reason=Reason.FIELD_INVALID,
        )
    if not extents:
        return []
    most = max(1, min(max_buckets, MOST_BUCKETS // len(extents)))
    parameters = {
        **wanted,
        "names": [f"{extent.run}/{extent.key}" for extent in extents],
        "lows": [extent.low for extent in extents],
        "widths": [width(extent, most) for extent in extents],
    }
    exact = {(extent.run, extent.key): extent.steps <= most for extent in extents}
    return _series(await store.query(_BUCKETS, parameters), exact)


def width(extent: Extent, most: int) -> int:
    """Steps in a bucket, so that there are at most `most` of them; 1 where each step can have its own."""
    if extent.steps <= most:
        return 1
    return -(-(extent.high - extent.low + 1) // most)


async def summaries(store: ClickHouse, run: RunKey, keys: Collection[str]) -> dict[MetricKey, Summary]:
    """What metrics of a run come to, worked out from all of their points.

    Raises InvalidArgument where they are too many to look at within a few seconds.
    """
    columns = await store.query_briefly(
        _SUMMARIES,
        {"team": run.team, "runs": [run.uid], "keys": sorted(keys), "first": 0, "end": 2**63 - 1},
    )
    return {
        MetricKey(run.team, uid, key): Summary(
            last=last,
            last_step=last_step,
            count=count,
            min=least,
            min_step=least_at or 0,
            max=most,
            max_step=most_at or 0,
        )
        for uid, key, last, last_step, count, least, least_at, most, most_at in zip(*columns, strict=True)
    }


def _series(columns: Sequence[Sequence[Any]], exact: dict[tuple[str, str], bool]) -> list[Series]:
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


def _block(points: Points, rows: slice) -> bytes:
    metric = points.metric[rows]
    teams, team_of = _distinct([metric.team for metric in points.metrics])
    runs, run_of = _distinct([metric.run for metric in points.metrics])
    keys, key_of = _distinct([metric.key for metric in points.metrics])
    return encode(
        {
            "team": Labels(teams, team_of[metric]),
            "run": Labels(runs, run_of[metric]),
            "key": Labels(keys, key_of[metric]),
            "step": points.step[rows],
            "attempt": points.attempt[rows].astype(np.int32),
            "writer": Labels(points.writers, points.writer[rows]),
            "segment": points.segment[rows],
            "position": points.position[rows],
            "cell": points.cell[rows].astype(np.uint32),
            "time": points.time[rows],
            "value": points.value[rows],
        }
    )


def _distinct(texts: Sequence[str]) -> tuple[list[str], Any]:
    """The different texts, and for each of `texts` its place among them."""
    places: dict[str, int] = {}
    indexes = [places.setdefault(text, len(places)) for text in texts]
    return list(places), np.array(indexes, np.int64)
